//! Devices: what is added, and what is told about them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{ApiError, Result};
use crate::export::Export;
use crate::names::check_name;
use crate::snapshot::Rollback;
use crate::source::Source;

/// How the store below uses the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// `O_DIRECT`: past the page cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// A device: a stack of a store, filters and exports. The image of snapshot `s` of device `d` is the device `s/d`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Device {
    /// Its name; also its NBD export name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Logical block size in bytes, 512 or 4096.
    pub block_size: u32,
    /// What it is made of: `PATH`, `mem:SIZE`, `null:SIZE`, `nbd:URI`, or `image:SNAPSHOT/DEVICE`.
    pub source: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How its store uses the page cache, after any fallback; absent where there is none (memory, NBD, images).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// What was asked for and could not be had, or is worth a second thought; null where there is nothing to say.
    pub notice: Option<String>,
    /// Attached filters, highest altitude first.
    pub filters: Vec<AttachedFilter>,
    /// Its exports.
    pub exports: Vec<Export>,
    /// Changed-block tracking.
    pub tracking: Tracking,
    /// Its going back to a snapshot: the one that runs or was last; null: there was none.
    #[serde(default)]
    pub rollback: Option<Rollback>,
    /// Counters since the device was added.
    pub io: IoCounters,
}

/// One filter of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AttachedFilter {
    /// Unique on its device.
    pub id: String,
    /// What it does: `cow`, …
    pub kind: String,
    /// The highest altitude sees a request first.
    pub altitude: u32,
    /// First byte of its range.
    pub offset: u64,
    /// Bytes of its range.
    pub length: u64,
}

/// Changed-block tracking. Epochs can be compared under one generation only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Tracking {
    /// Whether every change is tracked, as `--track` and `device track` turn on. Without it changes are known while
    /// snapshots are held only, and the fields below tell of those; all null where there is no snapshot either.
    #[serde(default)]
    pub enabled: bool,
    /// Whether what is tracked outlives the daemon, also its crash.
    #[serde(default)]
    pub durable: bool,
    /// The generation epochs are counted under.
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = "uuid"))]
    pub generation: Option<Uuid>,
    /// The current epoch: one more than the epoch of the last take.
    pub epoch: Option<u64>,
    /// Bytes of one tracked block.
    pub granularity: Option<u64>,
    /// How tracking came to be as it is, at the last start or change of the device; null where it is not enabled.
    #[serde(default)]
    pub continuity: Option<Continuity>,
    /// Why, where `continuity` has a reason; null otherwise.
    #[serde(default)]
    pub continuity_reason: Option<String>,
    /// Memory of the map of the current epoch, and of the closed ones.
    #[serde(default)]
    pub map_bytes: Option<u64>,
}

/// Whether what was known of a tracked device before the last start still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Continuity {
    /// Exactly: it was stopped cleanly.
    Clean,
    /// The daemon was killed, or the power cut: somewhat more counts as changed than was, nothing less.
    AfterCrash,
    /// It cannot be proven: there is a new generation, and a full read is needed once.
    Renewed,
}

/// `bowline device track` and `untrack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceTrack {
    /// Whether changes shall be tracked.
    pub enabled: bool,
}

/// A file system that is mounted from an export of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Mount {
    /// Where it is mounted.
    pub path: String,
    /// Its type: `ext4`, `xfs`, …
    pub file_system: String,
    /// The kernel's block device it is on, as `/dev/nbd0` or `/dev/nbd0p1`.
    pub source: String,
    /// Where on the device that begins, in bytes; null where that is not known.
    pub offset: Option<u64>,
}

/// What a device has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct IoCounters {
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
    /// Flush requests.
    pub flushes: u64,
    /// Discard requests.
    pub discards: u64,
    /// Write-zeroes requests.
    pub write_zeroes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests being worked on now.
    pub in_flight: u64,
}

/// `bowline device add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceAdd {
    /// Name of the new device.
    pub name: String,
    /// `PATH`, `mem:SIZE`, `null:SIZE` or `nbd:URI`.
    pub source: String,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
    /// Logical block size in bytes, 512 or 4096; default 512, or what the store demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// Default: direct for block devices, buffered for files; others have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Bytes: creates the file `PATH` with this size if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Track what changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub track: bool,
}

/// The block sizes a device can have.
pub const BLOCK_SIZES: [u32; 2] = [512, 4096];

impl DeviceAdd {
    /// Checks what can be checked without the daemon's state, and reads the source.
    pub fn check(&self) -> Result<Source> {
        check_name("device", &self.name)?;
        let what = || format!("add device {}", self.name);
        let source: Source = self.source.parse().map_err(|error| {
            ApiError::new(crate::ErrorKind::InvalidRequest, what(), error, "see `bowline device add --help`")
        })?;
        if let Some(size) = self.block_size
            && !BLOCK_SIZES.contains(&size)
        {
            return Err(ApiError::invalid(what(), format_args!("block size {size}"), "use 512 or 4096"));
        }
        if self.cache.is_some() && !matches!(source, Source::Path(_)) {
            let why = format_args!("a cache mode is given for {}", self.source);
            return Err(ApiError::invalid(what(), why, "leave it out: it is for files and block devices"));
        }
        if self.track && self.read_only {
            let why = "it is to be read-only, and tracked";
            return Err(ApiError::invalid(
                what(),
                why,
                "leave out one: nothing changes on a read-only device",
            ));
        }
        match (self.size, &source) {
            (None, Source::Memory(size) | Source::Null(size)) => {
                check_size(&what(), size.0, self.block_size).map(|()| source)
            }
            (None, _) => Ok(source),
            (Some(size), Source::Path(_)) => check_size(&what(), size, self.block_size).map(|()| source),
            (Some(_), _) => Err(ApiError::invalid(
                what(),
                format_args!("a size is given for {}", self.source),
                "sizes are for a file that is to be created; mem: and null: name theirs",
            )),
        }
    }
}

/// `bowline device resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceResize {
    /// The new size in bytes, a multiple of the block size.
    pub size: u64,
    /// Also when it shrinks under connected clients.
    #[serde(default)]
    pub force: bool,
}

/// The query string of `device remove`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct RemoveParams {
    /// Also when clients are connected or snapshots would fail.
    #[serde(default)]
    pub force: bool,
}

/// A size must be a positive multiple of the block size (512 where none is given yet).
pub fn check_size(what: &str, size: u64, block_size: Option<u32>) -> Result<()> {
    let block_size = block_size.unwrap_or(512);
    if size == 0 {
        return Err(ApiError::invalid(what, "size 0", "give the size in bytes, or as 64M"));
    }
    if !size.is_multiple_of(block_size.into()) {
        return Err(ApiError::invalid(
            what,
            format_args!("size {size} is not a multiple of the block size {block_size}"),
            format_args!(
                "the next is {}",
                size.div_ceil(u64::from(block_size)).saturating_mul(block_size.into())
            ),
        ));
    }
    Ok(())
}
