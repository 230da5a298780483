//! What one client wrote, sector by sector: the checker of images and disks whose exact contents are known.
//!
//! The prefix checker (`prefix`) judges what writers left that nobody stopped; this one demands exactly the write that
//! was the last of each sector, and reports every sector that is another.

use super::nbd::Nbd;
use super::oracle::{Damage, Found, SECTOR, filled, judge};
use super::writer::Random;

/// Sectors written by one request of a fill.
const FILL_SECTORS: u64 = 2048;

/// The seed of this run: that of `BOWLINE_SEED`, else another each time. It is printed, so that what failed once can be
/// repeated.
pub(crate) fn seed() -> Random {
    let given = std::env::var("BOWLINE_SEED").ok();
    let seed = match given.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => text.parse().unwrap_or_else(|error| panic!("BOWLINE_SEED is {text}: {error}")),
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos()) << 20 ^ now.as_secs()
        }
    };
    eprintln!("seed: BOWLINE_SEED={seed} repeats this run");
    // Not zero, which this generator would stay at.
    Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
}

/// What is wrong with one sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) sector: u64,
    pub(crate) why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    Damaged(Damage),
    /// Another write than the last one.
    Write {
        expected: Held,
        found: Held,
    },
}

/// The last write of a sector: its writer, and its sequence among that writer's; [`ZERO`] where there is none.
pub(crate) type Held = (u32, u64);

pub(crate) const ZERO: Held = (0, 0);

/// A disk whose last write of each sector is known.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    writer: u32,
    newest: u64,
    held: Vec<Held>,
}

impl Model {
    /// A disk of zeroes.
    pub(crate) fn new(bytes: u64) -> Self {
        Model { writer: 1, newest: 0, held: vec![ZERO; usize::try_from(bytes / SECTOR as u64).unwrap()] }
    }

    /// The same, written to by another from now on: what one wrote is never taken for the other's.
    pub(crate) fn of_writer(mut self, writer: u32) -> Self {
        (self.writer, self.newest) = (writer, 0);
        self
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.held.len() as u64
    }

    /// The contents of the next write of these sectors, which counts as done. Gives its offset in bytes with it.
    pub(crate) fn next_write(&mut self, first: u64, count: u64) -> (u64, Vec<u8>) {
        self.newest += 1;
        self.set(first, count, (self.writer, self.newest));
        (first * SECTOR as u64, filled(first, count, self.writer, self.newest))
    }

    /// Writes sectors; gives the bytes written to, as offset and length.
    pub(crate) fn write(&mut self, disk: &mut Nbd, first: u64, count: u64) -> (u64, u64) {
        let (offset, bytes) = self.next_write(first, count);
        disk.write(offset, &bytes).unwrap_or_else(|error| panic!("I1: write at {offset}: {error}"));
        (offset, bytes.len() as u64)
    }

    /// Writes everything.
    pub(crate) fn fill(&mut self, disk: &mut Nbd) {
        let end = self.sectors();
        for first in (0..end).step_by(usize::try_from(FILL_SECTORS).unwrap()) {
            self.write(disk, first, FILL_SECTORS.min(end - first));
        }
    }

    /// Zeroes sectors, by a discard or by write-zeroes.
    pub(crate) fn zero(&mut self, disk: &mut Nbd, first: u64, count: u64, discard: bool) -> (u64, u64) {
        let (offset, length) = (first * SECTOR as u64, count * SECTOR as u64);
        let done = if discard { disk.trim(offset, length) } else { disk.write_zeroes(offset, length) };
        done.unwrap_or_else(|error| panic!("I1: discard or zero at {offset}: {error}"));
        self.set(first, count, ZERO);
        (offset, length)
    }

    /// A write of 1 to `most` sectors somewhere.
    pub(crate) fn write_somewhere(&mut self, disk: &mut Nbd, random: &mut Random, most: u64) -> (u64, u64) {
        let count = 1 + random.below(most);
        let first = random.below(self.sectors() - count + 1);
        self.write(disk, first, count)
    }

    fn set(&mut self, first: u64, count: u64, held: Held) {
        let from = usize::try_from(first).unwrap();
        self.held[from..from + usize::try_from(count).unwrap()].fill(held);
    }

    /// Every sector of `bytes`, read from sector `first` on, that is not as it should be.
    pub(crate) fn reports_from(&self, first: u64, bytes: &[u8]) -> Vec<Report> {
        assert_eq!(bytes.len() % SECTOR, 0, "part of a sector");
        let wrong = |(sector, found): (u64, &[u8])| {
            let expected = self.held[usize::try_from(sector).unwrap()];
            let found = match judge(found, sector) {
                Err(damage) => return Some(Report { sector, why: Why::Damaged(damage) }),
                Ok(Found::Zero) => ZERO,
                Ok(Found::Written(stamp)) => (stamp.writer, stamp.sequence),
            };
            (found != expected).then_some(Report { sector, why: Why::Write { expected, found } })
        };
        (first..).zip(bytes.chunks(SECTOR)).filter_map(wrong).collect()
    }

    /// Every sector of a disk that is not as it should be.
    pub(crate) fn reports(&self, disk: &[u8]) -> Vec<Report> {
        assert_eq!(disk.len(), self.held.len() * SECTOR, "another size");
        self.reports_from(0, disk)
    }

    /// The disk must be right; `what` says which promise it would break.
    pub(crate) fn check(&self, disk: &[u8], what: &str) {
        let reports = self.reports(disk);
        let first = &reports[..reports.len().min(8)];
        assert!(reports.is_empty(), "{what}: {} sectors are wrong: {first:?}", reports.len());
    }

    /// A part of the disk, as it is read now, must be right.
    pub(crate) fn check_part(&self, disk: &mut Nbd, first: u64, count: u64, what: &str) {
        let (offset, length) = (first * SECTOR as u64, count * SECTOR as u64);
        let bytes = disk.read(offset, length).unwrap_or_else(|error| panic!("{what}: read: {error}"));
        let reports = self.reports_from(first, &bytes);
        assert!(reports.is_empty(), "{what}: {reports:?}");
    }
}
