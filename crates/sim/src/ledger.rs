//! The checker: what was written through a stack, what of it was promised, and whether an image keeps the promise.
//!
//! Each write fills its sectors with its own number and theirs, so that a sector tells who wrote it. At a moment, a
//! sector may hold any version that was begun by then, unless a durable one came wholly after it. A version is durable
//! when it was acknowledged under FUA, or acknowledged before a flush was sent that was acknowledged. The threads and
//! connections that writes and flushes used do not matter (I7).

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bowline_block::{Buf, ByteRange};

use crate::disk::SimDisk;
use crate::image::Image;
use crate::log::Mark;
use crate::{SECTOR, SECTOR_BYTES};

/// A write of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(u64);

/// A flush of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushId(u64);

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The sector holds a version that a durable one had replaced.
    Lost {
        /// The sector.
        sector: u64,
        /// What it should hold, at least.
        durable: WriteId,
        /// What it holds; `None` is what was there at first.
        found: Option<WriteId>,
    },
    /// The sector holds bytes that nobody wrote there, or parts of two writes.
    Foreign {
        /// The sector.
        sector: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { sector, durable, found } => {
                write!(f, "sector {sector} holds {found:?} although {durable:?} was promised to be durable")
            }
            Self::Foreign { sector } => write!(f, "sector {sector} holds what nobody wrote there"),
        }
    }
}

impl std::error::Error for Violation {}

struct Entry {
    range: ByteRange,
    begun: u64,
    acknowledged: Option<u64>,
    durable: Option<u64>,
    /// A flush failed after it was acknowledged: no later flush promises anything of it.
    in_doubt: bool,
}

#[derive(Default)]
struct Book {
    now: u64,
    writes: Vec<Entry>,
    flushes: Vec<u64>,
}

/// What was written and promised. Its moments are marks in the log of the disk, which stands at the bottom of the stack.
#[derive(Default)]
pub struct Ledger {
    book: Mutex<Book>,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn turn(&self, disk: &SimDisk) -> (MutexGuard<'_, Book>, u64) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.now += 1;
        let now = book.now;
        disk.mark(Mark(now));
        (book, now)
    }

    /// A write is about to be sent: its number and the data to send.
    pub fn begin_write(&self, disk: &SimDisk, range: ByteRange) -> (WriteId, Buf) {
        let (mut book, begun) = self.turn(disk);
        book.writes.push(Entry { range, begun, acknowledged: None, durable: None, in_doubt: false });
        let id = WriteId(book.writes.len() as u64);
        let mut data = Buf::zeroed(usize::try_from(range.len()).unwrap_or(0));
        for (sector, bytes) in (range.start() / SECTOR_BYTES..).zip(data.chunks_mut(SECTOR)) {
            bytes.copy_from_slice(stamp(id, sector).get(..bytes.len()).unwrap_or_default());
        }
        (id, data)
    }

    /// A write was acknowledged; `durable` if it was sent under FUA.
    pub fn acknowledged(&self, disk: &SimDisk, id: WriteId, durable: bool) {
        let (mut book, now) = self.turn(disk);
        if let Some(entry) = book.write(id) {
            entry.acknowledged = Some(now);
            entry.durable = durable.then_some(now);
        }
    }

    /// A flush is about to be sent.
    pub fn begin_flush(&self, disk: &SimDisk) -> FlushId {
        let (mut book, now) = self.turn(disk);
        book.flushes.push(now);
        FlushId(now)
    }

    /// A flush was acknowledged.
    pub fn flushed(&self, disk: &SimDisk, id: FlushId) {
        let (mut book, now) = self.turn(disk);
        for entry in book.writes.iter_mut().filter(|entry| !entry.in_doubt) {
            if entry.acknowledged.is_some_and(|acknowledged| acknowledged < id.0) {
                entry.durable.get_or_insert(now);
            }
        }
    }

    /// A flush failed: what it would have covered is in doubt until it is written again.
    pub fn flush_failed(&self, disk: &SimDisk, id: FlushId) {
        let (mut book, _) = self.turn(disk);
        for entry in book.writes.iter_mut().filter(|entry| entry.durable.is_none()) {
            entry.in_doubt |= entry.acknowledged.is_some_and(|acknowledged| acknowledged < id.0);
        }
    }

    /// Whether `image`, left by a cut behind `mark`, keeps every promise made by then.
    ///
    /// # Errors
    /// The first sector that does not.
    pub fn check(&self, mark: Option<Mark>, image: &Image) -> Result<(), Violation> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let now = mark.map_or(0, |mark| mark.0);
        for sector in 0..image.size() / SECTOR_BYTES {
            book.check_sector(now, sector, &image.sector(sector))?;
        }
        Ok(())
    }

    /// Cuts the disk at every point, in every simple and `seeds` random ways, and checks what is left. Returns the
    /// number of cuts.
    ///
    /// # Errors
    /// The cut and the violation, in words.
    pub fn check_every_cut(&self, disk: &SimDisk, seeds: u64) -> Result<u64, String> {
        let walk = disk.replay().each_cut(seeds, |mark, image| self.check(mark, image));
        walk.map_err(|(cut, crash, violation)| format!("cut {cut}, {crash:?}: {violation}"))
    }
}

impl Book {
    fn write(&mut self, id: WriteId) -> Option<&mut Entry> {
        self.writes.get_mut(usize::try_from(id.0).ok()?.checked_sub(1)?)
    }

    fn check_sector(&self, now: u64, sector: u64, bytes: &[u8; SECTOR]) -> Result<(), Violation> {
        let range = ByteRange::new(sector * SECTOR_BYTES, SECTOR_BYTES);
        let found = read_stamp(sector, bytes).ok_or(Violation::Foreign { sector })?;
        let found_entry = match found {
            None => None,
            Some(id) => {
                let index = usize::try_from(id.0).ok().and_then(|id| id.checked_sub(1));
                let entry = index.and_then(|index| self.writes.get(index));
                let known = entry.filter(|entry| entry.range.contains(range) && entry.begun <= now);
                Some(known.ok_or(Violation::Foreign { sector })?)
            }
        };
        let numbered = (1..).map(WriteId).zip(&self.writes);
        for (durable, entry) in numbered.filter(|(_, entry)| entry.range.contains(range)) {
            let promised = entry.durable.is_some_and(|since| since <= now);
            // What was acknowledged before this one was begun cannot come back once this one is durable.
            let replaced = found_entry.is_none_or(|found| {
                found.acknowledged.is_some_and(|acknowledged| acknowledged < entry.begun)
            });
            if promised && replaced {
                return Err(Violation::Lost { sector, durable, found });
            }
        }
        Ok(())
    }
}

fn stamp(id: WriteId, sector: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    for pair in bytes.chunks_exact_mut(16) {
        let (first, second) = pair.split_at_mut(8);
        first.copy_from_slice(&id.0.to_le_bytes());
        second.copy_from_slice(&(!sector).to_le_bytes());
    }
    bytes
}

/// Who wrote the sector: `Some(None)` nobody, `None` cannot be told.
fn read_stamp(sector: u64, bytes: &[u8; SECTOR]) -> Option<Option<WriteId>> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Some(None);
    }
    let id = WriteId(u64::from_le_bytes(*bytes.first_chunk()?));
    (stamp(id, sector) == *bytes).then_some(Some(id))
}
