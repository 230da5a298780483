//! `bowline device track`, and what it takes to track a device: the tracker in its stack, its files in the state folder.

pub(crate) mod files;

use std::sync::Arc;

use bowline_api::{ApiError, ChangesMark, Continuity, ErrorKind, EventKind, Tracking};
use bowline_block::{ByteRange, Filter, Store};
use bowline_device::{FilterId, freeze_all};
use bowline_filter::track::{self, TRACK_ALTITUDE, TrackEvents, Tracker};

use crate::daemon::{Daemon, FREEZE_LIMIT};
use crate::error::failed;
use crate::events::EventLog;
use crate::tables::DeviceEntry;

pub(crate) use files::Before;

/// A device's tracker, in its stack.
#[derive(Clone)]
pub(crate) struct Tracked {
    pub(crate) tracker: Arc<Tracker>,
    filter: FilterId,
    before: Before,
    continuity: track::Continuity,
}

impl Tracked {
    pub(crate) fn describe(&self) -> Tracking {
        let status = self.tracker.status();
        Tracking {
            enabled: true,
            durable: status.durable,
            generation: Some(status.generation),
            epoch: Some(status.epoch),
            granularity: Some(status.granularity),
            continuity: Some(match &self.continuity {
                track::Continuity::Clean => Continuity::Clean,
                track::Continuity::AfterCrash { .. } => Continuity::AfterCrash,
                track::Continuity::Renewed { .. } => Continuity::Renewed,
            }),
            continuity_reason: match &self.continuity {
                track::Continuity::Clean => None,
                track::Continuity::AfterCrash { regions, bytes } => {
                    Some(format!("{regions} regions of {bytes} bytes count as changed for it"))
                }
                track::Continuity::Renewed { reason } => Some(reason.clone()),
            },
            map_bytes: Some(self.tracker.memory_bytes()),
        }
    }
}

/// Turns what a tracker tells about itself into events.
struct Teller(Arc<EventLog>);

impl TrackEvents for Teller {
    fn renewed(&self, device: &str, reason: &str) {
        let message =
            format!("what changed on {device} is counted anew, a full read is needed once: {reason}");
        self.0.draft(EventKind::TrackingRenewed, message).device(device).post();
    }

    fn not_durable(&self, device: &str, reason: &str) {
        let message = format!("what changes on {device} is tracked until the daemon ends only: {reason}");
        self.0.draft(EventKind::Notice, message).device(device).post();
        // Its session is another one from here on.
        self.0.wish_saved();
    }
}

impl Daemon {
    pub(crate) fn device_track(&self, name: &str, enabled: bool) -> Result<bowline_api::Device, ApiError> {
        let _turn = self.change();
        let verb = if enabled { "track" } else { "untrack" };
        let what = format!("{verb} device {name}");
        self.is_running(&what)?;
        let entry = self.trackable(&what, name)?;
        match (enabled, entry.origin.tracked()) {
            (true, None) => {
                self.track(&what, &entry, Before::IsForgotten)?;
                self.tell_tracking(&entry);
            }
            (false, Some(tracked)) => self.untrack(&what, &entry, &tracked)?,
            _ => return self.device_show(name),
        }
        if let Some(asked) = self.write().devices.get_mut(name).and_then(|entry| entry.asked.as_mut()) {
            asked.track = enabled;
        }
        self.save(format_args!("device {name} is {verb}ed"))?;
        self.device_show(name)
    }

    fn trackable(&self, what: &str, name: &str) -> Result<DeviceEntry, ApiError> {
        let entry = self.read().device(name)?.clone();
        if entry.asked.is_none() {
            let why = "it is an image: what is written to it counts by itself";
            return Err(ApiError::new(ErrorKind::Unsupported, what, why, "track the device itself"));
        }
        if entry.read_only {
            let hint = "remove it and add it without --read-only";
            return Err(ApiError::new(
                ErrorKind::Unsupported,
                what,
                "it is read-only: nothing changes",
                hint,
            ));
        }
        Ok(entry)
    }

    /// Puts a tracker into the stack of a device.
    pub(crate) fn track(&self, what: &str, entry: &DeviceEntry, before: Before) -> Result<(), ApiError> {
        let frozen = freeze_all(std::slice::from_ref(&entry.device), FREEZE_LIMIT)
            .map_err(|error| failed(what, &error))?;
        let track::Opened { tracker, continuity } = self.open_tracker(entry, before)?;
        for frozen in &frozen {
            let attached: Arc<dyn Filter> = tracker.clone();
            let attached = frozen.attach(attached, TRACK_ALTITUDE, None);
            let filter = attached.map_err(|error| failed(what, &error))?;
            let (tracker, continuity) = (tracker.clone(), continuity.clone());
            entry.origin.track(Some(Tracked { tracker, filter, before, continuity }));
        }
        Ok(())
    }

    /// Tells that the device is tracked.
    pub(crate) fn tell_tracking(&self, entry: &DeviceEntry) {
        let name = entry.device.name();
        let Some(tracked) = entry.origin.tracked() else { return };
        let draft = |kind, message: String| self.events.draft(kind, message).device(name);
        match (tracked.before, &tracked.continuity) {
            (Before::IsForgotten, _) => {
                let message = format!("what changes on device {name} is tracked from here on");
                draft(EventKind::TrackingStarted, message).post();
            }
            (_, track::Continuity::Clean) => {
                let message = format!("what changed on device {name} is known exactly");
                draft(EventKind::TrackingResumed, message).post();
            }
            (_, track::Continuity::AfterCrash { regions, bytes }) => {
                let message = format!(
                    "what changed on device {name} is known, also after a crash: {bytes} bytes more may count as changed"
                );
                let event = draft(EventKind::TrackingResumed, message);
                event.number("regions", *regions).number("bytes", *bytes).post();
            }
            (_, track::Continuity::Renewed { reason }) => {
                let message = format!(
                    "what changed on device {name} is counted anew, a full read is needed once: {reason}"
                );
                draft(EventKind::TrackingRenewed, message).post();
            }
        }
    }

    /// Takes the tracker out of the stack, and forgets what it knew.
    fn untrack(&self, what: &str, entry: &DeviceEntry, tracked: &Tracked) -> Result<(), ApiError> {
        let frozen = freeze_all(std::slice::from_ref(&entry.device), FREEZE_LIMIT)
            .map_err(|error| failed(what, &error))?;
        for frozen in &frozen {
            frozen.detach(tracked.filter).map_err(|error| failed(what, &error))?;
        }
        drop(frozen);
        entry.origin.track(None);
        let name = entry.device.name();
        self.forget_tracker(name);
        let message = format!("what changes on device {name} is no longer tracked");
        self.events.draft(EventKind::TrackingStopped, message).device(name).post();
        Ok(())
    }

    /// Counts a range of a device as changed.
    pub(crate) fn changes_mark(&self, name: &str, request: ChangesMark) -> Result<(), ApiError> {
        let what = format!("mark {name}");
        let entry = self.read().device(name)?.clone();
        let Some(tracker) = entry.origin.tracker() else {
            let hint = format!("track it first: `bowline device track {name}`");
            return Err(ApiError::new(ErrorKind::Unsupported, what, "it is not tracked", hint));
        };
        let size = entry.device.geometry().size;
        let range = ByteRange::new(request.offset, request.length);
        if range.end() > size {
            let why = format!("bytes {range} are not within its {size}");
            return Err(ApiError::new(ErrorKind::OutOfRange, what, why, "mark within the device"));
        }
        tracker.mark_blocking(range);
        Ok(())
    }
}
