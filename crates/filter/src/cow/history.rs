//! A device's history: the filter that preserves what its snapshots need.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use bowline_block::{Altitude, ByteRange, Error, ErrorKind, Filter, Op, Request, Result, Store, Verdict};
use bowline_device::FilterId;
use uuid::Uuid;

use super::chain::Chain;
use super::exclude::Exclusions;
use super::granule::Granules;
use super::segment::SegmentTable;
use crate::rollback::{Rollback, WeakRollback};

/// Where the filter sits in a stack.
pub const COW_ALTITUDE: Altitude = Altitude(200);

/// Ranges that were found to need no copy, until their requests are asked about again.
const CLEARED_MAX: usize = 64;

/// The copy-on-write history of one device, from its oldest snapshot on. It is attached to the device while there is a
/// snapshot; then it is over, and the next take begins another one.
pub struct History {
    generation: Uuid,
    /// The device's name, from the first take on.
    origin: OnceLock<Arc<str>>,
    /// Where diff storage lies on the device itself.
    pub(crate) exclusions: Exclusions,
    pub(crate) chain: ArcSwap<Chain>,
    pub(crate) table: SegmentTable,
    pub(crate) attachment: Mutex<Attachment>,
    /// The newest epoch there ever was. No number is used again: images and notes of removed snapshots name theirs.
    pub(crate) last_epoch: AtomicU64,
    /// Held by a removal: one at a time.
    pub(crate) surgery: Mutex<()>,
    cleared: Mutex<VecDeque<(u64, ByteRange)>>,
    /// Its snapshots were put away for the next start: that its device goes does not fail them.
    pub(crate) is_put_away: AtomicBool,
    /// The rollback of the device, and the snapshot to which it goes back.
    rollback: Mutex<Option<(WeakRollback, Uuid)>>,
    /// Planted damage: the copy of that number, from 1, is dropped.
    #[cfg(test)]
    pub(crate) dropped_copy: AtomicU64,
    /// Planted damage: nothing waits for the journal.
    #[cfg(test)]
    pub(crate) no_hold: AtomicBool,
}

/// Whether the filter is in its device's stack. Changes only while the device is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attachment {
    NotYet,
    Attached(FilterId),
    Over,
}

impl History {
    pub(crate) fn new() -> Arc<Self> {
        Self::again(Uuid::new_v4(), 0)
    }

    /// One that goes on under that generation.
    pub(crate) fn again(generation: Uuid, last_epoch: u64) -> Arc<Self> {
        Arc::new(Self {
            generation,
            origin: OnceLock::new(),
            exclusions: Exclusions::default(),
            chain: ArcSwap::default(),
            table: SegmentTable::default(),
            attachment: Mutex::new(Attachment::NotYet),
            last_epoch: AtomicU64::new(last_epoch),
            surgery: Mutex::new(()),
            cleared: Mutex::default(),
            is_put_away: AtomicBool::new(false),
            rollback: Mutex::default(),
            #[cfg(test)]
            dropped_copy: AtomicU64::new(0),
            #[cfg(test)]
            no_hold: false.into(),
        })
    }

    /// Under which epochs of this device are comparable.
    #[must_use]
    pub fn generation(&self) -> Uuid {
        self.generation
    }

    /// The device's name.
    pub(crate) fn origin(&self) -> &Arc<str> {
        self.origin.get_or_init(|| Arc::from(""))
    }

    pub(crate) fn set_origin(&self, name: &str) {
        self.origin.get_or_init(|| Arc::from(name));
    }

    /// The epoch that the newest take closed; that one's snapshot may be gone.
    #[must_use]
    pub fn last_epoch(&self) -> u64 {
        self.last_epoch.load(Ordering::Relaxed)
    }

    /// The rollback of the device that is not over, if there is one.
    #[must_use]
    pub fn rollback(&self) -> Option<Rollback> {
        let noted = self.noted_rollback();
        noted.as_ref().and_then(|(rollback, _)| rollback.upgrade()).filter(|rollback| !rollback.is_over())
    }

    /// The snapshot to which that goes back.
    pub(crate) fn rollback_of(&self) -> Option<Uuid> {
        self.rollback()?;
        self.noted_rollback().as_ref().map(|(_, snapshot)| *snapshot)
    }

    /// Notes a rollback, if there is no other.
    pub(crate) fn set_rollback(&self, rollback: &Rollback, snapshot: Uuid) -> Result<()> {
        let mut noted = self.noted_rollback();
        let other = noted.as_ref().and_then(|(other, _)| other.upgrade());
        if other.is_some_and(|other| !other.is_over()) {
            let why = "another rollback of it is not over";
            let hint = "wait for its end: `bowline device show` tells how far it is";
            return Err(Error::new(ErrorKind::Busy, why).device(&**self.origin()).op("rollback").hint(hint));
        }
        *noted = Some((rollback.downgrade(), snapshot));
        Ok(())
    }

    pub(crate) fn forget_rollback(&self) {
        *self.noted_rollback() = None;
    }

    fn noted_rollback(&self) -> std::sync::MutexGuard<'_, Option<(WeakRollback, Uuid)>> {
        self.rollback.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it came to its end: its last snapshot was removed, or its device.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.attachment() == Attachment::Over
    }

    /// What is beneath the device is not what it was: nothing can be promised of it. All its snapshots fail.
    pub fn fail(&self, reason: &str) {
        self.chain.load().fail_all(reason);
    }

    /// Bytes of memory: the index, and the bits with the tree that leads to them.
    #[must_use]
    pub fn memory(&self) -> IndexMemory {
        let chain = self.chain.load();
        let mut sum = IndexMemory { index_bytes: self.table.bytes(), bit_bytes: 0 };
        for member in &chain.members {
            let (index, bits) = member.interval.memory();
            sum.index_bytes += index;
            sum.bit_bytes += bits;
        }
        sum
    }

    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn drop_copy(&self, nth: u64) {
        self.dropped_copy.store(nth, Ordering::Relaxed);
    }

    pub(crate) fn attachment(&self) -> std::sync::MutexGuard<'_, Attachment> {
        self.attachment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that every byte of the range is copied or already reads as what it is to become. That stays so for the
    /// interval: whoever changes one of them copies it first.
    pub(crate) fn note_cleared(&self, epoch: u64, range: ByteRange) {
        let mut cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        if cleared.len() >= CLEARED_MAX {
            cleared.pop_front();
        }
        cleared.push_back((epoch, range));
    }

    fn take_cleared(&self, epoch: u64, range: ByteRange) -> bool {
        let mut cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cleared.iter().position(|&noted| noted == (epoch, range));
        found.and_then(|at| cleared.remove(at)).is_some()
    }
}

/// Memory of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexMemory {
    /// What finds the preserved granules.
    pub index_bytes: u64,
    /// One bit per granule of each 16 MiB touched, and the tree over them.
    pub bit_bytes: u64,
}

impl Filter for History {
    fn kind(&self) -> &'static str {
        "cow"
    }

    #[inline]
    fn ask<'a>(&'a self, request: &Request, below: &'a dyn Store) -> Verdict<'a> {
        if !request.op.changes_data() {
            return Verdict::Pass;
        }
        if self.exclusions.any()
            && let Some(hold) = self.foreign(request)
        {
            return hold;
        }
        let chain = self.chain.load();
        let Some(current) = chain.current() else { return Verdict::Pass };
        if !chain.is_copying() {
            return Verdict::Pass;
        }
        let granules = Granules::touched_by(request.range).intersection(current.granules());
        if chain.all_copied(granules) {
            return Verdict::Pass;
        }
        let size = below.geometry().size;
        if size < current.cover {
            let why = format!("its origin became smaller: {size} bytes instead of {}", current.cover);
            chain.fail_all(&why);
            if chain.doomed().next().is_some() {
                return self.after_failures(arc_swap::Guard::into_inner(chain));
            }
            return Verdict::Pass;
        }
        match request.op {
            Op::Write => self.before_write(&chain, granules, below),
            _ if self.take_cleared(current.epoch, request.range) => Verdict::Pass,
            _ => self.before_clear(arc_swap::Guard::into_inner(chain), *request, granules, below),
        }
    }

    /// The device goes away: what images need of it goes with it. One that was put away comes back: a snapshot that failed for
    /// that would be recorded as failed by its other devices, which are still to be put away.
    fn detached(&self) {
        let before = std::mem::replace(&mut *self.attachment(), Attachment::Over);
        if before != Attachment::Over && !self.is_put_away.load(Ordering::Acquire) {
            let chain = self.chain.load();
            chain.tell_gone(self.origin(), None);
            chain.fail_all("its origin was removed");
        }
    }
}
