use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;

/// The syncs of a file: each ends when the test says how.
#[derive(Default)]
struct Syncs {
    begun: Cell<u32>,
    results: RefCell<Vec<Option<bool>>>,
}

impl Syncs {
    fn make(&self) -> impl Future<Output = bool> + '_ {
        let number = self.begun.get() as usize;
        self.begun.set(self.begun.get() + 1);
        self.results.borrow_mut().push(None);
        poll_fn(move |_| self.results.borrow()[number].map_or(Poll::Pending, Poll::Ready))
    }

    fn end(&self, number: usize, good: bool) {
        self.results.borrow_mut()[number] = Some(good);
    }
}

fn poll(future: &mut Pin<Box<dyn Future<Output = bool> + '_>>) -> Poll<bool> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn flush<'a>(flusher: &'a Flusher, syncs: &'a Syncs) -> Pin<Box<dyn Future<Output = bool> + 'a>> {
    Box::pin(flusher.flush(|| syncs.make()))
}

/// I7: the kernel tells one of two concurrent flushes of a failed write-back; neither may be acknowledged.
#[test]
fn i7_a_failure_is_told_to_all_who_waited_and_to_all_who_come() {
    let (flusher, syncs) = (Flusher::default(), Syncs::default());
    let (mut first, mut second) = (flush(&flusher, &syncs), flush(&flusher, &syncs));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    assert_eq!(syncs.begun.get(), 1);
    syncs.end(0, false);
    assert_eq!(poll(&mut first), Poll::Ready(false));
    assert_eq!(poll(&mut second), Poll::Ready(false));
    assert_eq!(poll(&mut flush(&flusher, &syncs)), Poll::Ready(false));
    assert_eq!(syncs.begun.get(), 1, "a failed flush is never tried again");
}

#[test]
fn i7_who_came_after_a_flush_had_begun_waits_for_another_and_shares_it() {
    let (flusher, syncs) = (Flusher::default(), Syncs::default());
    let mut first = flush(&flusher, &syncs);
    assert!(poll(&mut first).is_pending());
    let mut late: Vec<_> = (0..3).map(|_| flush(&flusher, &syncs)).collect();
    assert!(late.iter_mut().all(|one| poll(one).is_pending()));
    syncs.end(0, true);
    assert_eq!(poll(&mut first), Poll::Ready(true));
    assert!(late.iter_mut().all(|one| poll(one).is_pending()), "the first began before their writes");
    assert_eq!(syncs.begun.get(), 2);
    syncs.end(1, true);
    assert!(late.iter_mut().all(|one| poll(one) == Poll::Ready(true)));
    assert_eq!(syncs.begun.get(), 2);
}

#[test]
fn a_flush_that_is_given_up_counts_for_nobody() {
    let (flusher, syncs) = (Flusher::default(), Syncs::default());
    let (mut first, mut second) = (flush(&flusher, &syncs), flush(&flusher, &syncs));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    drop(first);
    assert!(poll(&mut second).is_pending());
    assert_eq!(syncs.begun.get(), 2);
    syncs.end(1, true);
    assert_eq!(poll(&mut second), Poll::Ready(true));
}
