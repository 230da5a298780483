//! `bowline changes`: what changed on a device since a snapshot, or what it holds at all.
//!
//! A tracked device is asked its tracker, which knows all takes of the generation, also of snapshots that are gone. Of any
//! other device it is known what was preserved for the snapshots that are held.

mod interval;
mod page;

use bowline_api::{ApiError, Changes, ChangesQuery, ErrorKind, Snapshot, SnapshotState, Uuid};
use bowline_block::{ByteRange, Store};
use bowline_filter::cow::{GRANULE_BYTES, SnapshotDevice};
use bowline_filter::track::ChangeSet;

use crate::bitmaps::merged;
use crate::daemon::Daemon;
use crate::error::failed;
use interval::{Interval, Point};
use page::Pager;

/// What changed in an interval, by whom it was answered.
enum Found {
    Tracked(ChangeSet),
    Preserved { ranges: Vec<ByteRange>, size: u64 },
}

impl Found {
    fn size(&self) -> u64 {
        match self {
            Found::Tracked(set) => set.size(),
            Found::Preserved { size, .. } => *size,
        }
    }

    fn granularity(&self) -> u64 {
        match self {
            Found::Tracked(set) => set.granularity(),
            Found::Preserved { .. } => GRANULE_BYTES,
        }
    }

    /// Fills a page with it, and with what else there is.
    fn fill(&self, pager: &mut Pager, more: &[ByteRange]) {
        let unit = self.granularity();
        let size = self.size();
        // In blocks as large as the others, which may overlap then: the pager joins what does.
        let more = more.iter().filter(|range| range.start() < size).map(|range| {
            let start = range.start() / unit * unit;
            ByteRange::between(start, range.end().next_multiple_of(unit).min(size))
        });
        let begin = pager.begin();
        let _ = match self {
            Found::Tracked(set) => merged(set.ranges(begin), more).all(|range| pager.push(range)),
            Found::Preserved { ranges, .. } => {
                merged(ranges.iter().copied(), more).all(|range| pager.push(range))
            }
        };
    }
}

impl Daemon {
    pub(crate) fn changes_of(&self, query: &ChangesQuery) -> Result<Changes, ApiError> {
        match &query.since {
            None => self.held_by(query),
            Some(since) => self.changed_since(query, since),
        }
    }

    fn changed_since(&self, query: &ChangesQuery, since: &str) -> Result<Changes, ApiError> {
        let what = format!("changes of {} since {since}", query.device);
        let (origin, _) = self.origin_and_end(query)?;
        let entry = self.read().devices.get(&origin).cloned();
        entry.iter().for_each(|entry| self.note_loss_of(entry));
        let interval = self.interval(query, since, &what)?;
        let found = self.changed_in(&interval, &what)?;
        // What was written to an image is a change of the image, and none of its origin.
        let of_image = bowline_api::names::split_image(&query.device).is_some();
        let last = if of_image { interval.written_to_image() } else { Vec::new() };
        let written: Vec<_> =
            crate::bitmaps::merged(interval.written_to_first().into_iter(), last.into_iter()).collect();
        let mut pager = Pager::new(query, found.size(), found.granularity())?;
        found.fill(&mut pager, &written);
        let page = pager.finish();
        // What reads as zeroes at the end can be told where the end can be read.
        let end = match &interval.until {
            None => Some(interval.origin.clone()),
            Some(until) => {
                until.held.as_ref().map(|held| bowline_api::names::image(&held.name, &interval.origin))
            }
        };
        let end = end.and_then(|end| self.read().devices.get(&end).map(|entry| entry.device.clone()));
        let mut zeroes = match end {
            Some(end) => self.zeroes_of(&end, &page.extents, &what)?,
            None => Vec::new(),
        };
        if !of_image {
            // The image tells what it holds now, not what the origin held at the take.
            page::leave_out(&mut zeroes, &interval.written_to_image());
        }
        let Interval { since: first, until, .. } = interval;
        Ok(Changes {
            device: query.device.clone(),
            size: found.size(),
            granularity: found.granularity(),
            generation: Some(match &found {
                Found::Tracked(set) => set.generation(),
                Found::Preserved { .. } => first.generation,
            }),
            since: Some(since.to_owned()),
            since_epoch: Some(first.epoch),
            until_epoch: until.as_ref().map(|until| until.epoch),
            until: until.map(|until| until.name),
            bytes: page.extents.iter().map(|extent| extent.length).sum(),
            extents: page.extents,
            zeroes,
            next: page.next,
        })
    }

    /// Asks whoever knows.
    fn changed_in(&self, interval: &Interval, what: &str) -> Result<Found, ApiError> {
        let Interval { origin, tracker, since, until } = interval;
        let end = until.as_ref().map(|until| until.tracked);
        if let (Some(tracker), Some(first)) = (tracker, since.tracked)
            && end.is_none_or(|end| end.is_some())
        {
            let set = tracker.changed_in(since.generation, first, end.flatten());
            return set.map(Found::Tracked).map_err(|error| unknown(what, since, until.as_ref(), &error));
        }
        let (Some(first), false) = (&since.held, until.as_ref().is_some_and(|until| until.held.is_none()))
        else {
            let why = "one of its ends is tracked and the other is not, or no longer";
            return Err(ApiError::new(ErrorKind::FullReadNeeded, what, why, "a full read is needed"));
        };
        let not_there = || ApiError::not_found("device", origin);
        let first = first.taken.device(origin).ok_or_else(not_there)?;
        let last = until.as_ref().and_then(|until| until.held.as_ref());
        let last = last.and_then(|last| last.taken.device(origin));
        let size = match last {
            Some(last) => last.size(),
            None => first.size().max(self.read().device(origin)?.device.geometry().size),
        };
        let mut ranges = first.changed(last).map_err(|error| unknown(what, since, until.as_ref(), &error))?;
        // What lies beyond the end at the take is new as a whole.
        ranges.push(ByteRange::between(first.size(), size));
        Ok(Found::Preserved { ranges, size })
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

/// Why what changed cannot be told.
fn unknown(what: &str, since: &Point, until: Option<&Point>, error: &bowline_block::Error) -> ApiError {
    use bowline_block::ErrorKind as Kind;
    match (error.kind(), until) {
        (Kind::Io, _) => ApiError::new(
            ErrorKind::FullReadNeeded,
            what,
            error,
            "read everything, remove the snapshot that failed, and take a new one",
        ),
        (Kind::Gone, _) => ApiError::new(ErrorKind::FullReadNeeded, what, error, "a full read is needed"),
        (Kind::Invalid, Some(until)) => {
            let why = format!("{} was taken before {}", until.name, since.name);
            ApiError::invalid(what, why, "ask the other way round")
        }
        _ => failed(what, error),
    }
}
