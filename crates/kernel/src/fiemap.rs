//! Where the bytes of a file are on its device (`FIEMAP`).

use std::ops::ControlFlow;
use std::os::fd::AsFd;

use bowline_block::{ByteRange, Error, Result};

use crate::sys;

/// No place is known.
const UNKNOWN: u32 = 0x2;
/// Not written yet.
const DELAYED: u32 = 0x4;
/// Within other data: an inode, or the tail of another file's block.
const NOT_ALIGNED: u32 = 0x100;
const LAST: u32 = 0x1;
const UNWRITTEN: u32 = 0x800;
const SHARED: u32 = 0x2000;

/// Writes what is only in memory first, so that it has a place.
const SYNC: u32 = 0x1;
/// Which extents of a file are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that are on the device already.
    Written,
    /// Those after what is only in memory was written.
    Synced,
}

/// A piece of a file that has a place on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// The byte of the file where it begins.
    pub logical: u64,
    /// Where it is: bytes of the device that the file system is on.
    pub physical: ByteRange,
    /// Allocated, not written: reads as zeroes.
    pub unwritten: bool,
    /// Other files have it, too.
    pub shared: bool,
}

/// Hands the extents of a file to `each`, in the order of the file, until it breaks. Pieces without a place of their own
/// (holes, data only in memory or within an inode) are left out.
///
/// # Errors
/// *Unsupported* when the file system cannot tell, else what the kernel says.
pub fn for_each_extent(
    file: impl AsFd,
    which: Which,
    mut each: impl FnMut(FileExtent) -> ControlFlow<()>,
) -> Result<()> {
    let flags = match which {
        Which::Written => 0,
        Which::Synced => SYNC,
    };
    let mut start = 0;
    loop {
        let map = sys::fiemap(&file, start, flags)
            .map_err(|error| Error::from_io("cannot learn the extents of the file", error))?;
        let count = usize::try_from(map.mapped).unwrap_or(usize::MAX).min(sys::PAGE);
        let before = start;
        for extent in map.extents.get(..count).unwrap_or_default() {
            // A file that changes meanwhile may make the next page begin anywhere, never before this one.
            start = start.max(extent.logical.saturating_add(extent.length));
            let placeless = extent.flags & (UNKNOWN | DELAYED | NOT_ALIGNED) != 0;
            if let Some(physical) = ByteRange::checked(extent.physical, extent.length)
                && !placeless
                && !physical.is_empty()
            {
                let found = FileExtent {
                    logical: extent.logical,
                    physical,
                    unwritten: extent.flags & UNWRITTEN != 0,
                    shared: extent.flags & SHARED != 0,
                };
                if each(found).is_break() {
                    return Ok(());
                }
            }
            if extent.flags & LAST != 0 {
                return Ok(());
            }
        }
        if count == 0 || start == before {
            return Ok(());
        }
    }
}
