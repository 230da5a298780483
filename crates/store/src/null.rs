//! A store that keeps nothing: for measuring what is above it, and for devices of any size that cost none.

use bowline_block::{
    BlockSize, ByteRange, Capabilities, Done, ExtentKind, ExtentList, Flags, Geometry, Io, IoFuture, Now, Op,
    Result, Store,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads zeroes, drops writes.
#[derive(Debug)]
pub struct NullStore {
    size: AtomicU64,
    block_size: BlockSize,
    read_only: bool,
}

impl NullStore {
    /// A store of that shape.
    #[must_use]
    pub fn new(size: u64, block_size: BlockSize, read_only: bool) -> Self {
        Self { size: AtomicU64::new(size), block_size, read_only }
    }
}

impl Store for NullStore {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.size.load(Ordering::Relaxed),
            block_size: self.block_size,
            read_only: self.read_only,
            can: Capabilities::all(),
        }
    }

    fn location(&self) -> String {
        format!("null:{}", self.size.load(Ordering::Relaxed))
    }

    fn read_now(&self, _range: ByteRange, data: &mut [u8]) -> Now {
        data.fill(0);
        Now::Done(Ok(()))
    }

    fn write_now(&self, _range: ByteRange, _data: &[u8], _flags: Flags) -> Now {
        Now::Done(Ok(()))
    }

    fn submit(&self, mut io: Io) -> IoFuture<'_> {
        if io.request.op == Op::Read {
            io.data.fill(0);
        }
        Done::ready(Ok(()), io.data)
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        found.push(range, ExtentKind::Hole);
        Now::Done(Ok(()))
    }

    fn resize(&self, size: u64) -> Result<()> {
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }
}
