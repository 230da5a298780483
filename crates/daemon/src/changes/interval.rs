//! Which interval a question is about: names and epochs, looked up among the snapshots that are held and in the tracker.

use std::sync::Arc;

use bowline_api::{ApiError, ChangesQuery, ErrorKind, Uuid};
use bowline_block::ByteRange;
use bowline_filter::track::Tracker;

use crate::daemon::Daemon;
use crate::snapshot::SnapshotEntry;

/// An end of an interval: a take of a device.
pub(super) struct Point {
    pub(super) name: String,
    /// Its snapshot, while it is held.
    pub(super) held: Option<SnapshotEntry>,
    /// Its number in the tracker, if that counts it.
    pub(super) tracked: Option<u64>,
    /// Its number, and the generation it is of.
    pub(super) epoch: u64,
    pub(super) generation: Uuid,
}

/// What a question is about.
pub(super) struct Interval {
    /// The device itself, also where the question is about an image.
    pub(super) origin: String,
    pub(super) tracker: Option<Arc<Tracker>>,
    pub(super) since: Point,
    pub(super) until: Option<Point>,
}

fn full_read(what: &str, why: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorKind::FullReadNeeded, what, why, "a full read is needed")
}

impl Daemon {
    pub(super) fn interval(
        &self,
        query: &ChangesQuery,
        since: &str,
        what: &str,
    ) -> Result<Interval, ApiError> {
        let (origin, until) = self.origin_and_end(query)?;
        let tracker = self.read().device(&origin)?.origin.tracker();
        let since = self.point(query, &origin, tracker.as_ref(), since, what)?;
        let until =
            until.map(|until| self.point(query, &origin, tracker.as_ref(), &until, what)).transpose()?;
        if let Some(asked) = query.generation {
            for point in [Some(&since), until.as_ref()].into_iter().flatten() {
                if point.generation != asked {
                    let why = format!("the generation of {} is {}", point.name, point.generation);
                    return Err(full_read(what, format!("{why}: what changed cannot be compared")));
                }
            }
        }
        Ok(Interval { origin, tracker, since, until })
    }

    /// The origin the question is about, and what ends the interval: for an image, its own snapshot.
    pub(super) fn origin_and_end(&self, query: &ChangesQuery) -> Result<(String, Option<String>), ApiError> {
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

    /// The take of that name. A name is more than a number: who named a snapshot 5 means that one.
    fn point(
        &self,
        query: &ChangesQuery,
        origin: &str,
        tracker: Option<&Arc<Tracker>>,
        name: &str,
        what: &str,
    ) -> Result<Point, ApiError> {
        if let Ok(entry) = self.read().snapshot(name) {
            return Point::of_held(entry, origin, tracker).ok_or_else(|| {
                let why = format!("snapshot {name} has no image of {origin}");
                ApiError::new(ErrorKind::NotFound, what, why, "see `bowline snapshot show`")
            });
        }
        let numbered = name.parse().ok();
        if let Some(tracker) = tracker {
            let generation = tracker.generation();
            let epoch = tracker.epoch_of(name);
            let asked = numbered.filter(|_| query.generation.is_none_or(|asked| asked == generation));
            if let Some(epoch) = epoch.or(asked) {
                return Ok(Point {
                    name: name.to_owned(),
                    held: None,
                    tracked: Some(epoch),
                    epoch,
                    generation,
                });
            }
        }
        if let Some(epoch) = numbered
            && let Some(point) = self.point_of_epoch(query, origin, tracker, epoch)
        {
            return Ok(point);
        }
        if numbered.is_some() {
            let why = match (query.generation, tracker.map(|tracker| tracker.generation())) {
                (Some(asked), Some(now)) => {
                    format!("epochs of generation {asked} mean nothing any more, {origin} is in {now}")
                }
                _ => "no snapshot is held that has this name, or this epoch of the generation".to_owned(),
            };
            return Err(full_read(what, why));
        }
        let why = format!("there is no snapshot {name} any more, or there never was");
        let hint = "name one that `bowline snapshot list` shows; without one, a full read is needed";
        Err(ApiError::new(ErrorKind::FullReadNeeded, what, why, hint))
    }

    /// The snapshot that is held and whose take has this number.
    fn point_of_epoch(
        &self,
        query: &ChangesQuery,
        origin: &str,
        tracker: Option<&Arc<Tracker>>,
        epoch: u64,
    ) -> Option<Point> {
        let tables = self.read();
        // Without a generation it is the epoch of the current one.
        let generation = match query.generation {
            Some(asked) => Some(asked),
            None => tables.device(origin).ok()?.origin.tracking().generation,
        };
        let mut points = tables.snapshots.iter().filter_map(|entry| Point::of_held(entry, origin, tracker));
        points.find(|point| point.epoch == epoch && Some(point.generation) == generation)
    }
}

impl Interval {
    /// What was written to the image that the interval begins with, while there is one: who has a copy of that needs those
    /// blocks whenever they were written, also behind the end of the interval.
    pub(super) fn written_to_first(&self) -> Vec<ByteRange> {
        let device = self.since.held.as_ref().and_then(|held| held.taken.device(&self.origin));
        device.map(|device| device.image().written()).unwrap_or_default()
    }

    /// What was written to the image that the interval ends with.
    pub(super) fn written_to_image(&self) -> Vec<ByteRange> {
        let held = self.until.as_ref().and_then(|until| until.held.as_ref());
        let device = held.and_then(|held| held.taken.device(&self.origin));
        device.map(|device| device.image().written()).unwrap_or_default()
    }
}

impl Point {
    fn of_held(entry: &SnapshotEntry, origin: &str, tracker: Option<&Arc<Tracker>>) -> Option<Self> {
        let device = entry.taken.device(origin)?;
        let now = tracker.map(|tracker| tracker.generation());
        let tracked = device.tracked().filter(|closed| Some(closed.generation) == now);
        Some(Self {
            name: entry.name.clone(),
            held: Some(entry.clone()),
            tracked: tracked.map(|closed| closed.epoch),
            epoch: device.epoch(),
            generation: device.generation(),
        })
    }
}
