//! Waiting for a commit.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// What came of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Data and records are on stable storage.
    Durable,
    /// A store could not take the data; nothing was recorded.
    NoStore(String),
    /// The journal has failed, and says so on stable storage: none of its snapshots will come back.
    NoJournal(String),
}

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    wakers: Vec<Waker>,
    then: Vec<Box<dyn FnOnce(Outcome) + Send>>,
}

/// A commit that was asked for. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Ticket(Arc<(Mutex<State>, Condvar)>);

impl Ticket {
    /// One whose outcome is known.
    pub(crate) fn told(outcome: Outcome) -> Self {
        let this = Self::default();
        this.tell(outcome);
        this
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, outcome: Outcome) {
        let mut state = self.lock();
        let outcome = state.outcome.get_or_insert(outcome).clone();
        let wakers = std::mem::take(&mut state.wakers);
        let then = std::mem::take(&mut state.then);
        drop(state);
        then.into_iter().for_each(|then| then(outcome.clone()));
        self.0.1.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Calls that when it is known what came of it, on the journal's thread, or now.
    pub(crate) fn then(&self, then: impl FnOnce(Outcome) + Send + 'static) {
        let mut state = self.lock();
        match state.outcome.clone() {
            None => state.then.push(Box::new(then)),
            Some(outcome) => {
                drop(state);
                then(outcome);
            }
        }
    }

    /// What came of it, if that is known.
    #[cfg(test)]
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.lock().outcome.clone()
    }

    /// Waits, for as long as it takes.
    pub(crate) async fn done(&self) -> Outcome {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if let Some(outcome) = &state.outcome {
                return Poll::Ready(outcome.clone());
            }
            if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Waits on a thread that may; `None` when it takes longer.
    pub(crate) fn wait(&self, limit: Duration) -> Option<Outcome> {
        let state = self.lock();
        let waited = self.0.1.wait_timeout_while(state, limit, |state| state.outcome.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.outcome.clone()
    }
}
