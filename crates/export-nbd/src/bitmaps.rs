//! Dirty bitmaps of an export: what changed since some point in time, under a name.
//!
//! Design notes: the server knows no filters. Whoever assembles the daemon gives an export its bitmaps; a client selects
//! them as `qemu:dirty-bitmap:NAME` and asks for extents of them.

use std::sync::Arc;

use bowline_block::{ByteRange, Result};

/// The bitmaps of one export. Asked on queue threads: must not wait.
pub trait DirtyBitmaps: Send + Sync {
    /// Their names, for a listing.
    fn names(&self) -> Vec<String>;

    /// The bitmap of that name, also one that the listing has no room for. A connection keeps what it opened when it
    /// selected the name: given to another bitmap later, it means the new one to clients that come later.
    fn open(&self, name: &str) -> Option<Arc<dyn DirtyBitmap>>;
}

/// One bitmap, which may change while it is read.
pub trait DirtyBitmap: Send + Sync {
    /// What is dirty of `range`, from its start on without gaps: at least one extent and about as many as `max`, where
    /// neighbours that are alike may be merged or not. Extents may end with the range, before it, or behind it. Asked on
    /// queue threads: must not wait.
    ///
    /// # Errors
    /// The bitmap cannot be answered any more: what it counts from is not known. Never "clean" instead.
    fn extents(&self, range: ByteRange, max: usize) -> Result<Vec<BitmapExtent>>;
}

/// A piece of a device that is dirty as a whole or clean as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapExtent {
    /// Length in bytes.
    pub length: u64,
    /// Whether something may have changed in it.
    pub dirty: bool,
}
