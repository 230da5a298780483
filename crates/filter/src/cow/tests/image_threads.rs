//! I2 under load: several queues write to an origin, to the images of its snapshots, and read them.
//!
//! Image sectors carry their own number, their writer's side and a sequence number. A sector of an image is written by
//! one task at a time, but the sectors of a granule by different ones, so every lost update of a granule shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bowline_block::*;
use bowline_device::Device;
use bowline_io::{Queues, QueuesConfig};

use super::support::*;
use super::threads::Dice;
use crate::cow::*;

const SECTOR: u64 = 512;
const SECTORS: u64 = 1024 + 3;

fn sector_bytes(side: u64, sector: u64, sequence: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [sequence as u8 | 1; SECTOR as usize];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..24].copy_from_slice(&side.to_le_bytes());
    bytes
}

/// One side's sectors: the origin's, or those of an image.
struct Side {
    store: Arc<dyn Store>,
    number: u64,
    /// Sequence numbers of what was written; odd while a write is under way.
    sectors: Vec<AtomicU64>,
    stop: Arc<AtomicBool>,
    failures: AtomicU64,
}

impl Side {
    fn new(store: Arc<dyn Store>, number: u64, stop: &Arc<AtomicBool>) -> Arc<Self> {
        let sectors = (0..SECTORS).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { store, number, sectors, stop: stop.clone(), failures: AtomicU64::new(0) })
    }

    /// Takes sectors for writing; the sequence number each gets.
    fn begin(&self, first: u64, count: u64) -> Option<Vec<u64>> {
        let mut got = Vec::new();
        for at in first..first + count {
            let now = self.sectors[at as usize].load(Ordering::SeqCst);
            let free = now.is_multiple_of(2);
            let taken = free
                && self.sectors[at as usize]
                    .compare_exchange(now, now + 1, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok();
            if !taken {
                self.end(first, got.len() as u64, false);
                return None;
            }
            got.push(now + 2);
        }
        Some(got)
    }

    fn end(&self, first: u64, count: u64, done: bool) {
        for at in first..first + count {
            let sector = &self.sectors[at as usize];
            if done {
                sector.fetch_add(1, Ordering::SeqCst)
            } else {
                sector.fetch_sub(1, Ordering::SeqCst)
            };
        }
    }

    async fn write(self: Arc<Self>, mut dice: Dice) {
        while !self.stop.load(Ordering::Relaxed) {
            let most = if dice.roll(6) == 0 { 160 } else { 9 };
            let count = 1 + dice.roll(most);
            let first = dice.roll(SECTORS - count + 1);
            let Some(sequences) = self.begin(first, count) else {
                yield_now().await;
                continue;
            };
            let mut data = Vec::with_capacity((count * SECTOR) as usize);
            for (sector, sequence) in (first..).zip(sequences) {
                data.extend_from_slice(&sector_bytes(self.number, sector, sequence));
            }
            let range = ByteRange::new(first * SECTOR, count * SECTOR);
            if let Err(error) = perform(&*self.store, Op::Write, range, &data).await {
                println!("{error}");
                self.failures.fetch_add(1, Ordering::SeqCst);
            }
            self.end(first, count, true);
            yield_now().await;
        }
    }

    /// Reads anywhere: every sector is whole, of its place and of its side, and not older than what was acknowledged.
    async fn look(self: Arc<Self>, mut dice: Dice) {
        while !self.stop.load(Ordering::Relaxed) {
            let count = 1 + dice.roll(40);
            let first = dice.roll(SECTORS - count + 1);
            let low: Vec<u64> = self.sequences(first, count);
            let range = ByteRange::new(first * SECTOR, count * SECTOR);
            let bytes = perform(&*self.store, Op::Read, range, &[]).await.unwrap();
            let high = self.sequences(first, count);
            for (at, bytes) in bytes.chunks(SECTOR as usize).enumerate() {
                if let Err(error) = self.check(first + at as u64, bytes, low[at] & !1, (high[at] + 1) & !1) {
                    println!("{error}");
                    self.failures.fetch_add(1, Ordering::SeqCst);
                }
            }
            yield_now().await;
        }
    }

    /// Sectors written so far.
    fn writes(&self) -> u64 {
        self.sectors.iter().map(|sector| sector.load(Ordering::SeqCst) / 2).sum()
    }

    fn sequences(&self, first: u64, count: u64) -> Vec<u64> {
        (first..first + count).map(|at| self.sectors[at as usize].load(Ordering::SeqCst)).collect()
    }

    fn check(&self, sector: u64, bytes: &[u8], low: u64, high: u64) -> std::result::Result<(), String> {
        let sequence = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let side = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        // Until it is written, an image's sector is what the origin's was.
        let (want, side_is_right) = match low {
            0 if side != self.number => (sector_bytes(side, sector, sequence), side == 0),
            _ => (sector_bytes(self.number, sector, sequence), (low..=high).contains(&sequence)),
        };
        if side_is_right && bytes == want {
            return Ok(());
        }
        Err(format!(
            "I2: sector {sector} of side {}: {low}..={high}, has {sequence} of side {side}",
            self.number
        ))
    }

    /// Nothing is under way any more: every sector is exactly what was written last.
    fn check_all(&self, before: Option<&[u8]>) -> std::result::Result<(), String> {
        let bytes = contents(&*self.store);
        for (at, bytes) in bytes.chunks(SECTOR as usize).enumerate() {
            let sequence = self.sectors[at].load(Ordering::SeqCst);
            let want = match before {
                Some(before) if sequence == 0 => before[at * SECTOR as usize..][..SECTOR as usize].to_vec(),
                _ => sector_bytes(self.number, at as u64, sequence).to_vec(),
            };
            if bytes != want {
                return Err(format!("I2: sector {at} of side {} is not its last write", self.number));
            }
        }
        Ok(())
    }
}

fn run(
    storage_of: impl Fn(&tempfile::TempDir, u64) -> Arc<DiffStorage>,
    sabotage: bool,
) -> std::result::Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let store = TestStore::new(SECTORS * SECTOR, BlockSize::B512, Pace::Mixed);
    let fill: Vec<u8> = (0..SECTORS).flat_map(|at| sector_bytes(0, at, 0)).collect();
    store.write(ByteRange::new(0, SECTORS * SECTOR), &fill);
    let device = Device::new("disk", store);
    let queues = Queues::start(QueuesConfig { count: 3, engine: bowline_io::probe().0 }).unwrap();
    let origin_stop = Arc::new(AtomicBool::new(false));
    let origin = Side::new(device.clone(), 0, &origin_stop);
    let spawn = |task: usize, side: &Arc<Side>, looks: bool| {
        let side = side.clone();
        let dice = Dice(0x9876_5432_1abc ^ (task as u64 + 1) << 21 ^ side.number << 40);
        queues
            .nth(task % 3)
            .unwrap()
            .spawn(move || async move { if looks { side.look(dice).await } else { side.write(dice).await } });
    };
    (0..3).for_each(|task| spawn(task, &origin, false));
    let mut failures = 0;
    for round in 1..=4u64 {
        let storage = storage_of(&dir, round);
        let origins = [Origin::new(device.clone(), None)];
        let snapshot = take(&format!("s{round}"), &origins, &storage, Arc::new(NoEvents), limits()).unwrap();
        if sabotage {
            snapshot.devices()[0].history().drop_copy(5);
        }
        let before = contents(image(&snapshot));
        let stop = Arc::new(AtomicBool::new(false));
        let side = Side::new(snapshot.devices()[0].image().clone(), round, &stop);
        (0..6).for_each(|task| spawn(task, &side, task >= 4));
        let begun = Instant::now();
        while side.writes() < 3000 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
        // Tasks that have ended let go of their side.
        let begun = Instant::now();
        while Arc::strong_count(&side) > 1 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        failures += side.failures.load(Ordering::SeqCst);
        side.check_all(Some(&before))?;
        assert!(side.writes() >= 3000, "there was load");
        snapshot.remove(FREEZE).unwrap();
        assert!(sabotage || storage.used() == 0, "I9: all space is given back");
    }
    origin_stop.store(true, Ordering::Relaxed);
    drop(queues);
    origin.check_all(None)?;
    failures += origin.failures.load(Ordering::SeqCst);
    if failures > 0 { Err(format!("I2: {failures} failures")) } else { Ok(()) }
}

#[test]
fn writers_of_images_and_origin_do_not_disturb_each_other_in_memory() {
    run(|_, _| memory(16 * MIB), false).unwrap();
}

#[test]
fn writers_of_images_and_origin_do_not_disturb_each_other_in_a_file() {
    run(|dir, round| file(dir, &format!("diff{round}"), 64 * MIB), false).unwrap();
}

#[test]
fn a_dropped_copy_shows_in_a_written_image() {
    let error = run(|_, _| memory(16 * MIB), true).unwrap_err();
    assert!(error.starts_with("I2"), "{error}");
}

/// Scenario 8: the snapshot goes under readers and writers of its image.
#[test]
fn a_removal_under_image_writers_is_bounded_and_leaks_nothing() {
    let queues = Queues::start(QueuesConfig { count: 3, engine: bowline_io::probe().0 }).unwrap();
    for round in 0..20u64 {
        let (store, device) = device(2, Pace::Mixed);
        let storage = memory(16 * MIB);
        let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
        let ended = Arc::new(AtomicU64::new(0));
        for task in 0..6u64 {
            let image = snapshot.devices()[0].image().clone();
            let device = device.clone();
            let ended = ended.clone();
            queues.nth(task as usize % 3).unwrap().spawn(move || async move {
                let mut dice = Dice((task + 1 + round) << 8);
                loop {
                    let range = ByteRange::new(dice.roll(4000) * SECTOR, 8 * SECTOR);
                    let op = [Op::Write, Op::Read, Op::Discard][task as usize % 3];
                    let data = if op == Op::Write { vec![7; 4096] } else { Vec::new() };
                    if let Err(error) = perform(&*image, op, range, &data).await {
                        assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
                        break;
                    }
                    perform(&*device, Op::Write, range, &[1; 4096]).await.unwrap();
                    yield_now().await;
                }
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        std::thread::sleep(Duration::from_millis(5));
        snapshot.remove(FREEZE).unwrap();
        let begun = Instant::now();
        while ended.load(Ordering::SeqCst) < 6 {
            assert!(begun.elapsed() < Duration::from_secs(10), "I9: everybody gets an answer");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(storage.used(), 0, "I9: nothing is leaked");
        assert_eq!(contents(&*device), store.contents());
    }
}
