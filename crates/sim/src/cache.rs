//! The volatile cache: what has been written and not been made durable, sector by sector.
//!
//! Each sector has a list of versions, oldest first. A flush moves the newest version it covers to the durable image
//! and forgets the older ones; a power cut picks, for each write, whether it arrived whole, torn or not at all, and
//! lets those that arrived do so in any order. A write that is still in flight may have arrived in part as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_block::ByteRange;

use crate::image::Image;
use crate::rng::Rng;
use crate::{SECTOR, SECTOR_BYTES};

/// A write as the disk got it.
#[derive(Debug)]
pub(crate) struct Written {
    /// Its number, in the order of submission.
    pub(crate) number: u64,
    pub(crate) range: ByteRange,
    /// `None` is zeroes.
    pub(crate) data: Option<Vec<u8>>,
    /// Durable when acknowledged.
    pub(crate) durable: bool,
}

impl Written {
    fn sectors(&self) -> impl Iterator<Item = u64> + use<> {
        self.range.start() / SECTOR_BYTES..self.range.end() / SECTOR_BYTES
    }

    fn copy_sector(&self, sector: u64, to: &mut Image) {
        let start = sector * SECTOR_BYTES;
        let zeroes = [0u8; SECTOR];
        let bytes = match &self.data {
            None => zeroes.as_slice(),
            Some(data) => {
                let from = usize::try_from(start - self.range.start()).unwrap_or(usize::MAX);
                data.get(from..from.saturating_add(SECTOR)).unwrap_or_default()
            }
        };
        to.write(start, bytes);
    }
}

/// What a power cut does to what is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing of it arrives.
    LoseAll,
    /// All that was acknowledged arrives, in order: the process dies, the disk lives.
    KeepAll,
    /// The seed decides what arrives: any subset, torn at sector borders, in any order.
    Seeded(u64),
}

#[derive(Clone)]
struct Version {
    write: Arc<Written>,
    /// When it was applied.
    turn: u64,
    /// A failed flush dropped it: no later flush makes it durable.
    forgotten: bool,
}

/// Durable image, volatile cache, and what is in flight.
#[derive(Clone)]
pub(crate) struct Cache {
    durable: Image,
    /// What a read finds.
    visible: Image,
    sectors: BTreeMap<u64, Vec<Version>>,
    in_flight: BTreeMap<u64, Arc<Written>>,
    turn: u64,
}

impl Cache {
    pub(crate) fn new(image: Image) -> Self {
        let visible = image.clone();
        Self { durable: image, visible, sectors: BTreeMap::new(), in_flight: BTreeMap::new(), turn: 0 }
    }

    pub(crate) fn visible(&self) -> &Image {
        &self.visible
    }

    pub(crate) fn durable(&self) -> &Image {
        &self.durable
    }

    /// The moment now, for a flush that begins.
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    pub(crate) fn begin(&mut self, write: &Arc<Written>) {
        self.in_flight.insert(write.number, write.clone());
    }

    /// The write is complete: reads see it from now on.
    pub(crate) fn apply(&mut self, number: u64) {
        let Some(write) = self.in_flight.remove(&number) else { return };
        self.turn += 1;
        for sector in write.sectors() {
            self.apply_sector(&write, sector, write.durable);
        }
    }

    /// The write failed: any of its sectors may have been written all the same.
    pub(crate) fn apply_failed(&mut self, number: u64, seed: u64) {
        let Some(write) = self.in_flight.remove(&number) else { return };
        let mut rng = Rng::new(seed);
        self.turn += 1;
        for sector in write.sectors().filter(|_| rng.once_in(2)) {
            self.apply_sector(&write, sector, false);
        }
    }

    fn apply_sector(&mut self, write: &Arc<Written>, sector: u64, durable: bool) {
        write.copy_sector(sector, &mut self.visible);
        if durable {
            // What was there before can no longer come back.
            self.sectors.remove(&sector);
            write.copy_sector(sector, &mut self.durable);
        } else {
            let version = Version { write: write.clone(), turn: self.turn, forgotten: false };
            self.sectors.entry(sector).or_default().push(version);
        }
    }

    /// A flush that began at `turn` is complete: what was applied by then is durable.
    pub(crate) fn flush(&mut self, turn: u64) {
        let durable = &mut self.durable;
        self.sectors.retain(|&sector, versions| {
            let newest = versions.iter().rposition(|version| version.turn <= turn && !version.forgotten);
            if let Some(newest) = newest {
                if let Some(version) = versions.get(newest) {
                    version.write.copy_sector(sector, durable);
                }
                versions.drain(..=newest);
            }
            !versions.is_empty()
        });
    }

    /// A flush that began at `turn` failed, and the disk has dropped what it could not write.
    pub(crate) fn forget(&mut self, turn: u64) {
        for version in self.sectors.values_mut().flatten() {
            version.forgotten |= version.turn <= turn;
        }
    }

    /// How many writes are not durable.
    pub(crate) fn unflushed(&self) -> usize {
        self.volatile().len()
    }

    /// The writes with a sector that is not durable, in the order of submission, and those in flight.
    fn volatile(&self) -> Vec<Arc<Written>> {
        let mut writes = self.in_flight.clone();
        for version in self.sectors.values().flatten() {
            writes.insert(version.write.number, version.write.clone());
        }
        writes.into_values().collect()
    }

    /// An image that a power cut now may leave.
    pub(crate) fn power_cut(&self, crash: Crash) -> Image {
        let seed = match crash {
            Crash::LoseAll => return self.durable.clone(),
            Crash::KeepAll => return self.visible.clone(),
            Crash::Seeded(seed) => seed,
        };
        let mut rng = Rng::new(seed);
        let mut image = self.durable.clone();
        let mut writes = self.volatile();
        rng.shuffle(&mut writes);
        // Some cuts lose nearly everything, some nearly nothing: each kind finds other mistakes.
        let keep_of_eight = rng.below(9);
        for write in writes {
            let torn = rng.once_in(3);
            if !torn && rng.below(8) >= keep_of_eight {
                continue;
            }
            for sector in write.sectors() {
                if self.is_volatile(&write, sector) && (!torn || rng.once_in(2)) {
                    write.copy_sector(sector, &mut image);
                }
            }
        }
        image
    }

    fn is_volatile(&self, write: &Written, sector: u64) -> bool {
        let is_it = |version: &Version| version.write.number == write.number;
        self.in_flight.contains_key(&write.number)
            || self.sectors.get(&sector).is_some_and(|versions| versions.iter().any(is_it))
    }
}
