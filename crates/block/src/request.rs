//! What is asked of a device.

use crate::ByteRange;

/// The operations of the block layer. Those from `SecureErase` on are known by name and answered *unsupported*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Read the range.
    Read,
    /// Write the range.
    Write,
    /// Everything acknowledged before becomes durable (I7). The range is empty.
    Flush,
    /// The contents of the range are not needed any more; what it reads as afterwards is the store's affair.
    Discard,
    /// The range reads as zeroes afterwards.
    WriteZeroes,
    /// Discard, with every copy erased.
    SecureErase,
    /// Any of the zone operations.
    Zone,
}

impl Op {
    /// Whether the operation changes, or may change, what the device holds.
    #[inline]
    #[must_use]
    pub const fn changes_data(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }

    /// The operation's name in messages and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes => "write-zeroes",
            Self::SecureErase => "secure-erase",
            Self::Zone => "zone",
        }
    }
}

bitflags::bitflags! {
    /// How a request is to be done.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Flags: u8 {
        /// Durable when acknowledged (I7).
        const FUA = 1;
        /// Fail rather than wait.
        const NOWAIT = 1 << 1;
        /// Write-zeroes must leave the range allocated.
        const NO_UNMAP = 1 << 2;
        /// Write-zeroes must be faster than writing, or fail at once with *unsupported*.
        const FAST_ZERO = 1 << 3;
    }
}

/// An operation on a range; its data travels beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// How to do it.
    pub flags: Flags,
    /// Where to do it.
    pub range: ByteRange,
}

impl Request {
    /// A request without flags.
    #[inline]
    #[must_use]
    pub const fn new(op: Op, range: ByteRange) -> Self {
        Self { op, flags: Flags::empty(), range }
    }

    /// The same request with `flags`.
    #[inline]
    #[must_use]
    pub const fn with_flags(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }

    /// The same request on another range.
    #[inline]
    #[must_use]
    pub const fn on(self, range: ByteRange) -> Self {
        Self { range, ..self }
    }

    /// A flush.
    #[must_use]
    pub const fn flush() -> Self {
        Self::new(Op::Flush, ByteRange::new(0, 0))
    }
}
