//! Snapshots: sets of images taken at one instant.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{ApiError, Result};
use crate::names::{check_name, split_image};
use crate::store::StoreSpec;
use crate::timestamp::Timestamp;

/// Whether a snapshot's images can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    /// The images are exact.
    Active,
    /// The images answer EIO; `reason` says why. The origins go on.
    Failed,
    /// It is on its way out.
    Removing,
}

/// What happens when diff storage is full, fails or stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The snapshot fails, the origin goes on.
    #[default]
    Drop,
    /// Writers wait for storage, at most the hold timeout; then the snapshot fails.
    Hold,
}

/// What diff storage is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// Memory of the daemon.
    Mem,
    /// A file.
    File,
    /// A file without a name in a directory, gone with the daemon.
    Directory,
    /// A block device.
    Block,
    /// Ranges of bytes of files or block devices.
    Ranges,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// Its name. The image of device `d` is the device `NAME/d`.
    pub name: String,
    /// Unique for ever, also after the name is used again.
    #[cfg_attr(feature = "server", schema(value_type = String, format = "uuid"))]
    pub id: Uuid,
    /// The instant, RFC 3339 in UTC.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub taken_at: Timestamp,
    /// How long the devices took no new requests for it, in microseconds.
    pub frozen_us: u64,
    /// Its devices.
    pub devices: Vec<SnapshotDevice>,
    /// Whether its images can be read.
    pub state: SnapshotState,
    /// Why it failed; null where it did not.
    pub reason: Option<String>,
    /// What happens when its store is full.
    pub on_full: OnFull,
    /// How long writers wait when it is full, in milliseconds; null where they do not.
    #[serde(default)]
    pub hold_timeout_ms: Option<u64>,
    /// Whether it outlives the daemon.
    #[serde(default)]
    pub persistent: bool,
    /// Its diff storage, all of it.
    pub store: SnapshotStore,
    /// The parts of its diff storage: what it was taken with, then what it was extended by.
    #[serde(default)]
    pub stores: Vec<StorePart>,
    /// The mount points of the file systems that were frozen at the instant.
    #[serde(default)]
    pub frozen_file_systems: Vec<String>,
    /// Its devices that go back to it, or went back last.
    #[serde(default)]
    pub rollback: Vec<Rollback>,
}

/// How far a rollback is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RollbackState {
    /// It runs. The device reads as the snapshot already, and can be written.
    Running,
    /// The device is as it was, and depends on the snapshot no longer.
    Done,
    /// It could not go on; `reason` says why.
    Failed,
}

/// A device that goes back to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Rollback {
    /// The snapshot.
    pub snapshot: String,
    /// The device.
    pub device: String,
    /// How far it is.
    pub state: RollbackState,
    /// Bytes that are back in place.
    pub done: u64,
    /// Bytes to be put back.
    pub total: u64,
    /// Why it failed; null where it did not.
    pub reason: Option<String>,
}

/// One part of a snapshot's diff storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct StorePart {
    /// Where it is.
    pub kind: StoreKind,
    /// Its path, or its ranges; null for memory.
    pub location: Option<String>,
    /// Bytes in use; null where that is known of the whole only.
    pub used: Option<u64>,
    /// Bytes it may use.
    pub limit: u64,
}

/// `bowline snapshot extend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotExtend {
    /// Where more old contents may go.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub store: StoreSpec,
    /// Bytes they may take there; default 1 GiB, or all of a block device or of ranges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl SnapshotExtend {
    /// Checks what can be checked without the daemon's state.
    pub fn check(&self, name: &str) -> Result<()> {
        match self.limit {
            Some(0) => {
                let what = format_args!("extend snapshot {name}");
                Err(ApiError::invalid(what, "limit 0", "give the store some space, as in --limit 1G"))
            }
            _ => Ok(()),
        }
    }
}

/// `bowline snapshot rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotRollback {
    /// The devices that shall go back; none: all of the snapshot.
    #[serde(default)]
    pub devices: Vec<String>,
}

impl SnapshotRollback {
    /// Checks what can be checked without the daemon's state.
    pub fn check(&self, name: &str) -> Result<()> {
        check_devices(&format!("roll back to snapshot {name}"), &self.devices)
    }
}

/// One device of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SnapshotDevice {
    /// The origin.
    pub name: String,
    /// The device that is its image, `SNAPSHOT/NAME`.
    pub image: String,
    /// The epoch this take closed.
    pub epoch: u64,
    /// The generation of that epoch.
    #[cfg_attr(feature = "server", schema(value_type = String, format = "uuid"))]
    pub generation: Uuid,
    /// Bytes, at the instant of take.
    pub size: u64,
    /// Bytes of old contents preserved from this device's take on.
    pub preserved: u64,
}

/// Diff storage of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SnapshotStore {
    /// Where it is.
    pub kind: StoreKind,
    /// Bytes in use.
    pub used: u64,
    /// Bytes it may use.
    pub limit: u64,
    /// Bytes it grows by at a time.
    pub step: u64,
    /// Its path; null for memory.
    pub location: Option<String>,
}

/// `bowline snapshot take`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotTake {
    /// Devices to take at one instant; at least one.
    pub devices: Vec<String>,
    /// Default: one made from the time of take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where old contents go: `mem`, a path, or `ranges:PATH@OFFSET+LENGTH[,…]`; default `mem`.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = String, default = "mem"))]
    pub store: StoreSpec,
    /// Bytes old contents may take; default 1 GiB, or all of a block device or of ranges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Bytes the store grows by at a time; default: the daemon's choice, at most the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// What happens when the store is full.
    #[serde(default)]
    pub on_full: OnFull,
    /// How long writers wait for a full store, in milliseconds; with `hold` only. Default: the daemon's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_timeout_ms: Option<u64>,
    /// Shall outlive the daemon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub persistent: bool,
    /// Freeze the file systems that are mounted from the devices' exports for the instant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub freeze: bool,
    /// How long freezing them may take, in milliseconds, before it is undone and the take fails; default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_timeout_ms: Option<u64>,
}

/// Longest hold or freeze: an hour.
pub const WAIT_MS_MAX: u64 = 3_600_000;
/// How long freezing file systems may take when nothing else is said.
pub const FREEZE_TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// Most devices of one snapshot.
pub const DEVICES_MAX: usize = 256;
/// The limit of diff storage when none is given: 1 GiB.
pub const LIMIT_DEFAULT: u64 = 1 << 30;

/// What is named must be devices, each once.
fn check_devices(what: &str, devices: &[String]) -> Result<()> {
    if devices.len() > DEVICES_MAX {
        let why = format_args!("{} devices are named", devices.len());
        return Err(ApiError::invalid(what, why, "name between 1 and 256 devices"));
    }
    let mut seen = BTreeSet::new();
    for device in devices {
        if split_image(device).is_some() {
            let why = format_args!("{device} is an image, and an image cannot be snapshotted");
            return Err(ApiError::invalid(what, why, "name the device itself"));
        }
        check_name("device", device)?;
        if !seen.insert(device) {
            let why = format_args!("device {device} is named twice");
            return Err(ApiError::invalid(what, why, "name each device once"));
        }
    }
    Ok(())
}

impl SnapshotTake {
    /// Checks what can be checked without the daemon's state.
    pub fn check(&self) -> Result<()> {
        let what = "take snapshot";
        if self.devices.is_empty() {
            return Err(ApiError::invalid(what, "0 devices are named", "name between 1 and 256 devices"));
        }
        check_devices(what, &self.devices)?;
        if let Some(name) = &self.name {
            check_name("snapshot", name)?;
        }
        self.check_space()?;
        self.check_waits()
    }

    fn check_space(&self) -> Result<()> {
        let refuse = |why: &dyn fmt::Display, hint| Err(ApiError::invalid("take snapshot", why, hint));
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        match self.step {
            _ if limit == 0 => refuse(&"limit 0", "give the store some space, as in --limit 1G"),
            Some(0) => refuse(&"step 0", "leave the step out, or give one as in --step 64M"),
            Some(step) if step > limit => refuse(
                &format_args!("limit {limit} is smaller than step {step}"),
                "raise --limit or lower --step",
            ),
            _ => Ok(()),
        }
    }

    fn check_waits(&self) -> Result<()> {
        let refuse = |why: &dyn fmt::Display, hint| Err(ApiError::invalid("take snapshot", why, hint));
        if self.hold_timeout_ms.is_some() && self.on_full != OnFull::Hold {
            return refuse(&"a hold timeout is given, and writers are not to wait", "add --on-full hold");
        }
        if self.freeze_timeout_ms.is_some() && !self.freeze {
            return refuse(&"a freeze timeout is given without a freeze", "add --freeze");
        }
        for wait in [self.hold_timeout_ms, self.freeze_timeout_ms].into_iter().flatten() {
            if wait == 0 || wait > WAIT_MS_MAX {
                return refuse(&format_args!("a timeout of {wait} ms"), "give one between 1ms and 1h");
            }
        }
        if self.persistent && self.store == StoreSpec::Memory {
            let why = "a persistent snapshot cannot be kept in memory";
            return refuse(&why, "name a file or block device with --store");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
