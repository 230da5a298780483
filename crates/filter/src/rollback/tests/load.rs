//! Under load: writers and readers on several queues while a device goes back.
//!
//! A sector of one writer at a time carries its number and a sequence. What was acknowledged before the rollback began
//! must be gone, what was submitted behind it must be there, and what was under way may be either.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bowline_block::*;
use bowline_device::Device;
use bowline_io::{Queues, QueuesConfig};

use super::*;
use crate::cow::tests::threads::Dice;
use crate::rollback::*;

const SECTOR: u64 = 512;
const SECTORS: u64 = 4099;

/// Before the rollback, while it begins, behind that.
const BEFORE: u64 = 0;
const BEGINNING: u64 = 1;
const BEHIND: u64 = 2;

fn sector_bytes(sector: u64, sequence: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [sequence as u8 | 1; SECTOR as usize];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

#[derive(Default)]
struct Sector {
    taken: AtomicBool,
    /// The newest that was submitted.
    newest: AtomicU64,
    /// The newest that was submitted behind the beginning and acknowledged.
    behind: AtomicU64,
    /// One that was under way while it began, or 0.
    either: AtomicU64,
}

struct World {
    device: Arc<Device>,
    sectors: Vec<Sector>,
    stage: AtomicU64,
    stop: AtomicBool,
    errors: AtomicU64,
    writes: AtomicU64,
}

impl World {
    async fn write(self: Arc<Self>, mut dice: Dice) {
        while !self.stop.load(Ordering::Relaxed) {
            let most = if dice.roll(6) == 0 { 200 } else { 11 };
            let count = 1 + dice.roll(most);
            let first = dice.roll(SECTORS - count + 1);
            let range = first..first + count;
            let held =
                range.clone().take_while(|&at| !self.sector(at).taken.swap(true, Ordering::SeqCst)).count();
            if held as u64 == count {
                self.write_taken(first, count).await;
            }
            range.take(held).for_each(|at| self.sector(at).taken.store(false, Ordering::SeqCst));
            yield_now().await;
        }
    }

    fn sector(&self, at: u64) -> &Sector {
        &self.sectors[at as usize]
    }

    async fn write_taken(&self, first: u64, count: u64) {
        let submitted = self.stage.load(Ordering::SeqCst);
        let mut data = Vec::new();
        let mut sequences = Vec::new();
        for at in first..first + count {
            let sequence = self.sector(at).newest.fetch_add(1, Ordering::SeqCst) + 1;
            data.extend_from_slice(&sector_bytes(at, sequence));
            sequences.push(sequence);
        }
        let range = ByteRange::new(first * SECTOR, count * SECTOR);
        if perform(&*self.device, Op::Write, range, &data).await.is_err() {
            self.errors.fetch_add(1, Ordering::SeqCst);
        }
        let acknowledged = self.stage.load(Ordering::SeqCst);
        self.writes.fetch_add(1, Ordering::SeqCst);
        for (at, sequence) in (first..).zip(sequences) {
            if submitted == BEHIND {
                self.sector(at).behind.store(sequence, Ordering::SeqCst);
            } else if acknowledged != BEFORE {
                self.sector(at).either.store(sequence, Ordering::SeqCst);
            }
        }
    }

    /// Whether a sector, which nobody writes to, is as it must be.
    fn check(&self, at: u64, bytes: &[u8]) -> std::result::Result<(), String> {
        let sector = self.sector(at);
        let (behind, either) = (sector.behind.load(Ordering::SeqCst), sector.either.load(Ordering::SeqCst));
        let legal = if behind > 0 { vec![behind] } else { vec![0, either] };
        if legal.iter().any(|&sequence| bytes == sector_bytes(at, sequence)) {
            return Ok(());
        }
        let found = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        Err(format!("sector {at} is write {found}, may be {legal:?}"))
    }

    async fn look(self: Arc<Self>, mut dice: Dice) {
        while !self.stop.load(Ordering::Relaxed) {
            let at = dice.roll(SECTORS);
            if self.stage.load(Ordering::SeqCst) == BEHIND
                && !self.sector(at).taken.swap(true, Ordering::SeqCst)
            {
                let range = ByteRange::new(at * SECTOR, SECTOR);
                let bytes = perform(&*self.device, Op::Read, range, &[]).await.unwrap();
                if let Err(error) = self.check(at, &bytes) {
                    println!("while it goes back: {error}");
                    self.errors.fetch_add(1, Ordering::SeqCst);
                }
                self.sector(at).taken.store(false, Ordering::SeqCst);
            }
            yield_now().await;
        }
    }

    fn check_all(&self) -> std::result::Result<(), String> {
        let bytes = contents(&*self.device);
        bytes.chunks(SECTOR as usize).zip(0..).try_for_each(|(bytes, at)| self.check(at, bytes))
    }
}

fn sleep_until(met: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !met() {
        assert!(begun.elapsed() < LIMIT, "it does not get on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn run(sabotage: bool) -> std::result::Result<(), String> {
    let store = TestStore::new(SECTORS * SECTOR, BlockSize::B512, Pace::Mixed);
    let fill: Vec<u8> = (0..SECTORS).flat_map(|at| sector_bytes(at, 0)).collect();
    store.write(ByteRange::new(0, SECTORS * SECTOR), &fill);
    let device = Device::new("disk", store);
    let older = take_one("older", &device, None);
    let snapshot = take_one("s", &device, Some(&older));
    if sabotage {
        snapshot.devices()[0].history().drop_copy(3);
    }
    let world = Arc::new(World {
        device: device.clone(),
        sectors: (0..SECTORS).map(|_| Sector::default()).collect(),
        stage: AtomicU64::new(BEFORE),
        stop: AtomicBool::new(false),
        errors: AtomicU64::new(0),
        writes: AtomicU64::new(0),
    });
    let queues = Queues::start(QueuesConfig { count: 3, engine: bowline_io::probe().0 }).unwrap();
    for task in 0..9u64 {
        let world = world.clone();
        let dice = Dice(0x1234_9876_abcd ^ (task + 1) << 23);
        queues.nth(task as usize % 3).unwrap().spawn(move || async move {
            if task < 6 { world.write(dice).await } else { world.look(dice).await }
        });
    }
    sleep_until(|| world.writes.load(Ordering::SeqCst) > 300);
    let newer = take_one("newer", &device, Some(&snapshot));
    let at_newer = contents(image(&newer));
    sleep_until(|| world.writes.load(Ordering::SeqCst) > 400);
    world.stage.store(BEGINNING, Ordering::SeqCst);
    let options = RollbackOptions { queue: queues.nth(1).cloned(), ..options() };
    let rollback = Rollback::begin(&snapshot.devices()[0], &options).unwrap();
    world.stage.store(BEHIND, Ordering::SeqCst);
    done(&rollback);
    let so_far = world.writes.load(Ordering::SeqCst);
    sleep_until(|| world.writes.load(Ordering::SeqCst) > so_far + 100);
    world.stop.store(true, Ordering::SeqCst);
    drop(queues);
    world.check_all()?;
    assert_eq!(device.stats().errors, 0, "I6");
    if contents(image(&newer)) != at_newer || contents(image(&older)) != fill {
        return Err("I2: another snapshot has changed".to_owned());
    }
    match world.errors.load(Ordering::SeqCst) {
        0 => Ok(()),
        errors => Err(format!("{errors} errors while it went back")),
    }
}

#[test]
fn a_device_goes_back_under_load() {
    for _ in 0..3 {
        run(false).unwrap();
    }
}

#[test]
fn a_block_that_was_not_preserved_is_noticed() {
    run(true).unwrap_err();
}
