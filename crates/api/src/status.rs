//! The daemon, its limits, and all it has.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::export::Export;
use crate::snapshot::Snapshot;
use crate::timestamp::Timestamp;

/// How queues talk to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// `io_uring`.
    Uring,
    /// A small pool of threads with `preadv` and `pwritev`.
    Sync,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Uring => "uring",
            Engine::Sync => "sync",
        })
    }
}

/// A word that names no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an engine: write uring or sync")]
pub struct EngineError(String);

impl FromStr for Engine {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        match text {
            "uring" => Ok(Engine::Uring),
            "sync" => Ok(Engine::Sync),
            _ => Err(EngineError(text.chars().take(40).collect())),
        }
    }
}

/// A limit and how much of it is in use. The unit is part of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Limit {
    /// In use now.
    pub used: u64,
    /// The most there can be.
    pub limit: u64,
}

/// A device that should be there, and could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Absent {
    /// Its name.
    pub name: String,
    /// What it was to be over.
    pub source: String,
    /// Why that could not be opened, for people.
    pub reason: String,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// How its queues talk to the kernel.
    pub engine: Engine,
    /// Queue threads.
    pub queues: u32,
    /// Process id.
    pub pid: u32,
    /// When it started, RFC 3339 in UTC.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    /// How long it has been up, in milliseconds.
    pub uptime_ms: u64,
    /// Addresses that exports are reached at.
    pub listen: Vec<String>,
    /// Folder that state is kept in; absent: nothing outlives the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Limits and their use, by name: `connections`, `memory_bytes`, `in_flight`, …
    pub limits: BTreeMap<String, Limit>,
    /// Devices of the state folder that could not be opened at the start; they are tried again at the next.
    #[serde(default)]
    pub absent: Vec<Absent>,
    /// All devices, images included.
    pub devices: Vec<Device>,
    /// All exports.
    pub exports: Vec<Export>,
    /// All snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
}
