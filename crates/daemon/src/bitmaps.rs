//! Dirty bitmaps of exports: what changed since a snapshot, for NBD clients.
//!
//! A bitmap of a device is asked anew each time: what was written before a question is in its answer (I4). Only what
//! closed epochs hold is kept between questions. A bitmap of an image is fixed, but for what is written to the image.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use bowline_api::Uuid;
use bowline_block::{ByteRange, Result};
use bowline_export_nbd::{BitmapExtent, DirtyBitmap, DirtyBitmaps};
use bowline_filter::cow;
use bowline_filter::track::{ChangeSet, Tracker};

use crate::tables::{DeviceEntry, Tables};

/// Names of a listing. Others can be asked for all the same.
const NAMES_MAX: usize = 1024;

/// The bitmaps of a device or image, by the names of snapshots.
pub(crate) struct Bitmaps {
    tables: Weak<RwLock<Tables>>,
    export: String,
}

/// The bitmaps of that export, if it has any.
pub(crate) fn of_export(
    tables: &Arc<RwLock<Tables>>,
    name: &str,
    entry: &DeviceEntry,
) -> Option<Arc<dyn DirtyBitmaps>> {
    let is_image = entry.asked.is_none();
    (is_image || entry.origin.tracker().is_some())
        .then(|| Arc::new(Bitmaps { tables: Arc::downgrade(tables), export: name.to_owned() }) as _)
}

/// A take that bitmaps can begin or end with.
struct Take {
    held: Option<Arc<cow::Snapshot>>,
    /// Its epoch in the tracker.
    epoch: Option<u64>,
}

impl Bitmaps {
    fn with<T>(&self, ask: impl FnOnce(&Tables) -> Option<T>) -> Option<T> {
        let tables = self.tables.upgrade()?;
        let tables = tables.read().unwrap_or_else(PoisonError::into_inner);
        ask(&tables)
    }
}

fn take_of(tables: &Tables, origin: &str, tracker: Option<&Arc<Tracker>>, name: &str) -> Option<Take> {
    let generation = tracker.map(|tracker| tracker.generation());
    if let Ok(entry) = tables.snapshot(name) {
        let closed = entry.taken.device(origin)?.tracked();
        let epoch = closed.filter(|closed| Some(closed.generation) == generation).map(|closed| closed.epoch);
        return Some(Take { held: Some(entry.taken.clone()), epoch });
    }
    let epoch = tracker?.epoch_of(name)?;
    Some(Take { held: None, epoch: Some(epoch) })
}

impl DirtyBitmaps for Bitmaps {
    fn names(&self) -> Vec<String> {
        self.with(|tables| {
            let (until, origin) = match bowline_api::names::split_image(&self.export) {
                Some((snapshot, origin)) => (Some(snapshot), origin),
                None => (None, self.export.as_str()),
            };
            let held = tables.snapshots_of(origin).map(|snapshot| snapshot.name.clone());
            // Up to the image's own; what came later is no bitmap of it.
            let mut own = false;
            let held = held.take_while(|name| !std::mem::replace(&mut own, Some(name.as_str()) == until));
            let mut names: Vec<String> = held.collect();
            let tracker = tables.device(origin).ok()?.origin.tracker();
            if let Some(tracker) = tracker {
                let end = until.and_then(|until| take_of(tables, origin, Some(&tracker), until)?.epoch);
                let known = tracker.takes(NAMES_MAX);
                let before = known.into_iter().filter(|(epoch, _)| end.is_none_or(|end| *epoch <= end));
                names.extend(before.map(|(_, name)| name));
            }
            names.sort_unstable();
            names.dedup();
            names.truncate(NAMES_MAX);
            Some(names)
        })
        .unwrap_or_default()
    }

    fn open(&self, name: &str) -> Option<Arc<dyn DirtyBitmap>> {
        self.with(|tables| match bowline_api::names::split_image(&self.export) {
            Some((snapshot, origin)) => of_image(tables, origin, snapshot, name),
            None => {
                let tracker = tables.device(&self.export).ok()?.origin.tracker()?;
                let since = take_of(tables, &self.export, Some(&tracker), name)?.epoch?;
                let generation = tracker.generation();
                Some(Arc::new(Live { tracker, generation, since, closed: Mutex::default() }) as _)
            }
        })
    }
}

/// What changed between two takes, and what was written to the image of the later.
fn of_image(tables: &Tables, origin: &str, snapshot: &str, name: &str) -> Option<Arc<dyn DirtyBitmap>> {
    let tracker = tables.device(origin).ok()?.origin.tracker();
    let until = take_of(tables, origin, tracker.as_ref(), snapshot)?;
    let since = take_of(tables, origin, tracker.as_ref(), name)?;
    let image = until.held.as_ref()?.device(origin)?.image().clone();
    // Who has a copy of the first image needs what was written to it, whenever that was.
    let first = since.held.as_ref().filter(|_| snapshot != name).and_then(|held| held.device(origin));
    let first = first.map(|device| device.image().clone());
    let changed = match (tracker, since.epoch, until.epoch) {
        (Some(tracker), Some(first), Some(last)) => {
            Between::Tracked(tracker.changed(first, Some(last)).ok()?)
        }
        _ if snapshot == name => Between::Preserved(Vec::new()),
        _ => {
            let (first, last) = (since.held?, until.held?);
            Between::Preserved(first.device(origin)?.changed(Some(last.device(origin)?)).ok()?)
        }
    };
    Some(Arc::new(Fixed { changed, images: first.into_iter().chain([image]).collect() }))
}

/// What changed since a take, until now.
struct Live {
    tracker: Arc<Tracker>,
    generation: Uuid,
    since: u64,
    /// What changed until the last take.
    closed: Mutex<Option<ChangeSet>>,
}

impl Live {
    /// What changed from `since` until the take `until`, which is the last.
    fn closed(&self, until: u64) -> Result<ChangeSet> {
        let mut kept = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = kept.as_ref().filter(|set| set.until() == Some(until)) {
            return Ok(set.clone());
        }
        let set = self.tracker.changed_in(self.generation, self.since, Some(until))?;
        *kept = Some(set.clone());
        Ok(set)
    }
}

impl DirtyBitmap for Live {
    fn extents(&self, range: ByteRange, max: usize) -> Result<Vec<BitmapExtent>> {
        let last = self.tracker.epoch().saturating_sub(1).max(self.since);
        let closed = self.closed(last)?;
        // This is asked on a queue: of the live map only what lies in the range is read, up to so many extents.
        let live = self.tracker.changed_within(self.generation, last, None, range, max)?;
        let (reached, size) = (live.covered().end(), live.size());
        let is_whole = reached >= size || range.start() >= size;
        let end = if is_whole { range.end() } else { reached.clamp(range.start(), range.end()) };
        let both = merged(closed.ranges(range.start()), live.ranges(range.start()));
        Ok(pieces(ByteRange::between(range.start(), end), max, both))
    }
}

/// What changed between two takes.
enum Between {
    Tracked(ChangeSet),
    Preserved(Vec<ByteRange>),
}

struct Fixed {
    changed: Between,
    /// What was written to these besides.
    images: Vec<Arc<cow::ImageStore>>,
}

impl DirtyBitmap for Fixed {
    fn extents(&self, range: ByteRange, max: usize) -> Result<Vec<BitmapExtent>> {
        let mut written: Vec<_> = self.images.iter().flat_map(|image| image.written()).collect();
        written.sort_unstable_by_key(|one| one.start());
        let written = written.into_iter().filter(|one| one.end() > range.start());
        Ok(match &self.changed {
            Between::Tracked(set) => pieces(range, max, merged(set.ranges(range.start()), written)),
            Between::Preserved(list) => {
                let from = list.partition_point(|one| one.end() <= range.start());
                pieces(range, max, merged(list.iter().skip(from).copied(), written))
            }
        })
    }
}

/// Two lists that ascend, as one.
pub(crate) fn merged(
    one: impl Iterator<Item = ByteRange>,
    other: impl Iterator<Item = ByteRange>,
) -> impl Iterator<Item = ByteRange> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(first), Some(second)) if second.start() < first.start() => other.next(),
        (None, _) => other.next(),
        _ => one.next(),
    })
}

/// A range in pieces that are dirty or clean, from dirty ranges that ascend and may overlap.
fn pieces(range: ByteRange, max: usize, dirty: impl Iterator<Item = ByteRange>) -> Vec<BitmapExtent> {
    let mut found: Vec<BitmapExtent> = Vec::new();
    let mut at = range.start();
    for one in dirty {
        if at >= range.end() || found.len() >= max {
            return found;
        }
        let (start, end) = (one.start().max(at).min(range.end()), one.end().min(range.end()));
        if start > at {
            found.push(BitmapExtent { length: start - at, dirty: false });
            at = start;
        }
        if end > at {
            match found.last_mut().filter(|last| last.dirty) {
                Some(last) => last.length += end - at,
                None => found.push(BitmapExtent { length: end - at, dirty: true }),
            }
            at = end;
        }
    }
    if at < range.end() {
        found.push(BitmapExtent { length: range.end() - at, dirty: false });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirty(range: (u64, u64), max: usize, list: &[(u64, u64)]) -> Vec<(u64, bool)> {
        let ranges = list.iter().map(|&(start, len)| ByteRange::new(start, len));
        let found = pieces(ByteRange::new(range.0, range.1), max, ranges);
        found.iter().map(|piece| (piece.length, piece.dirty)).collect()
    }

    /// Scenario 21: no gap, nothing beyond what was asked for, dirty and clean by turns.
    #[test]
    fn a_range_is_cut_where_it_is_dirty() {
        assert_eq!(dirty((0, 100), 9, &[]), [(100, false)]);
        assert_eq!(dirty((0, 100), 9, &[(0, 500)]), [(100, true)]);
        assert_eq!(
            dirty((10, 90), 9, &[(0, 20), (30, 10), (40, 5)]),
            [(10, true), (10, false), (15, true), (55, false)]
        );
        assert_eq!(dirty((10, 90), 1, &[(0, 20), (30, 10)]), [(10, true)]);
        assert_eq!(dirty((0, 100), 9, &[(5, 10), (7, 2), (12, 8)]), [(5, false), (15, true), (80, false)]);
        assert_eq!(dirty((0, 10), 9, &[(50, 10)]), [(10, false)]);
    }
}
