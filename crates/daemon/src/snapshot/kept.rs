//! Persistent snapshots: what the state document has of them, putting them away at the stop, and bringing them back.
//!
//! The document decides which are held: a take is noted there once it is recorded in the devices' journals, a removal
//! before it is done. So whatever moment a crash chooses, the journals know at least what the document says.

use std::sync::Arc;
use std::time::Duration;

use bowline_api::{ApiError, ErrorKind, EventKind, Extent, SnapshotTake, Source, Timestamp};
use bowline_block::ByteRange;
use bowline_filter::cow;
use bowline_filter::track::Closed;
use bowline_state::{Folder, RealFolder};

use super::entry::SnapshotEntry;
use super::teller::Teller;
use crate::daemon::{Daemon, FREEZE_LIMIT};
use crate::error::failed;
use crate::state::{KeptDevice, KeptSnapshot};
use crate::tables::DeviceEntry;

/// The folder of the journals in the state folder.
pub(crate) const FOLDER: &str = "snapshots";

impl Daemon {
    /// Where the journals are. None without a state folder.
    pub(super) fn journals(&self, what: &str) -> Result<Option<Arc<dyn Folder>>, ApiError> {
        let Some(state) = &self.state else { return Ok(None) };
        let folder = RealFolder::open(&state.path().join(FOLDER)).map_err(|error| failed(what, &error))?;
        Ok(Some(Arc::new(folder)))
    }

    /// Where the journals of a persistent snapshot are to be.
    pub(super) fn journals_for(
        &self,
        what: &str,
        request: &SnapshotTake,
        origins: &[DeviceEntry],
    ) -> Result<Option<Arc<dyn Folder>>, ApiError> {
        if !request.persistent {
            return Ok(None);
        }
        let fleeting = |entry: &&DeviceEntry| {
            let source = entry.asked.as_ref().and_then(|asked| asked.source.parse().ok());
            matches!(source, Some(Source::Memory(_) | Source::Null(_)))
        };
        if let Some(entry) = origins.iter().find(fleeting) {
            let why = format!("what is on device {} ends with the daemon", entry.device.name());
            let hint = "leave out --persistent, or that device";
            return Err(ApiError::new(ErrorKind::Unsupported, what, why, hint));
        }
        let journals = self.journals(what)?;
        if journals.is_none() {
            let why = "a persistent snapshot needs a state folder, and this daemon has none";
            return Err(ApiError::new(ErrorKind::Unsupported, what, why, "start it with --state DIR"));
        }
        Ok(journals)
    }

    /// Brings back the persistent snapshots of the last daemon. The devices are there, and nobody uses them yet.
    pub(crate) fn bring_back_snapshots(&self, kept: Vec<KeptSnapshot>) -> Result<(), ApiError> {
        let what = "bring back persistent snapshots";
        let Some(folder) = self.journals(what)? else { return Ok(()) };
        let devices: Vec<DeviceEntry> = self.read().devices.values().cloned().collect();
        let returned: Vec<_> = devices.iter().map(|entry| self.returned(entry)).collect();
        let held: Vec<_> = kept.iter().map(held_of).collect();
        let recovery = cow::Recovery {
            folder: &folder,
            devices: &returned,
            held: &held,
            open: &cow::DiffStorage::reopen,
            events: &|_| Arc::new(Teller(self.events.clone())),
            limits: cow::Limits { freeze: FREEZE_LIMIT, ..cow::Limits::default() },
        };
        let snapshots = cow::recover(&recovery).map_err(|error| failed(what, &error))?;
        for (kept, taken) in kept.into_iter().zip(snapshots) {
            let is_whole = kept.devices.iter().all(|one| taken.device(&one.name).is_some());
            for part in taken.devices() {
                if let Ok(entry) = self.read().device(part.origin().name())
                    && !part.history().is_over()
                {
                    entry.origin.keep(Some(part.history().clone()));
                }
            }
            let entry = SnapshotEntry {
                name: kept.name.clone(),
                hold_timeout_ms: kept.hold_timeout_ms,
                frozen: kept.frozen.clone(),
                taken: Arc::new(taken),
                removing: false,
                kept: Some(super::entry::Kept { document: kept, is_whole }),
            };
            self.tell_returned(&entry);
            self.note_snapshot(entry);
        }
        Ok(())
    }

    fn returned(&self, entry: &DeviceEntry) -> cow::Returned {
        cow::Returned {
            device: entry.device.clone(),
            tracker: entry.origin.tracker(),
            // What cannot be looked at is not what it was.
            fingerprint: self.fingerprint_bytes(entry).unwrap_or_default(),
        }
    }

    fn tell_returned(&self, entry: &SnapshotEntry) {
        let name = &entry.name;
        match entry.taken.state() {
            cow::SnapshotState::Active => {
                let message = format!("persistent snapshot {name} is back");
                self.events.draft(EventKind::SnapshotResumed, message).snapshot(name).post();
            }
            // That was told when it failed, or as it came back.
            cow::SnapshotState::Failed { reason } => {
                tracing::warn!(snapshot = name, reason, "a persistent snapshot is not exact any more");
            }
        }
    }

    /// Puts the persistent snapshots of a device away for the next start: it is flushed, and about to end.
    pub(crate) fn suspend_snapshots(&self, entry: &DeviceEntry) -> Result<(), ApiError> {
        let name = entry.device.name();
        let Some(history) = entry.origin.history().filter(|history| history.has_persistent()) else {
            return Ok(());
        };
        let what = format!("put the snapshots of device {name} away");
        let fingerprint = self.fingerprint_bytes(entry).map_err(|error| failed(&what, &error))?;
        history.suspend(fingerprint).map_err(|error| failed(&what, &error))
    }

    /// Ends the images of the persistent snapshots of a device, after what was written to them is durable.
    pub(crate) fn end_images_of(&self, device: &str) -> Result<(), ApiError> {
        let of_device: Vec<SnapshotEntry> = self.read().snapshots_of(device).cloned().collect();
        let mut result = Ok(());
        for entry in of_device.iter().filter(|entry| entry.is_persistent()) {
            let image = bowline_api::names::image(&entry.name, device);
            let found = self.read().devices.get(&image).map(|entry| entry.device.clone());
            let Some(found) = found else { continue };
            self.disconnect(&image);
            // An image that has failed has nothing to keep.
            if entry.taken.state() == cow::SnapshotState::Active {
                result = result.and(self.flush(&found));
            }
            result = result.and(self.take_out_image(&image));
        }
        result
    }
}

/// What the document is to have of a snapshot that was just taken.
pub(super) fn document_of(
    taken: &cow::Snapshot,
    excluded: &[Vec<ByteRange>],
    hold: Option<Duration>,
) -> KeptSnapshot {
    let devices = taken.devices().iter().zip(excluded).map(|(part, excluded)| KeptDevice {
        name: part.origin().name().to_owned(),
        generation: part.tracked().map(|closed| closed.generation),
        epoch: part.tracked().map(|closed| closed.epoch),
        excluded: excluded
            .iter()
            .map(|range| Extent { offset: range.start(), length: range.len() })
            .collect(),
    });
    KeptSnapshot {
        name: taken.name().to_owned(),
        id: taken.id(),
        taken_at: Timestamp::from_system(taken.taken_at()),
        frozen_us: u64::try_from(taken.frozen_for().as_micros()).unwrap_or(u64::MAX),
        hold_timeout_ms: hold.map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
        frozen: Vec::new(),
        devices: devices.collect(),
        failed: None,
    }
}

fn held_of(kept: &KeptSnapshot) -> cow::HeldSnapshot {
    let devices = kept.devices.iter().map(|one| cow::HeldDevice {
        name: one.name.clone(),
        tracked: one.generation.zip(one.epoch).map(|(generation, epoch)| Closed { epoch, generation }),
        excluded: one.excluded.iter().map(|extent| ByteRange::new(extent.offset, extent.length)).collect(),
    });
    let hold = kept.hold_timeout_ms.map(Duration::from_millis);
    cow::HeldSnapshot {
        name: kept.name.clone(),
        id: kept.id,
        taken_at: std::time::UNIX_EPOCH + Duration::from_micros(kept.taken_at.unix_us()),
        on_full: hold.map_or(cow::OnFull::Drop, |timeout| cow::OnFull::Hold { timeout }),
        devices: devices.collect(),
        failed: kept.failed.clone(),
    }
}
