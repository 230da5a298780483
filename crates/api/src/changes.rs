//! What changed on a device, and since when.

use std::fmt;

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
    /// The generation the answer holds for; absent where the device is not tracked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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

/// The beginning of an interval of changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChangePoint {
    /// The take of this snapshot.
    Snapshot(String),
    /// The end of this epoch; comparable under its generation only.
    Epoch(u64),
}

impl fmt::Display for ChangePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangePoint::Snapshot(name) => f.write_str(name),
            ChangePoint::Epoch(epoch) => write!(f, "{epoch}"),
        }
    }
}

/// `bowline changes`, understood and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesQuery {
    /// A device, or an image `SNAPSHOT/DEVICE`.
    pub device: String,
    /// `None`: what is not known to be a hole or zero.
    pub since: Option<ChangePoint>,
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
    /// A snapshot; or, together with `generation`, the number of an epoch.
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
    /// Reads and checks the parameters. A number is an epoch only together with a generation: without one it could mean
    /// an epoch of another life of the device, so there it is the name of a snapshot.
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
        let since = match params.since {
            None => None,
            Some(text) => match (text.parse::<u64>(), generation) {
                (Ok(epoch), Some(_)) => Some(ChangePoint::Epoch(epoch)),
                _ => {
                    check_name("snapshot", &text)?;
                    Some(ChangePoint::Snapshot(text))
                }
            },
        };
        if let Some(until) = &params.until {
            check_name("snapshot", until)?;
        }
        Ok(ChangesQuery { device, since, until: params.until, generation })
    }
}

#[cfg(test)]
mod tests;
