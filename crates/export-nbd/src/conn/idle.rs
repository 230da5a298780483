//! Notices that a connection does nothing, so that its buffers can be given back.
//!
//! The timer wakes the connection's task through a waker of its own, which leaves a mark: so a poll knows whether
//! time has passed without looking at the clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// After a whole period without a byte, a connection is idle.
const PERIOD: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(5) };

struct Mark {
    fired: AtomicBool,
    task: Waker,
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.fired.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// The timer of a connection.
#[derive(Default)]
pub(super) struct IdleTimer {
    mark: Option<Arc<Mark>>,
    sleep: Option<Pin<Box<dyn Future<Output = ()>>>>,
    active: bool,
}

impl IdleTimer {
    /// Something was received.
    #[inline]
    pub(super) fn note_activity(&mut self) {
        self.active = true;
    }

    /// Whether a period has ended.
    #[inline]
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> bool {
        match (&self.mark, &self.sleep) {
            (Some(mark), Some(_)) if !mark.fired.load(Ordering::Acquire) => false,
            (None, _) | (_, None) if !self.active && self.mark.is_some() => false,
            _ => self.turn(cx),
        }
    }

    #[cold]
    fn turn(&mut self, cx: &Context<'_>) -> bool {
        let mark = self.mark.get_or_insert_with(|| {
            Arc::new(Mark { fired: AtomicBool::new(false), task: cx.waker().clone() })
        });
        let fired = mark.fired.swap(false, Ordering::AcqRel);
        let waker = Waker::from(mark.clone());
        let mut timer = Context::from_waker(&waker);
        let mut sleep = self.sleep.take().unwrap_or_else(|| Box::pin(bowline_io::sleep(PERIOD)));
        let passed = sleep.as_mut().poll(&mut timer).is_ready();
        if passed {
            // The next period begins; its first poll sets the timer.
            sleep = Box::pin(bowline_io::sleep(PERIOD));
            if sleep.as_mut().poll(&mut timer) == Poll::Ready(()) {
                mark.fired.store(true, Ordering::Release);
            }
        }
        self.sleep = Some(sleep);
        fired && passed
    }

    /// Whether nothing was received in the period that has ended; the next one begins.
    pub(super) fn was_idle(&mut self) -> bool {
        !std::mem::replace(&mut self.active, false)
    }

    /// Sets no timer until there is activity.
    pub(super) fn rest(&mut self) {
        self.sleep = None;
    }
}
