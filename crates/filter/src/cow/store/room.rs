//! Waiting for a storage, and what becomes of its snapshots when it fails.

use std::future::Future;
use std::sync::Weak;
use std::task::{Context, Poll};
use std::time::Duration;

use super::super::shared::Shared;
use super::work::{BACKLOG_MAX, Work, wake};
use super::{DiffStorage, Trouble};

impl DiffStorage {
    /// Waits until a segment may be had again, or never.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> {
        self.until(|work| work.failed.is_some() || work.backlog() < BACKLOG_MAX)
    }

    /// Waits until a segment may be had, or the snapshot has failed; also until room came since it had come `seen` times:
    /// somebody else may have taken the segment, but there is room in it.
    pub(crate) fn room<'a>(&'a self, snapshot: &'a Shared, seen: u64) -> impl Future<Output = ()> + 'a {
        self.until(move |work| {
            !snapshot.is_active()
                || work.failed.is_some()
                || work.room_changes != seen
                || (work.backlog() < BACKLOG_MAX && work.has_place())
        })
    }

    /// How often room came.
    pub(crate) fn room_changes(&self) -> u64 {
        self.inner.work().room_changes
    }

    fn until(&self, done: impl Fn(&Work) -> bool) -> impl Future<Output = ()> {
        std::future::poll_fn(move |cx: &mut Context<'_>| {
            let mut work = self.inner.work();
            if done(&work) {
                return Poll::Ready(());
            }
            if !work.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                work.waiting.push(cx.waker().clone());
                // The worker looks for space below as long as somebody waits for it.
                if work.stunted().is_some() {
                    self.inner.bell.notify_one();
                }
            }
            Poll::Pending
        })
    }

    /// Whoever waits looks again.
    pub(crate) fn wake(&self) {
        let waiting = self.inner.work().take_waiting();
        wake(waiting);
    }

    /// Why it is full, in words, with what was behind it.
    pub(crate) fn why_full(&self) -> Trouble {
        let stunted = self.inner.work().stunted().cloned();
        let full = format!("diff storage {} is full at {} bytes", self.location(), self.limit());
        match stunted {
            Some(Trouble { reason, cause }) => Trouble { reason: format!("{full}: {reason}"), cause },
            None => Trouble { reason: full, cause: None },
        }
    }

    /// Why nothing came of waiting for so long.
    pub(crate) fn why_no_room(&self, waited: Duration) -> Trouble {
        let work = self.inner.work();
        let stuck = work.backlog() >= BACKLOG_MAX;
        let broken = work.trouble().cloned();
        drop(work);
        if stuck {
            let why = format!("diff storage {} took nothing for {waited:.1?}", self.location());
            return Trouble { reason: why, cause: None };
        }
        let Trouble { reason, cause } = broken.unwrap_or_else(|| self.why_full());
        Trouble { reason: format!("{reason}; no room came within {waited:.1?}"), cause }
    }

    /// Somebody else wrote to where it keeps its contents: nothing in it can be trusted, and nothing more may be written
    /// there.
    pub(crate) fn overrun(&self, trouble: &Trouble) {
        let mut work = self.inner.work();
        work.failed.get_or_insert_with(|| trouble.clone());
        let queue = std::mem::take(&mut work.queue);
        let waiting = work.take_waiting();
        let mut hit = work.owners();
        hit.extend(work.readers.iter().filter_map(Weak::upgrade));
        drop(work);
        drop(queue);
        hit.iter().for_each(|one| one.fail_for(trouble.clone()));
        wake(waiting);
    }

    /// Waits until nothing is being written.
    pub(crate) fn quiet(&self) -> impl Future<Output = ()> {
        self.until(|work| work.failed.is_some() && work.writing == 0)
    }

    /// Whether it was overrun, and nothing is being written any more.
    pub(crate) fn is_quiet(&self) -> bool {
        let work = self.inner.work();
        work.failed.is_some() && (work.writing == 0 || work.given_up)
    }

    /// What is being written cannot be waited for.
    pub(crate) fn give_up(&self) {
        self.inner.work().given_up = true;
    }
}
