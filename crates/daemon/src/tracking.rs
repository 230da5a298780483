//! `bowline device track`, and what it takes to track a device: the tracker in its stack, its files in the state folder.

use std::sync::Arc;

use bowline_api::{ApiError, ChangesMark, Continuity, ErrorKind, EventKind, Tracking};
use bowline_block::{ByteRange, Filter, Store};
use bowline_device::{Device, FilterId, freeze_all};
use bowline_filter::track::{TRACK_ALTITUDE, TrackEvents, Tracker};

use crate::daemon::{Daemon, FREEZE_LIMIT};
use crate::error::failed;
use crate::events::EventLog;
use crate::tables::DeviceEntry;

/// A device's tracker, in its stack.
#[derive(Clone)]
pub(crate) struct Tracked {
    pub(crate) tracker: Arc<Tracker>,
    filter: FilterId,
    continuity: Option<Continuity>,
    reason: Option<String>,
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
            continuity: self.continuity,
            continuity_reason: self.reason.clone(),
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
                self.track(&what, &entry)?;
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
    pub(crate) fn track(&self, what: &str, entry: &DeviceEntry) -> Result<(), ApiError> {
        let device = &entry.device;
        let size = device.geometry().size;
        let tracker = Tracker::memory(device.name(), size, Arc::new(Teller(self.events.clone())));
        let filter = attach(device, tracker.clone()).map_err(|error| failed(what, &error))?;
        let (continuity, reason) = (Some(Continuity::Renewed), Some("tracking began".to_owned()));
        entry.origin.track(Some(Tracked { tracker, filter, continuity, reason }));
        Ok(())
    }

    /// Tells that the device is tracked.
    pub(crate) fn tell_tracking(&self, entry: &DeviceEntry) {
        if entry.origin.tracked().is_some() {
            let name = entry.device.name();
            let message = format!("what changes on device {name} is tracked from here on");
            self.events.draft(EventKind::TrackingStarted, message).device(name).post();
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

fn attach(device: &Arc<Device>, tracker: Arc<Tracker>) -> bowline_block::Result<FilterId> {
    let frozen = freeze_all(std::slice::from_ref(device), FREEZE_LIMIT)?;
    let filter: Arc<dyn Filter> = tracker;
    let mut attached =
        Err(bowline_block::Error::new(bowline_block::ErrorKind::Gone, "it is not there any more"));
    for frozen in &frozen {
        attached = frozen.attach(filter.clone(), TRACK_ALTITUDE, None);
    }
    attached
}
