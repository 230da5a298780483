//! What is served: the server asks for it at every option of a client, so that exports may come and go.

use std::sync::Arc;

use bowline_device::Device;

use crate::bitmaps::DirtyBitmaps;

pub use bowline_nbd::ExportEntry;

/// The exports of a server.
pub trait Exports: Send + Sync {
    /// All of them, for a client that asks for a list.
    fn list(&self) -> Vec<ExportEntry>;

    /// The export of that name. The empty name is the default export: when it is not found and there is exactly one
    /// export, that one is taken.
    fn find(&self, name: &str) -> Option<ExportTarget>;
}

/// What stands behind a name.
#[derive(Clone)]
pub struct ExportTarget {
    /// The device.
    pub device: Arc<Device>,
    /// Refuse every change, also where the device would take it.
    pub read_only: bool,
    /// A text for people, may be empty.
    pub description: String,
    /// Its dirty bitmaps, offered as `qemu:dirty-bitmap:NAME`.
    pub bitmaps: Option<Arc<dyn DirtyBitmaps>>,
}
