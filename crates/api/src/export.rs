//! Exports: the top of a stack.

use serde::{Deserialize, Serialize};

use crate::address::ListenAddr;
use crate::error::Result;
use crate::names::check_device_or_image;

/// The protocol of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ExportKind {
    /// NBD, on a Unix or TCP socket.
    Nbd,
}

/// A device made reachable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Export {
    /// Names the export in `export remove`.
    pub id: String,
    /// The exported device or image.
    pub device: String,
    /// The protocol.
    pub kind: ExportKind,
    /// What a client connects to.
    pub uri: String,
    /// Whether this export refuses writes (its device may take them).
    pub read_only: bool,
    /// Connections now.
    pub clients: u32,
}

/// `bowline export add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExportAdd {
    /// A device, or an image `SNAPSHOT/DEVICE`.
    pub device: String,
    /// The protocol.
    pub kind: ExportKind,
    /// `unix:PATH` or `tcp:HOST:PORT`; default: the listener of `bowline serve`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>))]
    pub address: Option<ListenAddr>,
    /// Refuse writes on this export.
    #[serde(default)]
    pub read_only: bool,
}

impl ExportAdd {
    /// Checks what can be checked without the daemon's state.
    pub fn check(&self) -> Result<()> {
        check_device_or_image(&self.device)
    }
}
