//! What changed on a device, and since when.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{ApiError, ErrorKind, Result};
use crate::names::{check_device_or_image, check_name};

/// A run of changed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What changed on a device: never less than what differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Changes {
    /// The device asked about.
    pub device: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of one tracked block; every extent begins and ends on a multiple, or at the end of the device.
    pub granularity: u64,
    /// The generation the answer holds for; null where the device is not tracked.
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = "uuid"))]
    pub generation: Option<Uuid>,
    /// The snapshot or epoch asked about; null: what is not known to be a hole or zero.
    pub since: Option<String>,
    /// The epoch that `since` is the end of; null without `since`.
    #[serde(default)]
    pub since_epoch: Option<u64>,
    /// The snapshot or epoch that ends the interval; null: now.
    pub until: Option<String>,
    /// The epoch that `until` is the end of; null: now.
    #[serde(default)]
    pub until_epoch: Option<u64>,
    /// Sum of the lengths of this answer's extents.
    pub bytes: u64,
    /// Ascending and merged: no two touch. The first ends after `offset`, and may begin before it.
    pub extents: Vec<Extent>,
    /// The parts of `extents` that read as zeroes at the end of the interval: they need not be read. Ascending and merged.
    #[serde(default)]
    pub zeroes: Vec<Extent>,
    /// Where to go on, as `offset` of the next question: the byte after the last extent. Null: there is no more, and only
    /// that says so.
    #[serde(default)]
    pub next: Option<u64>,
}

/// `bowline changes`, understood and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesQuery {
    /// A device, or an image `SNAPSHOT/DEVICE`.
    pub device: String,
    /// The take of the snapshot of this name; where there is none and it is a number, the end of this epoch of
    /// `generation`, or of the current generation. `None`: what is not known to be a hole or zero.
    pub since: Option<String>,
    /// The snapshot or epoch that ends the interval; `None`: now.
    pub until: Option<String>,
    /// The generation the caller knows; another one must be refused as [`FullReadNeeded`](crate::ErrorKind).
    pub generation: Option<Uuid>,
    /// Tell of extents that end after this byte. Beyond the end of the device it must be refused as
    /// [`OutOfRange`](crate::ErrorKind).
    pub offset: u64,
    /// Tell of at most this many; between 1 and [`RESULTS_MAX`].
    pub max_results: usize,
}

/// Most extents of one answer, and the default.
pub const RESULTS_MAX: u32 = 1 << 16;

/// The query string of the route `changes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ChangesParams {
    /// A snapshot, also a removed one whose epoch is still known; or, where none has that name, the number of an epoch: of
    /// `generation`, or of the current generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The snapshot or epoch that ends the interval; default: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// UUID of the generation the caller knows. When the device has another one, the answer is `full-read-needed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Tell of extents that end after this byte; default 0. Below 0 or beyond the device: `out-of-range`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Most extents of the answer, 0 for the most there can be; default and most 65536. Where there are more, `next` says
    /// where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_results: Option<u32>,
}

/// `bowline changes mark`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangesMark {
    /// First byte that counts as changed.
    pub offset: u64,
    /// Bytes; more than none.
    pub length: u64,
}

impl ChangesMark {
    /// Checks what can be checked without the device.
    pub fn check(&self, device: &str) -> Result<()> {
        let what = format_args!("mark {device}");
        if self.length == 0 {
            return Err(ApiError::invalid(what, "length 0 marks nothing", "give the bytes that changed"));
        }
        if self.offset.checked_add(self.length).is_none() {
            let why = format_args!("offset {} and length {} go beyond 64 bits", self.offset, self.length);
            return Err(ApiError::new(ErrorKind::OutOfRange, what, why, "mark within the device"));
        }
        Ok(())
    }
}

impl ChangesQuery {
    /// Reads and checks the parameters.
    pub fn new(device: String, params: ChangesParams) -> Result<Self> {
        check_device_or_image(&device)?;
        let generation = params.generation.map(|text| {
            text.parse::<Uuid>().map_err(|error| {
                ApiError::invalid(
                    format_args!("changes of {device}"),
                    format_args!("generation {text:?} is not a UUID ({error})"),
                    "take it from `bowline device show` or an earlier answer",
                )
            })
        });
        let generation = generation.transpose()?;
        for name in [&params.since, &params.until].into_iter().flatten() {
            check_name("snapshot", name)?;
        }
        let offset = params.offset.unwrap_or(0);
        let offset = u64::try_from(offset).map_err(|_| {
            let what = format_args!("changes of {device}");
            ApiError::new(ErrorKind::OutOfRange, what, format_args!("offset {offset}"), "begin at 0 or later")
        })?;
        let max_results = params.max_results.filter(|&max| max != 0).unwrap_or(RESULTS_MAX).min(RESULTS_MAX);
        let max_results = usize::try_from(max_results).unwrap_or(usize::MAX);
        let ChangesParams { since, until, .. } = params;
        Ok(ChangesQuery { device, since, until, generation, offset, max_results })
    }
}

#[cfg(test)]
mod tests;
