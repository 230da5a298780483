//! Snapshots: sets of images taken at one instant.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::error::{ApiError, Result};
use crate::names::{check_name, split_image};
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

/// What happens when diff storage is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The snapshot fails, the origin goes on.
    #[default]
    Drop,
}

/// Where diff storage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// Memory of the daemon.
    Mem,
    /// A file.
    File,
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
    /// Its diff storage.
    pub store: SnapshotStore,
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

/// Where a snapshot's diff storage shall be; on the wire and the command line its text form, `mem` or a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum StoreSpec {
    /// Memory of the daemon.
    #[default]
    Memory,
    /// A file.
    Path(PathBuf),
}

/// Why a store was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a store: {why}: write mem or a PATH")]
pub struct StoreError {
    text: String,
    why: &'static str,
}

impl FromStr for StoreSpec {
    type Err = StoreError;

    fn from_str(text: &str) -> std::result::Result<Self, StoreError> {
        let refuse = |why| Err(StoreError { text: text.chars().take(160).collect(), why });
        match text {
            "mem" => Ok(StoreSpec::Memory),
            "" => refuse("it is empty"),
            _ if text.starts_with("mem:") => refuse("the size of a memory store is its limit (--limit)"),
            _ if text.starts_with("ranges:") => refuse("this version does not store in sector ranges"),
            _ if text.contains('\0') => refuse("a path cannot contain a zero byte"),
            path => Ok(StoreSpec::Path(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreSpec::Memory => f.write_str("mem"),
            StoreSpec::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Serialize for StoreSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoreSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
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
    /// Where old contents go, `mem` or a path; default `mem`.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = String, default = "mem"))]
    pub store: StoreSpec,
    /// Bytes old contents may take; default 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Bytes the store grows by at a time; default: the daemon's choice, at most the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// What happens when the store is full.
    #[serde(default)]
    pub on_full: OnFull,
}

/// Most devices of one snapshot.
pub const DEVICES_MAX: usize = 256;
/// The limit of diff storage when none is given: 1 GiB.
pub const LIMIT_DEFAULT: u64 = 1 << 30;

impl SnapshotTake {
    /// Checks what can be checked without the daemon's state.
    pub fn check(&self) -> Result<()> {
        let refuse = |why: &dyn fmt::Display, hint: &str| Err(ApiError::invalid("take snapshot", why, hint));
        if self.devices.is_empty() || self.devices.len() > DEVICES_MAX {
            return refuse(
                &format_args!("{} devices are named", self.devices.len()),
                "name between 1 and 256 devices",
            );
        }
        let mut seen = BTreeSet::new();
        for device in &self.devices {
            if split_image(device).is_some() {
                let why = format_args!("{device} is an image, and an image cannot be snapshotted");
                return refuse(&why, "name the device itself");
            }
            check_name("device", device)?;
            if !seen.insert(device) {
                return refuse(&format_args!("device {device} is named twice"), "name each device once");
            }
        }
        if let Some(name) = &self.name {
            check_name("snapshot", name)?;
        }
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
}

#[cfg(test)]
mod tests;
