//! The ioctls, each as a safe function: the only place with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Entries that one call of FIEMAP or GETFSMAP gives.
pub(crate) const PAGE: usize = 512;

const FIFREEZE: u64 = 0xc004_5877;
const FITHAW: u64 = 0xc004_5878;
const FS_IOC_FIEMAP: u64 = 0xc020_660b;
const FS_IOC_GETFSMAP: u64 = 0xc0c0_583b;
const BLKROGET: u64 = 0x125e;
const BLKSSZGET: u64 = 0x1268;
const BLKDISCARD: u64 = 0x1277;
const BLKZEROOUT: u64 = 0x127f;
const BLKGETSIZE64: u64 = 0x8008_1272;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct FiemapExtent {
    pub(crate) logical: u64,
    pub(crate) physical: u64,
    pub(crate) length: u64,
    reserved64: [u64; 2],
    pub(crate) flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap`, with room for a page of extents.
#[repr(C)]
pub(crate) struct Fiemap {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) flags: u32,
    pub(crate) mapped: u32,
    count: u32,
    reserved: u32,
    pub(crate) extents: [FiemapExtent; PAGE],
}

/// `struct fsmap`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct FsmapRecord {
    pub(crate) device: u32,
    pub(crate) flags: u32,
    pub(crate) physical: u64,
    pub(crate) owner: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) reserved: [u64; 3],
}

impl FsmapRecord {
    /// The key behind which nothing lies.
    pub(crate) const LAST: Self = Self {
        device: u32::MAX,
        flags: u32::MAX,
        physical: u64::MAX,
        owner: u64::MAX,
        offset: u64::MAX,
        length: 0,
        reserved: [0; 3],
    };
}

/// `struct fsmap_head`, with room for a page of records.
#[repr(C)]
pub(crate) struct Fsmap {
    iflags: u32,
    oflags: u32,
    count: u32,
    pub(crate) entries: u32,
    reserved: [u64; 6],
    pub(crate) keys: [FsmapRecord; 2],
    pub(crate) records: [FsmapRecord; PAGE],
}

// What the numbers of the ioctls say about the sizes of what is in front of the extents and records.
const _: () = assert!(size_of::<Fiemap>() == 0x20 + PAGE * 56 && size_of::<FiemapExtent>() == 56);
const _: () = assert!(size_of::<Fsmap>() == 0xc0 + PAGE * 64 && size_of::<FsmapRecord>() == 64);

fn number<T: TryFrom<u64> + Default>(request: u64) -> T {
    // The type differs between C libraries, the numbers fit all of them.
    T::try_from(request).unwrap_or_default()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Holds the writers of the file system that the file is on. Waits, uninterruptibly, for writes that are under way.
pub(crate) fn freeze(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; FIFREEZE does not look at its argument.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number(FIFREEZE), 0) })
}

/// Lets them go on.
pub(crate) fn thaw(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; FITHAW does not look at its argument.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number(FITHAW), 0) })
}

/// The next extents of a file from `start` on.
pub(crate) fn fiemap(file: impl AsFd, start: u64, flags: u32) -> io::Result<Box<Fiemap>> {
    let mut map = Box::new(Fiemap {
        start,
        length: u64::MAX - start,
        flags,
        mapped: 0,
        count: u32::try_from(PAGE).unwrap_or(0),
        reserved: 0,
        extents: [FiemapExtent::default(); PAGE],
    });
    // SAFETY: the descriptor is open, and the kernel writes the header and at most `count` extents, which is the room
    // that follows the header in the same allocation (asserted above), all of plain integers.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number(FS_IOC_FIEMAP), &raw mut *map) })?;
    Ok(map)
}

/// The next records of the file system between the keys.
pub(crate) fn fsmap(file: impl AsFd, keys: [FsmapRecord; 2]) -> io::Result<Box<Fsmap>> {
    let mut map = Box::new(Fsmap {
        iflags: 0,
        oflags: 0,
        count: u32::try_from(PAGE).unwrap_or(0),
        entries: 0,
        reserved: [0; 6],
        keys,
        records: [FsmapRecord::default(); PAGE],
    });
    // SAFETY: the descriptor is open, and the kernel writes the head and at most `count` records, which is the room
    // that follows the head in the same allocation (asserted above), all of plain integers.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number(FS_IOC_GETFSMAP), &raw mut *map) })?;
    Ok(map)
}

/// The size of a block device in bytes.
pub(crate) fn size_bytes(device: impl AsFd) -> io::Result<u64> {
    let mut size = 0_u64;
    // SAFETY: the descriptor is open, and the kernel writes one u64 to the variable.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), number(BLKGETSIZE64), &raw mut size) })?;
    Ok(size)
}

fn int(device: impl AsFd, request: u64) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int to the variable: callers pass requests that do.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), number(request), &raw mut value) })?;
    Ok(value)
}

/// The logical block size of a block device in bytes.
pub(crate) fn logical_block_bytes(device: impl AsFd) -> io::Result<u64> {
    int(device, BLKSSZGET).map(|bytes| u64::try_from(bytes).unwrap_or(0))
}

/// Whether a block device refuses writes.
pub(crate) fn is_read_only(device: impl AsFd) -> io::Result<bool> {
    int(device, BLKROGET).map(|value| value != 0)
}

fn on_range(device: impl AsFd, request: u64, start: u64, length: u64) -> io::Result<()> {
    let mut range = [start, length];
    // SAFETY: the descriptor is open, and the kernel reads two u64 from the array: callers pass requests that do.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), number(request), range.as_mut_ptr()) })
}

/// Discards a range of a block device.
pub(crate) fn discard(device: impl AsFd, start: u64, length: u64) -> io::Result<()> {
    on_range(device, BLKDISCARD, start, length)
}

/// Writes zeroes to a range of a block device.
pub(crate) fn zero_out(device: impl AsFd, start: u64, length: u64) -> io::Result<()> {
    on_range(device, BLKZEROOUT, start, length)
}
