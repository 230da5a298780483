//! One flush at a time.
//!
//! The kernel tells of a failed write-back once per open file: of two flushes at the same time one would be told, and
//! the other would acknowledge what is lost (I7). So only one is made at a time, and all who came before it began share
//! what came of it. After a failure none succeeds any more: the kernel may have dropped what it could not write, and
//! would call the next flush good.

use std::future::{Future, poll_fn};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// The flushes of one file.
#[derive(Debug, Default)]
pub(super) struct Flusher {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Flushes that have begun, and how many of them have ended.
    begun: u64,
    ended: u64,
    running: bool,
    failed: bool,
    waiting: Vec<Waker>,
}

/// What a caller is to do.
enum Part {
    /// A flush that began after the call has ended well, or none can end well.
    Over(bool),
    /// To make the flush of this number.
    Make(u64),
}

/// The right to make a flush; given back however its future ends.
struct Turn<'a> {
    flusher: &'a Flusher,
    number: u64,
    good: Option<bool>,
}

impl Flusher {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing can be promised any more.
    pub(super) fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// Nothing can be promised from now on.
    pub(super) fn fail(&self) {
        self.state().failed = true;
    }

    /// Sees to it that a flush which began after this call has ended; whether it was good. `sync` makes one.
    pub(super) async fn flush<F: Future<Output = bool>>(&self, sync: impl FnOnce() -> F) -> bool {
        let wanted = self.state().begun + 1;
        let number = match poll_fn(|cx| self.poll_part(wanted, cx.waker())).await {
            Part::Over(good) => return good,
            Part::Make(number) => number,
        };
        let mut turn = Turn { flusher: self, number, good: None };
        turn.good = Some(sync().await);
        drop(turn);
        !self.has_failed()
    }

    fn poll_part(&self, wanted: u64, waker: &Waker) -> Poll<Part> {
        let mut state = self.state();
        if state.failed || state.ended >= wanted {
            return Poll::Ready(Part::Over(!state.failed));
        }
        if !state.running {
            state.running = true;
            state.begun += 1;
            return Poll::Ready(Part::Make(state.begun));
        }
        if !state.waiting.iter().any(|other| other.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        Poll::Pending
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.flusher.state();
        state.running = false;
        match self.good {
            Some(true) => state.ended = self.number,
            Some(false) => state.failed = true,
            // Given up in the midst: what came of it is not known, and counts for nobody.
            None => {}
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
