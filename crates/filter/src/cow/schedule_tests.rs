//! The granule transition under randomised schedules: `cargo test -p bowline-filter --features shuttle`.
//!
//! Writers and an image reader do exactly what `copy` and `image` do, on a zone of the real kind over an origin and a
//! storage of one number per granule.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::sync::Arc;
use std::task::{Wake, Waker};

use shuttle::thread;

use super::sync::{AtomicU64, Mutex, Ordering, fence, lock};
use super::zone::{Claimed, Run, SlotId, Zone};

const GRANULES: usize = 3;
const OLD: u64 = 100;

/// Wakes by counting; a waiter yields until it is counted up.
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct World {
    zone: Zone,
    origin: Vec<AtomicU64>,
    storage: Mutex<Vec<u64>>,
    copies: Vec<AtomicU64>,
    /// Planted damage: the write comes before the mark.
    too_early: bool,
}

impl World {
    fn new(too_early: bool) -> Arc<Self> {
        Arc::new(Self {
            zone: Zone::new(),
            origin: (0..GRANULES as u64).map(|at| AtomicU64::new(OLD + at)).collect(),
            storage: Mutex::new(Vec::new()),
            copies: (0..GRANULES).map(|_| AtomicU64::new(0)).collect(),
            too_early,
        })
    }

    /// Overwrites granules as a writer does: copy, publish, write. With `gives_up`, the first claim is dropped unused.
    fn write(&self, first: usize, end: usize, new: u64, mut gives_up: bool) {
        let within = Run::new(first as u64, end as u64);
        if self.too_early {
            self.overwrite(first, end, new);
        }
        loop {
            match self.zone.claim(within, 8, |_| 0) {
                Claimed::Nothing => break,
                Claimed::Busy(run) => self.wait(run),
                Claimed::Mine(_) if gives_up => gives_up = false,
                Claimed::Mine(mut claim) => {
                    while claim.run().count > 0 {
                        let granule = usize::from(claim.run().first);
                        let old = self.origin[granule].load(Ordering::SeqCst);
                        let slot = {
                            let mut storage = lock(&self.storage);
                            storage.push(old);
                            storage.len() - 1
                        };
                        self.copies[granule].fetch_add(1, Ordering::SeqCst);
                        claim.publish(1, SlotId(slot as u32));
                    }
                }
            }
        }
        self.overwrite(first, end, new);
    }

    fn overwrite(&self, first: usize, end: usize, new: u64) {
        self.origin[first..end].iter().for_each(|granule| granule.store(new, Ordering::SeqCst));
    }

    fn wait(&self, run: Run) {
        self.wait_on(&self.zone, run);
    }

    fn wait_on(&self, zone: &Zone, run: Run) {
        let bell = Arc::new(Bell(AtomicU64::new(0)));
        let waker = Waker::from(bell.clone());
        while zone.is_busy(run, &waker) {
            // A lost wake-up would leave this going round for ever; shuttle bounds the steps and fails.
            while bell.0.swap(0, Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
        }
    }

    /// Reads a granule as an image does.
    fn read(&self, granule: usize) -> u64 {
        if self.zone.word(0) >> granule & 1 == 0 {
            let seen = self.origin[granule].load(Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if self.zone.word(0) >> granule & 1 == 0 {
                return seen;
            }
        }
        let mut slots = [SlotId::ZERO];
        assert_eq!(self.zone.slots(granule as u64, &mut slots), 1);
        lock(&self.storage)[slots[0].0 as usize]
    }
}

/// Two writers whose runs share a granule, one of which changes its mind once, and a reader of all.
fn race(too_early: bool) {
    let world = World::new(too_early);
    let spawn = |first, end, new, gives_up| {
        let world = world.clone();
        thread::spawn(move || world.write(first, end, new, gives_up))
    };
    let writers = [spawn(0, 2, 1, false), spawn(1, 3, 2, true)];
    let reader = {
        let world = world.clone();
        thread::spawn(move || {
            for granule in [1, 0, 2, 1] {
                assert_eq!(world.read(granule), OLD + granule as u64, "I2: an image is what the origin was");
            }
        })
    };
    writers.into_iter().chain([reader]).for_each(|thread| thread.join().unwrap());
    for granule in 0..GRANULES {
        assert_eq!(world.copies[granule].load(Ordering::SeqCst), 1, "each granule is copied exactly once");
        assert_eq!(world.read(granule), OLD + granule as u64, "I2");
    }
    assert_eq!(world.zone.counts(), (GRANULES as u64, GRANULES as u64));
}

/// A merge into a zone that is written to and read from: an orphan's granules arrive while others are copied.
fn merge() {
    let world = World::new(false);
    let orphan = Arc::new(Zone::new());
    // Granule 0 was preserved in the orphan, and has been overwritten since.
    if let Claimed::Mine(mut claim) = orphan.claim(Run::new(0, 1), 1, |_| 0) {
        lock(&world.storage).push(OLD);
        claim.publish(1, SlotId(0));
    }
    world.origin[0].store(7, Ordering::SeqCst);
    let merger = {
        let (world, orphan) = (world.clone(), orphan.clone());
        thread::spawn(move || world.zone.absorb(&orphan.entries()))
    };
    let writer = {
        let world = world.clone();
        thread::spawn(move || world.write(1, 3, 9, false))
    };
    for granule in [1, 2, 1] {
        assert_eq!(world.read(granule), OLD + granule as u64, "I2");
    }
    let mut slots = [SlotId::ZERO; 3];
    let merged = world.zone.word(0) & 1 == 1;
    if merged {
        world.zone.slots(0, &mut slots);
        assert_eq!(slots[0], SlotId(0), "a merged granule keeps its slot");
    }
    [merger, writer].into_iter().for_each(|thread| thread.join().unwrap());
    for granule in 0..GRANULES {
        assert_eq!(world.read(granule), OLD + granule as u64, "I2");
    }
}

#[test]
fn a_reader_sees_old_contents_and_each_granule_is_copied_once() {
    shuttle::check_random(|| race(false), 4000);
    shuttle::check_pct(|| race(false), 1500, 3);
}

#[test]
fn merging_keeps_what_writers_and_readers_see() {
    shuttle::check_random(merge, 2000);
    shuttle::check_pct(merge, 1000, 3);
}

#[test]
#[should_panic(expected = "I2")]
fn a_write_before_its_mark_is_noticed() {
    shuttle::check_random(|| race(true), 4000);
}

/// Two halves of a granule, which stand for its sectors.
const fn halves(low: u64, high: u64) -> u64 {
    low | high << 32
}

/// An image over a world: what is written to it goes to a zone in front.
struct Image {
    world: Arc<World>,
    front: Zone,
    /// Planted damage: granules are written without a claim.
    unclaimed: bool,
}

impl Image {
    fn read(&self, granule: usize) -> u64 {
        if self.front.word(0) >> granule & 1 == 1 {
            let mut slots = [SlotId::ZERO];
            assert_eq!(self.front.slots(granule as u64, &mut slots), 1);
            return lock(&self.world.storage)[slots[0].0 as usize];
        }
        self.world.read(granule)
    }

    /// Replaces a half of a granule: claim, read, merge, publish.
    fn write_half(&self, granule: usize, high: bool, new: u64) {
        let run = Run::new(granule as u64, granule as u64 + 1);
        let claim = loop {
            match self.front.claim_any(run, 1) {
                Claimed::Mine(_) if self.unclaimed => break None,
                Claimed::Mine(claim) => break Some(claim),
                Claimed::Busy(busy) => self.world.wait_on(&self.front, busy),
                Claimed::Nothing => unreachable!(),
            }
        };
        let old = self.read(granule);
        let merged = if high { halves(old & 0xffff_ffff, new) } else { halves(new, old >> 32) };
        let slot = {
            let mut storage = lock(&self.world.storage);
            storage.push(merged);
            SlotId(storage.len() as u32 - 1)
        };
        self.front.replace(run, slot);
        drop(claim);
    }
}

/// Two writers of different halves of one granule of an image, while the origin's is copied and overwritten.
fn merge_of_halves(unclaimed: bool) {
    let world = World::new(false);
    let image = Arc::new(Image { world: world.clone(), front: Zone::new(), unclaimed });
    let half = |high, new| {
        let image = image.clone();
        thread::spawn(move || image.write_half(1, high, new))
    };
    let threads = [half(false, 7), half(true, 9), {
        let world = world.clone();
        thread::spawn(move || world.write(0, 2, 5, false))
    }];
    let seen = image.read(1);
    let legal = [halves(OLD + 1, 0), halves(7, 0), halves(OLD + 1, 9), halves(7, 9)];
    assert!(legal.contains(&seen), "I2: an image shows what was written to it, or what it was: {seen:x}");
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(image.read(1), halves(7, 9), "I2: both writers' sectors are there");
    assert_eq!(image.read(0), OLD, "I2: what was not written is as it was taken");
    assert_eq!(image.front.counts(), (1, 1));
}

#[test]
fn writers_of_one_granule_of_an_image_keep_each_others_sectors() {
    shuttle::check_random(|| merge_of_halves(false), 4000);
    shuttle::check_pct(|| merge_of_halves(false), 1500, 3);
}

#[test]
#[should_panic(expected = "I2: both writers")]
fn a_granule_that_is_written_without_a_claim_is_noticed() {
    shuttle::check_random(|| merge_of_halves(true), 4000);
}
