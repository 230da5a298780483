//! Intent bits: which regions may have been changed in an epoch, durable before the first change.
//!
//! ```text
//!   ask ──not durable──► want(region) ──► committer: one write and one sync for all that wait ──► durable bits, wake
//! ```
//!
//! Sequential writers find the next regions durable when they get there: what lies ahead is asked for without waiting.

use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex};
use std::task::Waker;

use uuid::Uuid;

use super::grain::{Run, mask_of};
use super::sync::{AtomicU64, Ordering, lock};

/// Runs of regions that may be waiting to be written down. More are asked for again by who waits for them.
const WANTED_MAX: usize = 4096;

/// The durable intents of an epoch.
pub(crate) struct IntentMap {
    regions: u64,
    durable: Box<[AtomicU64]>,
    /// Whether the generation itself is durable.
    settled: AtomicBool,
    /// The first epoch of a generation: nobody can ask what changed in it, so it needs no intents.
    free: bool,
}

impl IntentMap {
    pub(crate) fn new(regions: u64, epoch: u64, settled: bool) -> Self {
        let free = epoch == 1;
        let words = if free { 0 } else { usize::try_from(regions.div_ceil(64)).unwrap_or(0) };
        Self {
            regions,
            durable: std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect(),
            settled: AtomicBool::new(settled),
            free,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.durable.len() as u64 * 8
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst)
    }

    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::SeqCst);
    }

    pub(crate) fn word(&self, word: u64) -> u64 {
        let word = self.durable.get(usize::try_from(word).unwrap_or(usize::MAX));
        word.map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn has(&self, run: Run) -> bool {
        let run = run.cut_to(self.regions);
        (run.first / 64..run.end.div_ceil(64)).all(|word| {
            let mask = mask_of(word, run);
            self.word(word) & mask == mask
        })
    }

    /// Whether all of the run may be changed.
    pub(crate) fn allows(&self, run: Run) -> bool {
        self.is_settled() && (self.free || self.has(run))
    }

    /// Notes that the run is durable.
    pub(crate) fn set(&self, run: Run) {
        let run = run.cut_to(self.regions);
        for number in run.first / 64..run.end.div_ceil(64) {
            if let Some(word) = self.durable.get(usize::try_from(number).unwrap_or(usize::MAX)) {
                word.fetch_or(mask_of(number, run), Ordering::SeqCst);
            }
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.durable.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// What to write down for a change of these regions that has to wait, and of the `reach` behind them.
    pub(crate) fn wanted(&self, run: Run, reach: u64) -> Run {
        Run { first: run.first, end: run.end.saturating_add(reach) }.cut_to(self.regions)
    }

    /// What to write down already of the `reach` regions from `next` on: nothing while the nearer half is.
    pub(crate) fn ahead(&self, next: u64, reach: u64) -> Option<Run> {
        let run = |count: u64| Run { first: next, end: next.saturating_add(count) }.cut_to(self.regions);
        let near = run(reach.div_ceil(2));
        if self.free || near.is_empty() || self.has(near) {
            return None;
        }
        Some(run(reach))
    }
}

/// Regions that are to be made durable for an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) generation: Uuid,
    pub(crate) epoch: u64,
    pub(crate) run: Run,
}

/// Where requests leave what they want, and wait.
#[derive(Default)]
pub(crate) struct Desk {
    wanted: Mutex<Orders>,
    rung: Condvar,
    waiting: Mutex<Vec<Waker>>,
    rounds: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct Orders {
    runs: Vec<Wanted>,
    stopping: bool,
}

impl Desk {
    pub(crate) fn want(&self, wanted: Wanted) {
        let mut orders = lock(&self.wanted);
        if orders.runs.len() < WANTED_MAX && orders.runs.last() != Some(&wanted) {
            orders.runs.push(wanted);
        }
        drop(orders);
        self.rung.notify_one();
    }

    /// How often waiters were woken: who is still waiting then has to ask again.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::SeqCst)
    }

    /// What is wanted, once there is something; `None` at the end.
    pub(crate) fn take(&self) -> Option<Vec<Wanted>> {
        let mut orders = lock(&self.wanted);
        while orders.runs.is_empty() && !orders.stopping {
            orders = self.rung.wait(orders).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if orders.stopping { None } else { Some(std::mem::take(&mut orders.runs)) }
    }

    pub(crate) fn stop(&self) {
        lock(&self.wanted).stopping = true;
        self.rung.notify_all();
    }

    pub(crate) fn wait(&self, waker: &Waker) {
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    pub(crate) fn wake(&self) {
        self.rounds.fetch_add(1, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        waiting.into_iter().for_each(Waker::wake);
    }
}
