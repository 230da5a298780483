//! Reads and writes on the spot.
//!
//! The kernel can be told not to wait (`RWF_NOWAIT`), but not everywhere: tmpfs does not know the flag and never waits;
//! ext4 knows it for reads only. So each file is probed when it is opened. Where a write cannot be told not to wait
//! and the file system is a local one, it is made plainly: into the page cache, which waits only when too much is
//! dirty or a part of a block has to be read first. A write that was seen to wait sends those after it to the engine
//! for a while.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bowline_block::{ByteRange, Now, PAGE_BYTES};
use bowline_io::File;
use rustix::fs::fstatfs;
use rustix::io::{Errno, IoSlice, IoSliceMut, ReadWriteFlags, preadv2, pwrite, pwritev2};

/// A write on the spot that took longer has waited for something.
const WAITED: Duration = Duration::from_millis(2);
/// How long writes go to the engine after that.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Larger writes go to the engine: they keep a queue busy for too long.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// What may be done on the spot with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// Nothing.
    Never,
    /// With `RWF_NOWAIT`.
    NoWait,
    /// Plainly: it hardly ever waits.
    Plain,
    /// Plainly: it is memory and never waits.
    Memory,
}

/// The ways of one file.
#[derive(Debug)]
pub(super) struct Inline {
    read: Spot,
    write: Spot,
    /// Nanoseconds of process time until which writes go to the engine.
    back_off_until_ns: AtomicU64,
}

impl Inline {
    /// Nothing on the spot: for `O_DIRECT`.
    pub(super) fn never() -> Self {
        Self { read: Spot::Never, write: Spot::Never, back_off_until_ns: AtomicU64::new(0) }
    }

    /// Finds out what the file allows. Changes nothing in it. `no_writes` for what is read-only, and for block devices:
    /// their node is on a tmpfs, but they are not.
    pub(super) fn probe(file: &File, no_writes: bool) -> Self {
        const TMPFS: u64 = 0x0102_1994;
        const EXT4: u64 = 0xEF53;
        const XFS: u64 = 0x5846_5342;
        const BTRFS: u64 = 0x9123_683E;
        const F2FS: u64 = 0xF2F5_2010;
        let magic = fstatfs(file).map_or(0, |info| u64::try_from(info.f_type).unwrap_or(0));
        let mut byte = [0u8; 1];
        let refused = |result: Result<usize, Errno>| matches!(result, Err(Errno::OPNOTSUPP | Errno::INVAL));
        let nowait = !refused(preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT));
        let read = match (nowait, magic == TMPFS) {
            (true, _) => Spot::NoWait,
            (false, true) => Spot::Memory,
            (false, false) => Spot::Never,
        };
        // Writes are not probed, because that would write. xfs and btrfs know the flag for them.
        let write = match magic {
            _ if no_writes => Spot::Never,
            XFS | BTRFS => Spot::NoWait,
            EXT4 | F2FS => Spot::Plain,
            TMPFS => Spot::Memory,
            _ => Spot::Never,
        };
        Self { read, write, back_off_until_ns: AtomicU64::new(0) }
    }

    #[inline]
    pub(super) fn read(&self, file: &File, range: ByteRange, data: &mut [u8]) -> Now {
        let flags = match self.read {
            Spot::Never => return Now::NotNow,
            Spot::NoWait => ReadWriteFlags::NOWAIT,
            Spot::Plain | Spot::Memory => ReadWriteFlags::empty(),
        };
        let len = data.len();
        match preadv2(file, &mut [IoSliceMut::new(data)], range.start(), flags) {
            Ok(read) if read == len => Now::Done(Ok(())),
            // Not all in memory, beyond the end, or an error: the long way tells which.
            _ => Now::NotNow,
        }
    }

    #[inline]
    pub(super) fn write(&self, file: &File, range: ByteRange, data: &[u8]) -> Now {
        if data.len() > WRITE_BYTES_MAX {
            return Now::NotNow;
        }
        // A part of a page may have to be read first.
        if self.write == Spot::Plain && !range.is_aligned_to(PAGE_BYTES as u64) {
            return Now::NotNow;
        }
        let written = match self.write {
            Spot::Never => return Now::NotNow,
            Spot::NoWait => pwritev2(file, &[IoSlice::new(data)], range.start(), ReadWriteFlags::NOWAIT),
            // Not timed: a thread that was put off the processor would look like a write that waited.
            Spot::Memory => pwrite(file, data, range.start()),
            Spot::Plain => {
                let begin = process_ns();
                if begin < self.back_off_until_ns.load(Ordering::Relaxed) {
                    return Now::NotNow;
                }
                let written = pwrite(file, data, range.start());
                let end = process_ns();
                if end - begin > ns(WAITED) {
                    self.back_off_until_ns.store(end + ns(BACK_OFF), Ordering::Relaxed);
                }
                written
            }
        };
        match written {
            Ok(written) if written == data.len() => Now::Done(Ok(())),
            // A short or failed write is made again by the engine, which reports it in full.
            _ => Now::NotNow,
        }
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since this was first asked.
#[inline]
fn process_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    ns(START.get_or_init(Instant::now).elapsed())
}
