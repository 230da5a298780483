//! Waiting with a bound, on and off queue threads.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How long a thread without a queue sleeps between two looks.
const NAP: Duration = Duration::from_micros(100);

/// Until when a request may be held, however many things it waits for meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    begun: Instant,
    pub(crate) limit: Duration,
    /// How long it stood still.
    pub(crate) paused: Duration,
}

impl Deadline {
    /// From now on.
    pub(crate) fn after(limit: Duration) -> Self {
        Self { begun: Instant::now(), limit, paused: Duration::ZERO }
    }

    /// What was waited for has a bound of its own: it does not count.
    pub(crate) fn pause(&mut self, waited: Duration) {
        self.begun += waited;
        self.paused += waited;
    }

    pub(crate) fn left(self) -> Duration {
        self.limit.saturating_sub(self.begun.elapsed())
    }
}

/// What `future` gives, or `None` if it takes longer than `limit`.
pub(crate) async fn bounded<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    if bowline_io::on_queue() {
        return bowline_io::timeout(limit, future).await;
    }
    // A thread without a queue has no timers; a timeout there would sleep through what it waits for.
    let deadline = Instant::now() + limit;
    let mut future = pin!(future);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            if Instant::now() >= deadline {
                return Poll::Ready(None);
            }
            std::thread::sleep(NAP);
        }
    })
    .await
}

/// Runs a future on a thread without a queue. It must bound what it waits for by itself.
pub(crate) fn here(future: impl Future<Output = ()>) {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    while future.as_mut().poll(&mut cx).is_pending() {
        std::thread::sleep(NAP);
    }
}

/// Lets the other tasks of the queue run, between two pieces of long work.
pub(crate) async fn step_aside() {
    let mut asked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
