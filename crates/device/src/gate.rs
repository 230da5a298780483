//! The gate of a device: who is inside, and who may come in.
//!
//! Each thread counts its requests in a slot of its own, so that threads never write to one cache line. Entering is
//! *count, then look whether the gate is closed*; closing is *close, then look at the counts*. Both sides use
//! sequentially consistent operations, so at least one sees the other: a request that got in is waited for, or it
//! sees the closed gate and goes back.

use std::cell::Cell;
use std::future::poll_fn;
use std::sync::atomic::AtomicUsize;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::stats::Counters;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock, thread_local};

/// Slots of a device. More threads than that share slots, which costs time and nothing else.
pub(crate) const SLOTS: usize = 16;

/// A thread's part of a device.
#[derive(Default)]
pub(crate) struct Slot {
    inside: AtomicU64,
    pub(crate) counters: Counters,
}

pub(crate) struct Gate {
    slots: Box<[CachePadded<Slot>; SLOTS]>,
    closed: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    drain: Mutex<()>,
    drained: Condvar,
}

/// The number of this thread's slots.
fn slot_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % SLOTS);
        }
        mine.get()
    })
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            slots: Box::new(std::array::from_fn(|_| CachePadded::default())),
            closed: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
            drain: Mutex::new(()),
            drained: Condvar::new(),
        }
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(|slot| &**slot)
    }

    /// Goes in, unless the gate is closed.
    #[inline]
    pub(crate) fn try_enter(&self) -> Option<Entry<'_>> {
        let slot = self.slots.get(slot_index() % SLOTS)?;
        slot.inside.fetch_add(1, Ordering::SeqCst);
        let entry = Entry { gate: self, slot };
        // A closed gate drops the entry, and with it the count.
        (!self.closed.load(Ordering::SeqCst)).then_some(entry)
    }

    /// Goes in as soon as the gate is open.
    pub(crate) async fn enter(&self) -> Entry<'_> {
        poll_fn(|cx| {
            if let Some(entry) = self.try_enter() {
                return Poll::Ready(entry);
            }
            let mut waiting = lock(&self.waiting);
            // Looked at again under the lock that opening takes: a wake-up cannot fall between.
            if !self.closed.load(Ordering::SeqCst) {
                cx.waker().wake_by_ref();
            } else if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Lets nobody in from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until nobody is inside; `false` when that takes until `deadline`. The gate is closed.
    pub(crate) fn drain_until(&self, deadline: Instant) -> bool {
        let mut guard = lock(&self.drain);
        loop {
            if self.in_flight() == 0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Waits in bounded pieces, so that even a lost notification costs little.
            let piece = left.min(Duration::from_millis(50));
            guard = match self.drained.wait_timeout(guard, piece) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Lets everybody in again.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        for waker in std::mem::take(&mut *lock(&self.waiting)) {
            waker.wake();
        }
    }

    /// How many requests are inside.
    pub(crate) fn in_flight(&self) -> u64 {
        self.slots.iter().map(|slot| slot.inside.load(Ordering::SeqCst)).sum()
    }
}

/// A request inside the gate.
pub(crate) struct Entry<'a> {
    gate: &'a Gate,
    slot: &'a Slot,
}

impl Entry<'_> {
    #[inline]
    pub(crate) fn counters(&self) -> &Counters {
        &self.slot.counters
    }
}

impl Drop for Entry<'_> {
    #[inline]
    fn drop(&mut self) {
        self.slot.inside.fetch_sub(1, Ordering::SeqCst);
        if self.gate.closed.load(Ordering::SeqCst) {
            // The lock keeps the notification from falling between the drainer's look and its wait.
            drop(lock(&self.gate.drain));
            self.gate.drained.notify_all();
        }
    }
}
