//! Events: what happened, in order.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// The number of an event: counts up by one from 1. A gap in what a follower receives means events it was too slow for;
/// or, after an event `started`, that the daemon before ended without saying so. With a state folder the numbers go on
/// over restarts, and none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct EventId(pub u64);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(EventId)
    }
}

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The daemon is up.
    Started,
    /// The daemon is stopping.
    Stopping,
    /// A device was added.
    DeviceAdded,
    /// A device was removed.
    DeviceRemoved,
    /// A device has another size.
    DeviceResized,
    /// A device's store could not be opened at the start, or not be flushed when the device was removed.
    DeviceFailed,
    /// An export was added.
    ExportAdded,
    /// An export was removed.
    ExportRemoved,
    /// A snapshot was taken.
    SnapshotTaken,
    /// A snapshot was removed.
    SnapshotRemoved,
    /// Diff storage is nearly full.
    LowSpace,
    /// Diff storage grew by a step.
    Grown,
    /// Diff storage is full.
    NoSpace,
    /// A snapshot failed; its origins go on.
    Failed,
    /// Diff storage was added to a snapshot.
    SnapshotExtended,
    /// A persistent snapshot is back after a restart.
    SnapshotResumed,
    /// Writers wait for diff storage that is full or stalls.
    Holding,
    /// What a device is made of has vanished, or has another size than it should.
    DeviceGone,
    /// The changes of a device are tracked from here on.
    TrackingStarted,
    /// The changes of a device are no longer tracked.
    TrackingStopped,
    /// Tracking went on after a restart.
    TrackingResumed,
    /// Tracking could not go on: there is a new generation, and a full read is needed once.
    TrackingRenewed,
    /// A device goes back to a snapshot.
    RollbackStarted,
    /// A device is back at a snapshot.
    RollbackDone,
    /// A device could not go back to a snapshot.
    RollbackFailed,
    /// Something else to know, in the message; also every kind an older client does not know.
    #[serde(other)]
    Notice,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Event {
    /// Counts up.
    pub id: EventId,
    /// When, RFC 3339 in UTC.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub time: Timestamp,
    /// What.
    pub kind: EventKind,
    /// The device it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The snapshot it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// One line for people.
    pub message: String,
    /// The numbers of the message, by name: `used`, `limit`, `size`, `errno`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, u64>,
}

/// The query string of the route `events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct EventsParams {
    /// Only events after this one; default: all that are kept.
    #[serde(default)]
    #[cfg_attr(feature = "server", param(value_type = u64, required = false))]
    pub since: EventId,
    /// Stay and send events as they happen.
    #[serde(default)]
    pub follow: bool,
    /// At most this many, the oldest first, where not following; default and most 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// Most events of one answer.
pub const EVENTS_MAX: u32 = 10_000;
