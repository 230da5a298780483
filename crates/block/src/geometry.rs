//! The shape of a store: how large, in what units, and what it can do.

use crate::{ByteRange, Error, ErrorKind, Op, Request, Result};

/// The logical block size: requests are whole blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlockSize {
    /// 512 bytes.
    #[default]
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// The size in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }

    /// The block size of that many bytes, if there is one.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }
}

bitflags::bitflags! {
    /// What a store can do beyond reading and writing.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Capabilities: u8 {
        /// Discard gives space back.
        const DISCARD = 1;
        /// A discarded range reads as zeroes.
        const DISCARD_READS_ZERO = 1 << 1;
        /// Write-zeroes needs no data to be sent.
        const WRITE_ZEROES = 1 << 2;
        /// Write-zeroes is always faster than writing.
        const FAST_ZERO = 1 << 3;
        /// The store knows which ranges are holes.
        const EXTENTS = 1 << 4;
    }
}

/// The shape of a store or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes, a multiple of the block size.
    pub size: u64,
    /// Unit of every request.
    pub block_size: BlockSize,
    /// Whether every change is refused.
    pub read_only: bool,
    /// What else it can do.
    pub can: Capabilities,
}

impl Geometry {
    /// All of it.
    #[inline]
    #[must_use]
    pub const fn whole(&self) -> ByteRange {
        ByteRange::new(0, self.size)
    }

    /// Whether `request` may be sent to something of this shape.
    ///
    /// # Errors
    /// *Out of range*, *invalid* (alignment), *read-only* or *unsupported*, as the kernel's block layer would say.
    #[inline]
    pub fn check(&self, request: &Request) -> Result<()> {
        let range = request.range;
        if range.end() > self.size {
            return Err(self.refused(ErrorKind::OutOfRange, request));
        }
        if !range.is_aligned_to(self.block_size.bytes()) {
            return Err(self.refused(ErrorKind::Invalid, request));
        }
        if self.read_only && request.op.changes_data() {
            return Err(self.refused(ErrorKind::ReadOnly, request));
        }
        if matches!(request.op, Op::SecureErase | Op::Zone) {
            return Err(self.refused(ErrorKind::Unsupported, request));
        }
        Ok(())
    }

    #[cold]
    fn refused(&self, kind: ErrorKind, request: &Request) -> Error {
        let why = match kind {
            ErrorKind::OutOfRange => format!("the device ends at {}", self.size),
            ErrorKind::Invalid => format!("not a multiple of {} bytes", self.block_size.bytes()),
            ErrorKind::ReadOnly => "the device is read-only".to_owned(),
            _ => "not an operation of this device".to_owned(),
        };
        Error::new(kind, why).op(request.op.name()).range(request.range)
    }
}
