//! What changed on a device, and since when.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{ApiError, Result};
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
    /// The snapshot that ends the interval; null: now.
    pub until: Option<String>,
    /// Sum of the extents' lengths.
    pub bytes: u64,
    /// Ascending and merged: no two touch.
    pub extents: Vec<Extent>,
}

/// `bowline changes`, understood and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesQuery {
    /// A device, or an image `SNAPSHOT/DEVICE`.
    pub device: String,
    /// The take of the snapshot of this name; where there is none and it is a number, the end of this epoch of
    /// `generation`, or of the current generation. `None`: what is not known to be a hole or zero.
    pub since: Option<String>,
    /// The snapshot that ends the interval; `None`: now.
    pub until: Option<String>,
    /// The generation the caller knows; another one must be refused as [`FullReadNeeded`](crate::ErrorKind).
    pub generation: Option<Uuid>,
}

/// The query string of the route `changes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ChangesParams {
    /// A snapshot; or, where none has that name, the number of an epoch: of `generation`, or of the current generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The snapshot that ends the interval; default: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// UUID of the generation the caller knows. When the device has another one, the answer is `full-read-needed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
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
        Ok(ChangesQuery { device, since: params.since, until: params.until, generation })
    }
}

#[cfg(test)]
mod tests;
