//! Where the old contents come from.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bowline_block::{ByteRange, Result};

use super::pending::ZoneBits;
use crate::cow::ImageStore;

/// The future of a read of old contents.
pub(crate) type ReadFuture<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A snapshot of the device, as it was taken.
pub(crate) trait Source: Send + Sync {
    /// The granules that were preserved since the take. To be asked with the device frozen.
    fn preserved(&self) -> Result<ZoneBits>;

    /// Reads a range that is preserved throughout, as it was at the take. The caller is inside the device's gate.
    fn read<'a>(&'a self, range: ByteRange, data: &'a mut [u8]) -> ReadFuture<'a>;
}

/// The real one. What was written to the image is no part of it.
impl Source for Arc<ImageStore> {
    fn preserved(&self) -> Result<ZoneBits> {
        self.preserved_bits()
    }

    fn read<'a>(&'a self, range: ByteRange, data: &'a mut [u8]) -> ReadFuture<'a> {
        Box::pin(self.read_as_taken(range, data))
    }
}
