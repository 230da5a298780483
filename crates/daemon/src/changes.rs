//! `bowline changes`: what changed on a device since a snapshot, or what it holds at all.

mod page;

use bowline_api::{ApiError, Changes, ChangesQuery, ErrorKind, Snapshot, SnapshotState, Uuid};
use bowline_block::{ByteRange, Store};
use bowline_filter::cow::{GRANULE_BYTES, SnapshotDevice};

use crate::daemon::Daemon;
use crate::error::failed;
use crate::snapshot::SnapshotEntry;
use page::Pager;

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
        let mut pager = Pager::new(query, size, GRANULE_BYTES)?;
        let _ = changed.into_iter().chain(std::iter::once(grown)).all(|range| pager.push(range));
        let page = pager.finish();
        let end_name = match &until_part {
            Some(entry) => bowline_api::names::image(&entry.name, &origin),
            None => origin.clone(),
        };
        let end = self.read().device(&end_name)?.device.clone();
        Ok(Changes {
            device: query.device.clone(),
            size,
            granularity: GRANULE_BYTES,
            generation: Some(generation),
            since: Some(since.to_owned()),
            since_epoch: Some(epoch),
            until_epoch: until_part.as_ref().and_then(part).map(|(_, _, epoch)| epoch),
            until: until_part.map(|entry| entry.name),
            bytes: page.extents.iter().map(|extent| extent.length).sum(),
            zeroes: self.zeroes_of(&end, &page.extents, &what)?,
            extents: page.extents,
            next: page.next,
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
        let geometry = entry.device.geometry();
        let granularity = geometry.block_size.bytes();
        let pager = Pager::new(query, geometry.size, granularity)?;
        let page = self.page_of_data(&entry.device, pager, &what)?;
        Ok(Changes {
            device: query.device.clone(),
            size: geometry.size,
            granularity,
            generation,
            since: None,
            since_epoch: None,
            until: None,
            until_epoch: None,
            bytes: page.extents.iter().map(|extent| extent.length).sum(),
            extents: page.extents,
            zeroes: Vec::new(),
            next: page.next,
        })
    }
}
