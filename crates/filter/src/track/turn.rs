//! Turns: a take ends an epoch, a new generation ends them all.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bowline_block::ByteRange;
use uuid::Uuid;

use super::current::{Current, Shape};
use super::disk::header::EXCLUDED_MAX;
use super::durable::GRANT;
use super::epochs::{Chain, ClosedSet, Member};
use super::intents::IntentMap;
use super::sync::{Ordering, fence, lock};
use super::tracker::{Closed, History, Inner};

/// Closed epochs that may wait to be packed, each a whole map; beyond that a take packs one itself.
const UNPACKED_MAX: usize = 16;
/// Closed epochs that may wait to be made durable, before the next take is kept waiting, ahead of its freeze.
const UNSAVED_MAX: usize = 8;

impl Inner {
    pub(crate) fn look_closer(&self) {
        // Who comes later sees what all before have set.
        let _turn = lock(&self.looking);
        let special = !self.excluded.load().is_empty()
            || self.detached.load(Ordering::SeqCst)
            || self.closed.load(Ordering::SeqCst);
        self.special.store(special, Ordering::SeqCst);
    }

    /// Waits until `done`, at most `limit`; says whether it is.
    pub(crate) fn wait_for(&self, limit: Duration, mut done: impl FnMut(&mut History) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut history = lock(&self.history);
        loop {
            if done(&mut history) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.progress.wait_timeout(history, left);
            history = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn prepare_close(&self) {
        if let Some(durable) = &self.durable {
            // Should it not be done in time, the take needs not wait: what cannot be kept up is given up there.
            self.wait_for(durable.hold, |history| {
                let epoch = self.current.load().epoch;
                let unsaved = epoch.saturating_sub(history.disk.saved + 1);
                !history.disk.on || (unsaved <= UNSAVED_MAX as u64 && epoch + 1 < history.disk.limit)
            });
        }
        let spare = Arc::new(self.current.load_full().next());
        lock(&self.history).spare = Some(spare);
    }

    pub(crate) fn close_epoch(&self, snapshot: &str) -> Closed {
        if self.detached.load(Ordering::SeqCst) {
            // An epoch that may lack changes must not be one that can be asked about.
            let size = self.current.load().shape.size;
            self.renew(size, "the tracker is off its device");
        }
        let mut history = lock(&self.history);
        if history.disk.on && self.current.load().epoch + 1 >= history.disk.limit {
            drop(history);
            let size = self.current.load().shape.size;
            self.renew(size, "more takes came than could be noted");
            history = lock(&self.history);
        }
        let current = self.current.load_full();
        let (generation, epoch) = (current.generation, current.epoch);
        let fits = |spare: &Arc<Current>| {
            let settled = |current: &Current| current.intents.as_ref().map(IntentMap::is_settled);
            spare.generation == generation
                && spare.epoch == epoch + 1
                && spare.shape == current.shape
                && settled(spare) == settled(&current)
        };
        let next = history.spare.take().filter(fits).unwrap_or_else(|| Arc::new(current.next()));
        self.current.store(next);
        // Pairs with the one of a mark from outside the gate: it sees the new map, or its bits are seen in the old one.
        fence(Ordering::SeqCst);
        history.chain.push(Member {
            first: epoch,
            last: epoch,
            set: Arc::new(ClosedSet::of_map(current)),
            names: vec![(epoch, Arc::from(snapshot))],
        });
        if history.disk.on && epoch + 1 + GRANT / 2 >= history.disk.limit {
            history.disk.header_wanted += 1;
        }
        let unpacked = history.chain.unpacked();
        drop(history);
        self.bell.notify_all();
        self.progress.notify_all();
        if unpacked.len() > UNPACKED_MAX
            && let Some(oldest) = unpacked.first()
        {
            oldest.get();
        }
        Closed { epoch, generation }
    }

    /// A new generation, at once.
    pub(crate) fn renew(&self, size: u64, reason: &str) {
        let mut history = lock(&self.history);
        let on = history.disk.on;
        self.begin_generation(&mut history, size, on);
        if on {
            history.disk.saved = 0;
            history.disk.limit = 1 + GRANT;
            history.disk.header_wanted += 1;
        }
        drop(history);
        self.bell.notify_all();
        self.wake_all();
        self.events.renewed(&self.device, reason);
    }

    fn begin_generation(&self, history: &mut History, size: u64, durable: bool) {
        history.chain = Chain::default();
        history.spare = None;
        let shape = Shape::of(size);
        // Until the header says so, nothing may change: the old generation would be believed after a crash.
        let intents = durable.then(|| IntentMap::new(shape.region_count(), 1, false));
        self.current.store(Arc::new(Current::new(Uuid::new_v4(), 1, shape, intents)));
    }

    /// Gives up persistence: the device goes on (I1), tracked in memory, under a new generation.
    pub(crate) fn degrade(&self, reason: &str) {
        let mut history = lock(&self.history);
        if !history.disk.on {
            return;
        }
        history.disk.on = false;
        history.disk.revoke = true;
        // Files that cannot be removed are not of this session.
        history.disk.session = Some(Uuid::new_v4());
        let size = self.current.load().shape.size;
        self.begin_generation(&mut history, size, false);
        drop(history);
        self.bell.notify_all();
        self.wake_all();
        self.events.renewed(&self.device, reason);
        self.events.not_durable(&self.device, reason);
    }

    /// Wakes all who wait for something of this tracker. The caller holds no lock of it.
    pub(crate) fn wake_all(&self) {
        // Who has looked and found nothing waits by now.
        drop(lock(&self.history));
        self.progress.notify_all();
        if let Some(durable) = &self.durable {
            durable.desk.wake();
        }
    }

    /// The header is to name these excluded ranges.
    pub(crate) fn note_excluded(&self, mut ranges: Vec<ByteRange>) {
        if ranges.len() > EXCLUDED_MAX {
            let start = ranges.iter().map(|range| range.start()).min().unwrap_or(0);
            let end = ranges.iter().map(|range| range.end()).max().unwrap_or(0);
            ranges = vec![ByteRange::between(start, end)];
        }
        let mut history = lock(&self.history);
        if history.disk.on && history.disk.excluded != ranges {
            history.disk.excluded = ranges;
            history.disk.header_wanted += 1;
            self.bell.notify_all();
        }
    }

    /// Waits until the header says what it was ordered to; gives up persistence if it cannot.
    pub(crate) fn await_header(&self) {
        let Some(durable) = &self.durable else { return };
        let wanted = lock(&self.history).disk.header_wanted;
        let done = |history: &mut History| !history.disk.on || history.disk.header_done >= wanted;
        if !self.wait_for(durable.hold, done) {
            self.degrade(&format!("its header was not durable within {:?}", durable.hold));
        }
    }
}
