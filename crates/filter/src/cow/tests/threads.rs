//! I2 and I6 under load: several queues write to several devices while snapshots are taken and removed.
//!
//! Every sector carries its own number and a sequence number. A sector is written by one task at a time, but the
//! sectors of a granule by different ones. What an image may hold is bounded by what was acknowledged before its take
//! began and what was submitted before it ended; and it must not change while the snapshot lives.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bowline_block::*;
use bowline_device::Device;
use bowline_io::{EngineKind, Queues, QueuesConfig};

use super::support::*;
use crate::cow::*;

const SECTOR: u64 = 512;
/// Every sequence number divisible by this is a clear.
const CLEAR_EVERY: u64 = 8;

#[derive(Default)]
struct Sector {
    taken: AtomicBool,
    submitted: AtomicU64,
    acknowledged: AtomicU64,
}

struct Subject {
    device: Arc<Device>,
    sectors: Vec<Sector>,
    failures: AtomicU64,
    stop: AtomicBool,
}

/// A small generator; the tests print nothing that would need a better one.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn sector_bytes(sector: u64, sequence: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [sequence as u8 | 1; SECTOR as usize];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

/// The sequence number of a sector, 0 for zeroes.
fn sequence_of(sector: u64, bytes: &[u8]) -> std::result::Result<u64, String> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(0);
    }
    let sequence = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    if bytes != sector_bytes(sector, sequence) {
        return Err(format!("sector {sector} is torn or of another place"));
    }
    Ok(sequence)
}

impl Subject {
    fn new(store: Arc<dyn Store>) -> Arc<Self> {
        let device = Device::new("disk", store);
        let count = device.geometry().size / SECTOR;
        Arc::new(Self {
            device,
            sectors: (0..count).map(|_| Sector::default()).collect(),
            failures: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    fn lock(&self, first: u64, count: u64) -> bool {
        for at in first..first + count {
            if self.sectors[at as usize].taken.swap(true, Ordering::SeqCst) {
                self.unlock(first, at - first);
                return false;
            }
        }
        true
    }

    fn unlock(&self, first: u64, count: u64) {
        for at in first..first + count {
            self.sectors[at as usize].taken.store(false, Ordering::SeqCst);
        }
    }

    async fn write(self: Arc<Self>, mut dice: Dice) {
        while !self.stop.load(Ordering::Relaxed) {
            let clear = dice.roll(8) == 0;
            let most = if dice.roll(6) == 0 { 160 } else { 12 };
            let count = if clear { 8 } else { 1 + dice.roll(most) };
            let mut first = dice.roll(self.sectors.len() as u64 - count + 1);
            if clear {
                first -= first % 8;
            }
            if !self.lock(first, count) {
                yield_now().await;
                continue;
            }
            let mut data = Vec::new();
            let mut sequences = Vec::new();
            for at in first..first + count {
                let before = self.sectors[at as usize].submitted.load(Ordering::SeqCst);
                let next = if clear { (before / CLEAR_EVERY + 1) * CLEAR_EVERY } else { before + 1 };
                let next = next + u64::from(!clear && next % CLEAR_EVERY == 0);
                self.sectors[at as usize].submitted.store(next, Ordering::SeqCst);
                data.extend_from_slice(&sector_bytes(at, next));
                sequences.push(next);
            }
            let range = ByteRange::new(first * SECTOR, count * SECTOR);
            let op = match (clear, dice.roll(2)) {
                (false, _) => Op::Write,
                (true, 0) => Op::Discard,
                (true, _) => Op::WriteZeroes,
            };
            if let Err(error) = perform(&*self.device, op, range, &data).await {
                println!("I6: {error}");
                self.failures.fetch_add(1, Ordering::SeqCst);
            }
            for (at, sequence) in (first..).zip(sequences) {
                self.sectors[at as usize].acknowledged.store(sequence, Ordering::SeqCst);
            }
            self.unlock(first, count);
            yield_now().await;
        }
    }

    fn bounds(&self, of: impl Fn(&Sector) -> &AtomicU64) -> Vec<u64> {
        self.sectors.iter().map(|sector| of(sector).load(Ordering::SeqCst)).collect()
    }

    /// Whether each sector holds something that was written between the bounds.
    fn check(&self, bytes: &[u8], low: &[u64], high: &[u64]) -> std::result::Result<(), String> {
        for (at, bytes) in (0..).zip(bytes.chunks(SECTOR as usize)) {
            let sequence = sequence_of(at, bytes)?;
            let (low, high) = (low[at as usize], high[at as usize]);
            let fine = match sequence {
                0 => high / CLEAR_EVERY * CLEAR_EVERY >= low,
                _ => (low..=high).contains(&sequence),
            };
            if !fine {
                return Err(format!("I2: sector {at} holds {sequence}, not within {low}..={high}"));
            }
        }
        Ok(())
    }
}

struct Live {
    snapshot: Snapshot,
    seen: Vec<Vec<u8>>,
}

struct Stress {
    subjects: Vec<Arc<Subject>>,
    live: VecDeque<Live>,
    dice: Dice,
    dir: tempfile::TempDir,
    sabotage: bool,
}

impl Stress {
    fn take(&mut self, round: u64) -> std::result::Result<(), String> {
        let name = format!("s{round}");
        let kind = match self.dice.roll(2) {
            0 => StoreKind::Memory,
            _ => StoreKind::File(self.dir.path().join(&name)),
        };
        let storage = DiffStorage::open(StoreSpec { kind, limit: 64 * MIB, step: 4 * MIB }).unwrap();
        let newest = self.live.back();
        let origins: Vec<_> = (0..self.subjects.len())
            .map(|at| {
                let history = newest.map(|live| live.snapshot.devices()[at].history().clone());
                Origin::new(self.subjects[at].device.clone(), history)
            })
            .collect();
        let low: Vec<_> = self.subjects.iter().map(|subject| subject.bounds(|s| &s.acknowledged)).collect();
        let snapshot = take(&name, &origins, &storage, Arc::new(NoEvents), limits()).unwrap();
        let high: Vec<_> = self.subjects.iter().map(|subject| subject.bounds(|s| &s.submitted)).collect();
        if self.sabotage {
            snapshot.devices()[0].history().drop_copy(40);
        }
        let mut seen = Vec::new();
        for (at, subject) in self.subjects.iter().enumerate() {
            let bytes = contents(&**snapshot.devices()[at].image());
            subject.check(&bytes, &low[at], &high[at])?;
            seen.push(bytes);
        }
        self.live.push_back(Live { snapshot, seen });
        Ok(())
    }

    /// Reads an image again: it must not have changed.
    fn look(&mut self) -> std::result::Result<(), String> {
        let which = self.dice.roll(self.live.len() as u64) as usize;
        let live = &self.live[which];
        let device = self.dice.roll(live.seen.len() as u64) as usize;
        let image = live.snapshot.devices()[device].image();
        let size = image.geometry().size;
        let start = self.dice.roll(size / SECTOR) * SECTOR;
        let len = (1 + self.dice.roll(200)) * SECTOR;
        let range = ByteRange::new(start, len.min(size - start));
        let bytes = read(&**image, range).map_err(|error| error.to_string())?;
        same(&bytes, &live.seen[device][start as usize..(start + range.len()) as usize])
    }

    fn remove(&mut self) -> std::result::Result<(), String> {
        let which = self.dice.roll(self.live.len() as u64) as usize;
        let Some(live) = self.live.remove(which) else { return Ok(()) };
        for (at, seen) in live.seen.iter().enumerate() {
            same(&contents(&**live.snapshot.devices()[at].image()), seen)?;
        }
        live.snapshot.remove(FREEZE).unwrap();
        Ok(())
    }

    fn rounds(&mut self, rounds: u64) -> std::result::Result<(), String> {
        for round in 0..rounds {
            match self.dice.roll(8) {
                _ if self.live.is_empty() => self.take(round)?,
                0..2 if self.live.len() < 5 => self.take(round)?,
                2 => self.remove()?,
                _ => self.look()?,
            }
        }
        while !self.live.is_empty() {
            self.remove()?;
        }
        Ok(())
    }
}

fn same(have: &[u8], want: &[u8]) -> std::result::Result<(), String> {
    match have.iter().zip(want).position(|(have, want)| have != want) {
        Some(at) => Err(format!("I2: an image changed at byte {at} of what was read")),
        None => Ok(()),
    }
}

fn stress(
    stores: Vec<Arc<dyn Store>>,
    engine: EngineKind,
    rounds: u64,
    sabotage: bool,
) -> std::result::Result<(), String> {
    let queues = Queues::start(QueuesConfig { count: 3, engine }).unwrap();
    let subjects: Vec<_> = stores.into_iter().map(Subject::new).collect();
    for (number, subject) in subjects.iter().enumerate() {
        for task in 0..9 {
            let subject = subject.clone();
            let dice = Dice(0x1234_5678_9abc ^ (number as u64 * 100 + task + 1) << 20);
            queues.nth(task as usize).unwrap().spawn(move || subject.write(dice));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut stress = Stress { subjects, live: VecDeque::new(), dice: Dice(77), dir, sabotage };
    let result = stress.rounds(rounds);
    stress.subjects.iter().for_each(|subject| subject.stop.store(true, Ordering::Relaxed));
    drop(queues);
    for subject in &stress.subjects {
        assert_eq!(subject.failures.load(Ordering::SeqCst), 0, "I6: no request fails");
        assert_eq!(subject.device.stats().errors, 0, "I6");
        let last = subject.bounds(|sector| &sector.acknowledged);
        subject.check(&contents(&*subject.device), &last, &last).expect("the origin itself");
        let writes = subject.device.stats();
        assert!(writes.writes > 0 && writes.discards > 0 && writes.write_zeroes > 0, "{writes:?}");
    }
    result
}

fn test_stores(count: usize) -> Vec<Arc<dyn Store>> {
    (0..count)
        .map(|_| TestStore::new(MIB / 2 + 1536, BlockSize::B512, Pace::Mixed) as Arc<dyn Store>)
        .collect()
}

#[test]
fn images_stay_exact_and_no_request_fails_under_load() {
    stress(test_stores(2), bowline_io::probe().0, 250, false).unwrap();
}

#[test]
fn the_same_over_memory_files_with_the_sync_engine() {
    let file = bowline_store::FileStore::memory(MIB, BlockSize::B512, false).unwrap();
    stress(vec![Arc::new(file)], EngineKind::Sync, 200, false).unwrap();
}

#[test]
fn the_same_over_memory_files_with_the_best_engine() {
    let file = bowline_store::FileStore::memory(MIB, BlockSize::B512, false).unwrap();
    stress(vec![Arc::new(file)], bowline_io::probe().0, 250, false).unwrap();
}

#[test]
fn a_dropped_copy_is_noticed_under_load() {
    let error = stress(test_stores(1), bowline_io::probe().0, 400, true).unwrap_err();
    assert!(error.starts_with("I2"), "{error}");
}
