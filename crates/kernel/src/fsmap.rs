//! What a file system uses its device for (`GETFSMAP`; ext4, xfs).

use std::ops::ControlFlow;
use std::os::fd::AsFd;

use bowline_block::{ByteRange, Error, Result};

use crate::mountinfo::DevId;
use crate::sys::{self, FsmapRecord};

const ATTRIBUTE_FORK: u32 = 0x2;
const EXTENT_MAP: u32 = 0x4;
const SPECIAL_OWNER: u32 = 0x10;
const LAST: u32 = 0x20;

/// What a piece of the device is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// Nothing.
    Free,
    /// The journal.
    Journal,
    /// Inodes and what finds them.
    Inodes,
    /// Anything else the file system needs for itself: super-blocks, group tables, bitmaps, trees.
    Metadata,
    /// Data of this inode.
    Inode(u64),
    /// Extended attributes, or the tree of the extents, of this inode.
    InodeMetadata(u64),
    /// In use, for what the file system does not tell.
    Unknown,
}

/// A piece of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Bytes of the device.
    pub physical: ByteRange,
    /// What for.
    pub owner: Owner,
}

/// Hands what lies within `range` of the device to `each`, in ascending order, until it breaks. Pieces may reach beyond the
/// range. `directory` is any file or folder of the file system, `dev` the device it is on.
///
/// # Errors
/// *Unsupported* when the file system cannot tell (with kind *I/O* for "not that ioctl"), *denied* without
/// `CAP_SYS_ADMIN`, else what the kernel says.
pub fn for_each_mapping(
    directory: impl AsFd,
    dev: DevId,
    range: ByteRange,
    mut each: impl FnMut(Mapping) -> ControlFlow<()>,
) -> Result<()> {
    let device = dev.packed();
    let mut low = FsmapRecord { device, physical: range.start(), ..FsmapRecord::default() };
    // Other devices of the file system (a journal, a realtime volume) lie behind this key, if they have greater numbers.
    let high = FsmapRecord { device, physical: range.end(), ..FsmapRecord::LAST };
    loop {
        let map = sys::fsmap(&directory, [low, high]).map_err(|error| {
            Error::from_io("cannot learn what the file system uses its device for", error)
        })?;
        let count = usize::try_from(map.entries).unwrap_or(usize::MAX).min(sys::PAGE);
        let mut last = None;
        for record in map.records.get(..count).unwrap_or_default() {
            last = Some(*record);
            if record.device == device
                && let Some(physical) = ByteRange::checked(record.physical, record.length)
                && !physical.is_empty()
                && each(Mapping { physical, owner: owner(record) }).is_break()
            {
                return Ok(());
            }
        }
        let Some(last) = last.filter(|last| last.flags & LAST == 0) else { return Ok(()) };
        // It must go on, whatever it says.
        if (last.device, last.physical) < (low.device, low.physical)
            || (last.physical == low.physical && last.length <= low.length && low.length != 0)
        {
            return Ok(());
        }
        low = last;
    }
}

fn owner(record: &FsmapRecord) -> Owner {
    if record.flags & SPECIAL_OWNER == 0 {
        return if record.flags & (ATTRIBUTE_FORK | EXTENT_MAP) == 0 {
            Owner::Inode(record.owner)
        } else {
            Owner::InodeMetadata(record.owner)
        };
    }
    // A letter for who defined the number, and the number.
    let defined_by = u8::try_from(record.owner >> 32).unwrap_or(0);
    match (defined_by, record.owner & u64::from(u32::MAX)) {
        (0, 1) => Owner::Free,
        (0, 3) | (b'f', 1..=4) | (b'X', 1 | 3 | 6 | 7) => Owner::Metadata,
        (b'X', 2) => Owner::Journal,
        (b'X', 4 | 5) => Owner::Inodes,
        _ => Owner::Unknown,
    }
}
