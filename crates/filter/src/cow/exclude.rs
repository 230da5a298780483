//! Diff storage on the origin itself: ranges of the device that are left out.
//!
//! Where a storage keeps its contents on the device of which it preserves them, its own writes go beneath the stack
//! and are not seen here. The range is no part of the images' promise: it is marked as preserved zeroes in each
//! interval that begins while the storage is there, so that writers and image readers find nothing special.
//!
//! A write of somebody else that goes there through the device passes: the device is its users' (I1). But first the
//! storage is closed and what its worker is writing has ended, so that nothing of the storage can land over it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use bowline_block::{ByteRange, Error, ErrorKind, Request, Result, Verdict};
use bowline_device::Device;

use super::granule::{GRANULE_BYTES, Granules};
use super::history::{COW_ALTITUDE, History};
use super::interval::Interval;
use super::store::{DiffStorage, Trouble};
use super::wait;
use super::zone::{Claimed, Run, SlotId, ZONE_GRANULES};

/// A range in which a storage keeps its contents.
#[derive(Clone)]
struct Exclusion {
    range: ByteRange,
    /// It ends with the storage, not with the snapshot: an older one may still read what is there.
    storage: Weak<DiffStorage>,
}

/// All of a device.
#[derive(Default)]
pub(crate) struct Exclusions {
    any: AtomicBool,
    list: RwLock<Vec<Exclusion>>,
}

impl Exclusions {
    /// Whether there may be any: the answer to all but a few devices, without a lock.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// From now on the storage writes there.
    pub(crate) fn add(&self, ranges: &[ByteRange], storage: &Arc<DiffStorage>) {
        if ranges.is_empty() {
            return;
        }
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|one| one.storage.strong_count() > 0);
        list.extend(ranges.iter().map(|&range| Exclusion { range, storage: Arc::downgrade(storage) }));
        self.any.store(true, Ordering::Relaxed);
    }

    /// The ranges whose storages are still there.
    pub(crate) fn ranges(&self) -> Vec<ByteRange> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter(|one| one.storage.strong_count() > 0).map(|one| one.range).collect()
    }

    /// Whether a storage has contents there.
    pub(crate) fn in_use(&self) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter_map(|one| one.storage.upgrade()).any(|storage| storage.used() > 0)
    }

    fn storages_at(&self, range: ByteRange) -> Vec<(ByteRange, Arc<DiffStorage>)> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter()
            .filter(|one| one.range.overlaps(range))
            .filter_map(|one| Some((one.range, one.storage.upgrade()?)))
            .collect()
    }
}

impl History {
    /// A write, discard or write-zeroes that may go to where a storage keeps its contents: how long it has to wait.
    pub(crate) fn foreign(&self, request: &Request) -> Option<Verdict<'_>> {
        let hit = self.exclusions.storages_at(request.range);
        let hit: Vec<_> = hit.into_iter().filter(|(_, storage)| !storage.is_quiet()).collect();
        if hit.is_empty() {
            return None;
        }
        for (range, storage) in &hit {
            let why = format!(
                "{} at {} of device {} went to where it is kept, {range}",
                request.op.name(),
                request.range,
                self.origin()
            );
            storage.overrun(&Trouble { reason: why, cause: None });
        }
        let limit: Duration = self.chain.load().hold_limit;
        Some(Verdict::Hold(Box::pin(async move {
            for (_, storage) in hit {
                if wait::bounded(limit, storage.quiet()).await.is_none() {
                    // The device does not take the worker's write; it would not take this one before it either.
                    storage.give_up();
                }
            }
        })))
    }

    /// A storage is about to keep its contents in these ranges: what older snapshots need of them is preserved first. On
    /// a thread that may wait. What cannot be preserved costs those snapshots, as with any write.
    pub(crate) fn preserve_excluded(&self, ranges: &[ByteRange], device: &Device) {
        let preserved = async {
            let inside = device.enter().await;
            let chain = self.chain.load_full();
            let Some(current) = chain.current() else { return };
            for range in ranges {
                let granules = Granules::touched_by(*range).intersection(current.granules());
                self.copy_all(&chain, granules, inside.below(COW_ALTITUDE)).await;
            }
        };
        wait::here(preserved);
    }
}

/// Marks ranges as zero in an interval that nobody uses yet.
pub(crate) fn leave_out(interval: &Interval, ranges: &[ByteRange]) {
    for range in ranges {
        let Granules { first, end } = Granules::touched_by(*range).intersection(interval.granules());
        let mut at = first;
        while at < end {
            let number = at / ZONE_GRANULES;
            let base = number * ZONE_GRANULES;
            let run = Run::new(at - base, end - base);
            at = base + run.end();
            let Some(zone) = interval.zone_or_new(number) else { return };
            while let Claimed::Mine(mut claim) = zone.claim(run, u16::MAX, |_| 0) {
                claim.publish(claim.run().count, SlotId::ZERO);
            }
        }
    }
}

/// Whether ranges can be left out of a device of that size.
pub(crate) fn check(ranges: &[ByteRange], device: &str, size: u64) -> Result<()> {
    for range in ranges {
        let refuse = |kind, why: String| Err(Error::new(kind, why).device(device).op("take a snapshot"));
        if !range.is_aligned_to(GRANULE_BYTES) {
            return refuse(
                ErrorKind::Invalid,
                format!("excluded range {range} is not aligned to {GRANULE_BYTES}"),
            );
        }
        if range.end() > size {
            return refuse(
                ErrorKind::OutOfRange,
                format!("excluded range {range} is beyond its end at {size}"),
            );
        }
    }
    Ok(())
}
