//! Block devices: sizes, discard, zeroing.

use std::os::fd::AsFd;

use bowline_block::{ByteRange, Error, Result};

use crate::sys;

/// The size in bytes (`BLKGETSIZE64`).
///
/// # Errors
/// What the kernel says; *invalid* or *unsupported* when it is no block device.
pub fn size_bytes(device: impl AsFd) -> Result<u64> {
    sys::size_bytes(device)
        .map_err(|error| Error::from_io("cannot learn the size of the block device", error))
}

/// The logical block size in bytes (`BLKSSZGET`).
///
/// # Errors
/// What the kernel says.
pub fn logical_block_bytes(device: impl AsFd) -> Result<u64> {
    sys::logical_block_bytes(device).map_err(|error| Error::from_io("cannot learn the block size", error))
}

/// Whether writes are refused (`BLKROGET`).
///
/// # Errors
/// What the kernel says.
pub fn is_read_only(device: impl AsFd) -> Result<bool> {
    sys::is_read_only(device).map_err(|error| Error::from_io("cannot learn whether it is read-only", error))
}

/// Discards a range (`BLKDISCARD`): what it reads as afterwards is the device's affair. Both ends are multiples of the
/// logical block size.
///
/// # Errors
/// *Unsupported* when the device cannot, else what the kernel says.
pub fn discard(device: impl AsFd, range: ByteRange) -> Result<()> {
    sys::discard(device, range.start(), range.len())
        .map_err(|error| Error::from_io("", error).op("discard").range(range))
}

/// Writes zeroes to a range (`BLKZEROOUT`): by whatever way is fastest, by writing them if there is none. Both ends are
/// multiples of the logical block size.
///
/// # Errors
/// What the kernel says.
pub fn zero_out(device: impl AsFd, range: ByteRange) -> Result<()> {
    sys::zero_out(device, range.start(), range.len())
        .map_err(|error| Error::from_io("", error).op("write-zeroes").range(range))
}
