//! The state folder: what outlives the daemon.
//!
//! One JSON document, replaced whole: written beside the old one, made durable, renamed over it, and the folder made
//! durable. A crash leaves the old or the new document, never a mix. A lock file keeps a second daemon out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bowline_api::{ApiError, DeviceAdd, ErrorKind, ExportAdd, Extent, ListenAddr, Timestamp, Uuid};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::failed_io;

pub(crate) const FILE: &str = "state.json";
pub(crate) const LOCK: &str = "lock";
pub(crate) const VERSION: u32 = 2;
/// The oldest version that is read. What it lacks is empty.
pub(crate) const VERSION_OLDEST: u32 = 1;
/// A state document beyond this is not ours.
pub(crate) const BYTES_MAX: u64 = 64 << 20;

/// What is kept. The byte form is documented in `docs/format/state.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// Version of this form.
    pub(crate) version: u32,
    /// Devices, as they were asked for.
    pub(crate) devices: Vec<DeviceAdd>,
    /// Exports of devices, as they were asked for.
    pub(crate) exports: Vec<ExportAdd>,
    /// Devices that were taken off a listener, which would serve them by name otherwise.
    #[serde(default)]
    pub(crate) hidden: Vec<Hidden>,
    /// Snapshots that do not outlive the daemon: named so that their end can be told.
    #[serde(default)]
    pub(crate) plain_snapshots: Vec<String>,
    /// Snapshots that outlive the daemon, oldest first.
    #[serde(default)]
    pub(crate) persistent_snapshots: Vec<KeptSnapshot>,
    /// The session of each device's tracker: its files are believed if they are of that one.
    #[serde(default)]
    pub(crate) tracker_sessions: BTreeMap<String, Uuid>,
    /// Events have numbers up to this one at most.
    #[serde(default)]
    pub(crate) events_reserved: u64,
}

/// A device that a listener does not serve, because its export there was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hidden {
    pub(crate) device: String,
    /// Where; none: the daemon's own listener, wherever that is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<ListenAddr>,
}

/// The folder, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Makes the folder if it is missing, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, ApiError> {
        let what = format!("open state folder {}", path.display());
        if path.exists() && !path.is_dir() {
            let hint = "name a folder with --state; it is made if it is missing";
            return Err(ApiError::invalid(what, "it is a file, not a folder", hint));
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failed_io(&what, error))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(|error| failed_io(&what, error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            ApiError::new(
                ErrorKind::Busy,
                &what,
                "another daemon uses it",
                "stop that one, or name another folder with --state",
            )
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Whether a path is in the folder, through links too; also when nothing is there yet.
    pub(crate) fn holds(&self, path: &Path) -> bool {
        let real = path.canonicalize().or_else(|_| {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            folder.unwrap_or_else(|| Path::new(".")).canonicalize()
        });
        let own = self.path.canonicalize();
        real.is_ok_and(|real| own.is_ok_and(|own| real.starts_with(own)))
    }

    /// Refuses a path in the folder: what anybody else puts there would be taken for the daemon's own, or the reverse.
    pub(crate) fn refuse_own(&self, what: &str, path: &Path) -> Result<(), ApiError> {
        if !self.holds(path) {
            return Ok(());
        }
        let why = format!("{} is in the state folder of this daemon", path.display());
        Err(ApiError::new(ErrorKind::InvalidRequest, what, why, "name another place"))
    }

    /// What the last daemon left; nothing in a new folder.
    pub(crate) fn load(&self) -> Result<Stored, ApiError> {
        let path = self.path.join(FILE);
        let what = format!("read {}", path.display());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Stored::default()),
            Err(error) => return Err(failed_io(what, error)),
        };
        let mut text = String::new();
        file.take(BYTES_MAX).read_to_string(&mut text).map_err(|error| failed_io(&what, error))?;
        let bad = |why: String| {
            let hint = "restore it from a backup, or move it away to start with nothing";
            ApiError::new(ErrorKind::InvalidRequest, &what, why, hint)
        };
        let stored: Stored = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if !(VERSION_OLDEST..=VERSION).contains(&stored.version) {
            let why =
                format!("it has version {}, this daemon reads {VERSION_OLDEST} to {VERSION}", stored.version);
            return Err(bad(why));
        }
        Ok(stored)
    }

    /// Replaces what is kept.
    pub(crate) fn save(&self, stored: &Stored) -> Result<(), ApiError> {
        let stored = Stored { version: VERSION, ..stored.clone() };
        self.replace(&stored)
            .map_err(|error| failed_io(format_args!("save state in {}", self.path.display()), error))
    }

    fn replace(&self, stored: &Stored) -> std::io::Result<()> {
        let (new, old) = (self.path.join("state.json.new"), self.path.join(FILE));
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(stored)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &old)?;
        File::open(&self.path)?.sync_all()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A persistent snapshot. What it consists of is in the journals of its devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptSnapshot {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) taken_at: Timestamp,
    pub(crate) frozen_us: u64,
    /// How long writers wait for a full store; none: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold_timeout_ms: Option<u64>,
    /// Mount points of what was frozen for the take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) frozen: Vec<String>,
    pub(crate) devices: Vec<KeptDevice>,
    /// Why it failed, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// A device of a persistent snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptDevice {
    pub(crate) name: String,
    /// The epoch of its tracker that the take closed, and the generation that is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<u64>,
    /// Where the diff storage lies on the device itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) excluded: Vec<Extent>,
}
