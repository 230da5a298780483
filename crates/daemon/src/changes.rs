//! `bowline changes`: what changed on a device since a snapshot, or what it holds at all.

use std::sync::Arc;

use bowline_api::{ApiError, Changes, ChangesQuery, ErrorKind, Extent, Snapshot, SnapshotState, Uuid};
use bowline_block::{ByteRange, Store};
use bowline_device::Device;
use bowline_filter::cow::{GRANULE_BYTES, SnapshotDevice};

use crate::daemon::Daemon;
use crate::error::{failed, failed_io};
use crate::snapshot::SnapshotEntry;

/// Extents asked of a store at once.
const EXTENTS_AT_ONCE: usize = 4096;

impl Daemon {
    pub(crate) fn changes_of(&self, query: &ChangesQuery) -> Result<Changes, ApiError> {
        match &query.since {
            None => self.held_by(query),
            Some(since) => {
                let named = self.read().snapshot(since).is_ok();
                match since.parse() {
                    // A name is more than a number: who named a snapshot 5 means that one.
                    Ok(epoch) if !named => {
                        let found = self.snapshot_of_epoch(query, epoch)?;
                        self.changed_since(query, &found)
                    }
                    _ => self.changed_since(query, since),
                }
            }
        }
    }

    /// The origin the question is about, and the snapshot that ends the interval: for an image, its own.
    fn interval(&self, query: &ChangesQuery) -> Result<(String, Option<String>), ApiError> {
        self.read().device(&query.device)?;
        match bowline_api::names::split_image(&query.device) {
            None => Ok((query.device.clone(), query.until.clone())),
            Some((snapshot, device)) => {
                if query.until.as_ref().is_some_and(|until| until != snapshot) {
                    let what = format!("changes of {}", query.device);
                    let why = "an image ends with its own snapshot";
                    return Err(ApiError::invalid(what, why, "leave out --until, or ask about the device"));
                }
                Ok((device.to_owned(), Some(snapshot.to_owned())))
            }
        }
    }

    fn changed_since(&self, query: &ChangesQuery, since: &str) -> Result<Changes, ApiError> {
        let (origin, until) = self.interval(query)?;
        let what = format!("changes of {} since {since}", query.device);
        let first = self.part_of(since, &origin, &what)?;
        let last = until.as_deref().map(|until| self.part_of(until, &origin, &what)).transpose()?;
        let part = |entry: &SnapshotEntry| {
            entry.taken.device(&origin).map(|device| (device.generation(), device.size(), device.epoch()))
        };
        let not_there = || ApiError::not_found("device", &origin);
        let (generation, size, epoch) = part(&first).ok_or_else(not_there)?;
        if query.generation.is_some_and(|asked| asked != generation) {
            let why = format!("the generation is {generation} now: what changed cannot be compared");
            return Err(ApiError::new(ErrorKind::FullReadNeeded, what, why, "a full read is needed"));
        }
        let (until_part, size) = match last.as_ref().and_then(part) {
            Some((_, later_size, later)) if later >= epoch => (last.clone(), later_size),
            Some(_) => {
                let why = format!("{} was taken before {since}", until.unwrap_or_default());
                return Err(ApiError::invalid(what, why, "ask the other way round"));
            }
            None => (None, size.max(self.read().device(&origin)?.device.geometry().size)),
        };
        let device = first.taken.device(&origin).ok_or_else(not_there)?;
        let ends = until_part.as_ref().and_then(|entry| entry.taken.device(&origin));
        let changed = device.changed(ends).map_err(|error| match error.kind() {
            bowline_block::ErrorKind::Io | bowline_block::ErrorKind::Gone => ApiError::new(
                ErrorKind::FullReadNeeded,
                &what,
                &error,
                "read everything, remove the snapshot that failed, and take a new one",
            ),
            _ => failed(&what, &error),
        })?;
        // What lies beyond the end at the take is new as a whole.
        let grown = ByteRange::between(device.size(), size);
        let extents = merged(changed.into_iter().chain(std::iter::once(grown)));
        Ok(Changes {
            device: query.device.clone(),
            size,
            granularity: GRANULE_BYTES,
            generation: Some(generation),
            since: Some(since.to_owned()),
            until: until_part.map(|entry| entry.name),
            bytes: extents.iter().map(|extent| extent.length).sum(),
            extents,
        })
    }

    /// The snapshot, if it has an image of the device.
    fn part_of(&self, snapshot: &str, origin: &str, what: &str) -> Result<SnapshotEntry, ApiError> {
        let tables = self.read();
        let Ok(entry) = tables.snapshot(snapshot) else {
            let why = format!("there is no snapshot {snapshot} any more, or there never was");
            return Err(ApiError::new(ErrorKind::FullReadNeeded, what, why, "a full read is needed"));
        };
        if !entry.has(origin) {
            let why = format!("snapshot {snapshot} has no image of {origin}");
            return Err(ApiError::new(ErrorKind::NotFound, what, why, "see `bowline snapshot show`"));
        }
        Ok(entry.clone())
    }

    /// The image of a snapshot that has failed holds nothing any more.
    fn is_readable(&self, name: &str, what: &str) -> Result<(), ApiError> {
        let Some((snapshot, _)) = bowline_api::names::split_image(name) else { return Ok(()) };
        let Snapshot { state: SnapshotState::Failed, reason, .. } = self.snapshot_show(snapshot)? else {
            return Ok(());
        };
        let why = format!("snapshot {snapshot} has failed ({})", reason.unwrap_or_default());
        Err(ApiError::new(ErrorKind::Io, what, why, "remove it, and take a new one"))
    }

    fn snapshot_of_epoch(&self, query: &ChangesQuery, epoch: u64) -> Result<String, ApiError> {
        let (origin, _) = self.interval(query)?;
        let tables = self.read();
        // Without a generation it is the epoch of the current one.
        let generation = match query.generation {
            Some(asked) => Some(asked),
            None => tables.device(&origin)?.origin.tracking().generation,
        };
        let found = tables.snapshots.iter().find(|entry| {
            entry
                .taken
                .device(&origin)
                .is_some_and(|device| device.epoch() == epoch && Some(device.generation()) == generation)
        });
        found.map(|entry| entry.name.clone()).ok_or_else(|| {
            let what = format!("changes of {} since {epoch}", query.device);
            let why = "no snapshot is held that has this name, or this epoch of the generation";
            ApiError::new(ErrorKind::FullReadNeeded, what, why, "a full read is needed")
        })
    }

    /// The generation of a device, if it is tracked; of an image, that of its take.
    fn generation_of(&self, name: &str) -> Result<Option<Uuid>, ApiError> {
        let tables = self.read();
        let Some((snapshot, origin)) = bowline_api::names::split_image(name) else {
            return Ok(tables.device(name)?.origin.tracking().generation);
        };
        Ok(tables.snapshot(snapshot)?.taken.device(origin).map(SnapshotDevice::generation))
    }

    /// What is not known to be a hole or zero.
    fn held_by(&self, query: &ChangesQuery) -> Result<Changes, ApiError> {
        let what = format!("changes of {}", query.device);
        if query.until.is_some() {
            return Err(ApiError::invalid(what, "an end is given without a beginning", "add --since"));
        }
        let entry = self.read().device(&query.device)?.clone();
        let generation = self.generation_of(&query.device)?;
        if query.generation.is_some() && query.generation != generation {
            let why = match generation {
                Some(generation) => format!("the generation is {generation} now"),
                None => "no changes of it are tracked".to_owned(),
            };
            let hint = "a full read is needed: leave out --generation";
            return Err(ApiError::new(ErrorKind::FullReadNeeded, what, why, hint));
        }
        self.is_readable(&query.device, &what)?;
        let device = entry.device.clone();
        let queue = self.queues.nth(0).ok_or_else(|| failed_io(&what, std::io::Error::other("no queue")))?;
        let held = queue
            .run(move || async move { data_of(&device).await })
            .map_err(|error| failed_io(&what, error))?
            .map_err(|error| failed(&what, &error))?;
        let extents = merged(held.into_iter());
        Ok(Changes {
            device: query.device.clone(),
            size: entry.device.geometry().size,
            granularity: entry.device.geometry().block_size.bytes(),
            generation,
            since: None,
            until: None,
            bytes: extents.iter().map(|extent| extent.length).sum(),
            extents,
        })
    }
}

/// The ranges of a device that hold data, in pieces so that its gate is never kept for long.
async fn data_of(device: &Arc<Device>) -> bowline_block::Result<Vec<ByteRange>> {
    let whole = device.geometry().whole();
    let mut held = Vec::new();
    let mut at = whole.start();
    while at < whole.end() {
        let found = device.extents(ByteRange::between(at, whole.end()), EXTENTS_AT_ONCE).await?;
        let Some(last) = found.as_slice().last() else { break };
        at = last.range.end();
        held.extend(found.as_slice().iter().filter(|one| !one.kind.reads_zero()).map(|one| one.range));
    }
    Ok(held)
}

fn merged(ranges: impl Iterator<Item = ByteRange>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for range in ranges.filter(|range| !range.is_empty()) {
        match extents.last_mut() {
            Some(last) if last.offset + last.length >= range.start() => {
                last.length = last.length.max(range.end() - last.offset);
            }
            _ => extents.push(Extent { offset: range.start(), length: range.len() }),
        }
    }
    extents
}
