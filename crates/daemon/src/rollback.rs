//! `bowline snapshot rollback`: devices go back to a snapshot while they are in use.
//!
//! A rollback of a persistent snapshot has a log in the state folder and goes on after a restart. One of a plain snapshot
//! cannot: the clean stop waits for it, and a crash in its midst leaves the device with a part of each.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bowline_api::{
    ApiError, ErrorKind, EventKind, Rollback, RollbackState, Snapshot, SnapshotRollback, Uuid,
};
use bowline_block::Store;
use bowline_filter::rollback::{self, RollbackOptions};
use bowline_state::{Folder, RealFolder};

use crate::daemon::{Daemon, FREEZE_LIMIT};
use crate::error::failed;
use crate::snapshot::SnapshotEntry;

/// The folder of the logs in the state folder; each device has one of its name in it.
pub(crate) const FOLDER: &str = "rollbacks";

/// How long one wait for the end of a rollback is, between looks at whether somebody is in a hurry.
const TICK: Duration = Duration::from_millis(200);

/// The last rollback of a device.
#[derive(Clone)]
pub(crate) struct RollbackEntry {
    pub(crate) snapshot: String,
    pub(crate) id: Uuid,
    pub(crate) rollback: rollback::Rollback,
    /// Whether it was put away with the daemon: then that it stops is nothing to tell.
    ended: Arc<AtomicBool>,
}

impl RollbackEntry {
    pub(crate) fn describe(&self, device: &str) -> Rollback {
        let status = self.rollback.status();
        let (state, reason) = match status.state {
            rollback::RollbackState::Running => (RollbackState::Running, None),
            rollback::RollbackState::Done => (RollbackState::Done, None),
            rollback::RollbackState::Failed { reason } => (RollbackState::Failed, Some(reason)),
        };
        Rollback {
            snapshot: self.snapshot.clone(),
            device: device.to_owned(),
            state,
            done: status.done_bytes,
            total: status.total_bytes,
            reason,
        }
    }
}

impl Daemon {
    pub(crate) fn snapshot_rollback(
        &self,
        name: &str,
        request: &SnapshotRollback,
    ) -> Result<Snapshot, ApiError> {
        let _turn = self.change();
        let what = format!("roll back to snapshot {name}");
        self.is_running(&what)?;
        let entry = self.read().snapshot(name)?.clone();
        if entry.removing {
            let hint = "finish removing it";
            return Err(ApiError::new(ErrorKind::Busy, what, "it is being removed", hint));
        }
        let of_snapshot = || entry.taken.devices().iter().map(|device| device.origin().name().to_owned());
        let devices =
            if request.devices.is_empty() { of_snapshot().collect() } else { request.devices.clone() };
        for device in &devices {
            self.may_roll_back(&what, &entry, device)?;
        }
        let mut begun: Vec<&str> = Vec::new();
        for device in &devices {
            if let Err(error) = self.begin_rollback(&what, &entry, device) {
                if begun.is_empty() {
                    return Err(error);
                }
                // What has begun goes on: those devices hold the snapshot's contents already.
                let message = format!("{} (begun before it: {})", error.message, begun.join(", "));
                return Err(ApiError { message, ..error });
            }
            begun.push(device);
        }
        self.snapshot_show(name)
    }

    fn may_roll_back(&self, what: &str, entry: &SnapshotEntry, device: &str) -> Result<(), ApiError> {
        let tables = self.read();
        let size = tables.device(device)?.device.geometry().size;
        let Some(part) = entry.taken.device(device) else {
            let why = format!("it has no image of {device}");
            return Err(ApiError::new(ErrorKind::NotFound, what, why, "see `bowline snapshot show`"));
        };
        if part.size() != size {
            let why = format!("{device} has {size} bytes, and had {} when it was taken", part.size());
            let hint = "resize it to what it had first";
            return Err(ApiError::new(ErrorKind::InvalidRequest, what, why, hint));
        }
        Ok(())
    }

    fn begin_rollback(&self, what: &str, entry: &SnapshotEntry, device: &str) -> Result<(), ApiError> {
        let part = entry.taken.device(device).ok_or_else(|| ApiError::not_found("device", device))?;
        let options = self.rollback_options(what, entry, device)?;
        let rollback = rollback::Rollback::begin(part, &options).map_err(|error| failed(what, &error))?;
        let total = rollback.status().total_bytes;
        self.note_rollback(device, entry, rollback);
        let message = format!("device {device} goes back to snapshot {}", entry.name);
        let event = self.events.draft(EventKind::RollbackStarted, message);
        event.device(device).snapshot(&entry.name).number("total", total).post();
        Ok(())
    }

    fn rollback_options(
        &self,
        what: &str,
        entry: &SnapshotEntry,
        device: &str,
    ) -> Result<RollbackOptions, ApiError> {
        let folder = match self.rollback_folder(device).filter(|_| entry.is_persistent()) {
            None => None,
            Some(path) => {
                let folder = RealFolder::open(&path).map_err(|error| failed(what, &error))?;
                Some(Arc::new(folder) as Arc<dyn Folder>)
            }
        };
        Ok(RollbackOptions {
            tracker: self.read().device(device)?.origin.tracker(),
            folder,
            queue: self.queues.nth(0).cloned(),
            freeze: FREEZE_LIMIT,
        })
    }

    fn rollback_folder(&self, device: &str) -> Option<PathBuf> {
        self.state.as_ref().map(|state| state.path().join(FOLDER).join(device))
    }

    /// Notes it, and tells of its end.
    fn note_rollback(&self, device: &str, entry: &SnapshotEntry, rollback: rollback::Rollback) {
        let ended = Arc::new(AtomicBool::new(false));
        let (snapshot, id, told) = (entry.name.clone(), entry.taken.id(), ended.clone());
        let noted = RollbackEntry { snapshot, id, rollback: rollback.clone(), ended };
        self.write().rollbacks.insert(device.to_owned(), noted);
        let (events, device, snapshot) = (self.events.clone(), device.to_owned(), entry.name.clone());
        let watch = move || {
            let status = loop {
                let status = rollback.wait(Duration::from_secs(60));
                if status.state != rollback::RollbackState::Running {
                    break status;
                }
            };
            if told.load(Ordering::SeqCst) {
                return;
            }
            let (kind, message) = match status.state {
                rollback::RollbackState::Failed { reason } => {
                    let message =
                        format!("device {device} could not go back to snapshot {snapshot}: {reason}");
                    (EventKind::RollbackFailed, message)
                }
                _ => (EventKind::RollbackDone, format!("device {device} is back at snapshot {snapshot}")),
            };
            let event = events.draft(kind, message).device(device).snapshot(snapshot);
            event.number("done", status.done_bytes).number("total", status.total_bytes).post();
        };
        if let Err(error) = std::thread::Builder::new().name("rollback".to_owned()).spawn(watch) {
            tracing::warn!(%error, "nobody tells of the end of a rollback");
        }
    }

    /// Goes on with the rollbacks of persistent snapshots that the last daemon had not finished. A device of which that
    /// cannot be done is a mix of before and after: the names of those, and why.
    pub(crate) fn resume_rollbacks(&self) -> Vec<(String, String)> {
        let devices: Vec<String> =
            self.read().devices.keys().filter(|name| !name.contains('/')).cloned().collect();
        let mut unusable = Vec::new();
        for device in devices {
            if let Err(error) = self.resume_rollback(&device) {
                unusable.push((device, error.message));
            }
        }
        unusable
    }

    fn resume_rollback(&self, device: &str) -> Result<(), ApiError> {
        let what = format!("go on with the rollback of {device}");
        let Some(path) = self.rollback_folder(device).filter(|path| path.is_dir()) else { return Ok(()) };
        let folder = RealFolder::open(&path).map_err(|error| failed(&what, &error))?;
        let found = rollback::check_log(&folder).map_err(|error| failed(&what, &error))?;
        let Some(log) = found else { return Ok(()) };
        let entry = self.read().snapshots.iter().find(|entry| entry.taken.id() == log.snapshot).cloned();
        let part = entry.as_ref().and_then(|entry| entry.taken.device(device).map(|part| (entry, part)));
        let Some((entry, part)) = part else {
            let why = "the snapshot it went back to is not there";
            let hint = "it holds a part of each: restore it from a backup";
            return Err(ApiError::new(ErrorKind::Io, what, why, hint));
        };
        let options = self.rollback_options(&what, entry, device)?;
        let resumed = rollback::Rollback::resume(part, &options).map_err(|error| failed(&what, &error))?;
        if let Some(rollback) = resumed {
            self.note_rollback(device, entry, rollback);
            let message = format!("device {device} goes on to go back to snapshot {}", entry.name);
            let event = self.events.draft(EventKind::RollbackStarted, message);
            event.device(device).snapshot(&entry.name).post();
        }
        Ok(())
    }

    /// Before the daemon ends: what cannot go on after a restart is waited for, unless somebody is in a hurry.
    pub(crate) fn end_rollbacks(&self, hurry: &dyn Fn() -> bool) -> Result<(), ApiError> {
        let all: Vec<_> =
            self.read().rollbacks.iter().map(|(device, entry)| (device.clone(), entry.clone())).collect();
        let mut result = Ok(());
        for (device, entry) in all {
            let rollback = &entry.rollback;
            let begun = Instant::now();
            while !rollback.status().restartable
                && rollback.wait(TICK).state == rollback::RollbackState::Running
                && !hurry()
            {
                if begun.elapsed() < 2 * TICK {
                    tracing::info!(
                        device,
                        "the stop waits for its rollback, which could not go on after a restart"
                    );
                }
            }
            if !rollback.is_over() && !rollback.status().restartable {
                let what = format!("stop while device {device} goes back to snapshot {}", entry.snapshot);
                let why = "it is not there yet, and a plain snapshot ends with the daemon";
                let hint = "restore the device from a backup: it holds a part of each";
                result = result.and(Err(ApiError::new(ErrorKind::Io, what, why, hint)));
            }
            entry.ended.store(true, Ordering::SeqCst);
            rollback.stop();
        }
        result
    }

    /// Before a device is removed by force: a rollback of it that has failed is given up. One that gets on is not.
    pub(crate) fn give_up_rollback(&self, device: &str) -> Result<(), ApiError> {
        let noted = self.read().rollbacks.get(device).cloned();
        let Some(entry) = noted
            .filter(|entry| matches!(entry.rollback.status().state, rollback::RollbackState::Failed { .. }))
        else {
            return Ok(());
        };
        let of = self.read().snapshots.iter().find(|one| one.taken.id() == entry.id).cloned();
        let Some(part) = of.as_ref().and_then(|of| of.taken.device(device)) else { return Ok(()) };
        entry.ended.store(true, Ordering::SeqCst);
        let what = format!("give up the rollback of {device}");
        entry.rollback.give_up(part).map_err(|error| failed(what, &error))?;
        self.write().rollbacks.remove(device);
        let snapshot = &entry.snapshot;
        let message = format!(
            "the rollback of device {device} to snapshot {snapshot} was given up: its contents are a mix of both"
        );
        self.events.draft(EventKind::RollbackFailed, message).device(device).snapshot(snapshot).post();
        Ok(())
    }

    /// Refuses what a device cannot have done to it while it goes back to a snapshot.
    pub(crate) fn is_not_rolling_back(&self, what: &str, device: &str) -> Result<(), ApiError> {
        match self.read().rollbacks.get(device).filter(|entry| !entry.rollback.is_over()) {
            None => Ok(()),
            Some(entry) => {
                let snapshot = &entry.snapshot;
                if let rollback::RollbackState::Failed { reason } = entry.rollback.status().state {
                    let why = format!("{device} could not go back to snapshot {snapshot}: {reason}");
                    let hint = format!(
                        "go on with it: `bowline snapshot rollback {snapshot} {device}`; or give it up with the device: \
                         `bowline device remove {device} --force`"
                    );
                    return Err(ApiError::new(ErrorKind::Busy, what, why, hint));
                }
                let why = format!("{device} goes back to snapshot {snapshot}");
                let hint = "wait for its end: `bowline device show` tells how far it is";
                Err(ApiError::new(ErrorKind::Busy, what, why, hint))
            }
        }
    }
}
