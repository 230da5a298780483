//! Marks, takes and packing under randomised schedules: `cargo test -p bowline-filter --features shuttle`.
//!
//! A writer inside the gate marks, then writes; a take happens with nobody inside, as the gate sees to (it has schedule
//! tests of its own); a mark from outside the gate happens whenever it likes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use shuttle::sync::{Mutex, RwLock};
use shuttle::thread;

use super::grain::Run;
use super::map::LiveMap;
use super::sync::{AtomicU64, Ordering, fence};

const BLOCKS: u64 = 4;

struct World {
    /// Held shared by who is inside.
    gate: RwLock<()>,
    /// The current map and its epoch, replaced by a take.
    current: Mutex<Arc<(u64, LiveMap)>>,
    closed: Mutex<Vec<Arc<(u64, LiveMap)>>>,
    /// In which epoch each block was written to at last.
    written: Vec<AtomicU64>,
    /// Planted damage: a mark from outside does not look again.
    careless: bool,
}

impl World {
    fn new(careless: bool) -> Arc<Self> {
        Arc::new(Self {
            gate: RwLock::new(()),
            current: Mutex::new(Arc::new((1, LiveMap::new(BLOCKS)))),
            closed: Mutex::new(Vec::new()),
            written: (0..BLOCKS).map(|_| AtomicU64::new(0)).collect(),
            careless,
        })
    }

    fn load(&self) -> Arc<(u64, LiveMap)> {
        self.current.lock().unwrap().clone()
    }

    fn run(block: u64) -> Run {
        Run { first: block, end: block + 1 }
    }

    fn write(&self, block: u64) {
        let _inside = self.gate.read().unwrap();
        let current = self.load();
        if !current.1.is_set(Self::run(block)) {
            current.1.set(Self::run(block));
        }
        self.written[block as usize].fetch_max(current.0, Ordering::SeqCst);
    }

    /// As `mark_now` does it: what it marks counts in the epoch that is going on when it returns, or in an earlier one
    /// whose set is not made yet.
    fn mark(&self, block: u64) {
        // What is marked by hand has changed by the time of the call.
        let before = self.load().0;
        self.written[block as usize].fetch_max(before, Ordering::SeqCst);
        loop {
            let current = self.load();
            current.1.set(Self::run(block));
            fence(Ordering::SeqCst);
            if self.careless || Arc::ptr_eq(&current, &self.load()) {
                return;
            }
        }
    }

    fn take(&self) {
        let _frozen = self.gate.write().unwrap();
        let closed = {
            let mut current = self.current.lock().unwrap();
            let next = Arc::new((current.0 + 1, LiveMap::new(BLOCKS)));
            std::mem::replace(&mut *current, next)
        };
        fence(Ordering::SeqCst);
        self.closed.lock().unwrap().push(closed);
    }

    /// The blocks changed since a take, as packed when this is called.
    fn since(&self, epoch: u64, packed: &[(u64, roaring::RoaringBitmap)]) -> roaring::RoaringBitmap {
        let mut all = self.load().1.to_set();
        for (closed, set) in packed.iter().filter(|(closed, _)| *closed > epoch) {
            assert!(*closed > epoch);
            all |= set;
        }
        all
    }
}

fn race(careless: bool) {
    let world = World::new(careless);
    world.take();
    let spawn = |work: fn(&World)| {
        let world = world.clone();
        thread::spawn(move || work(&world))
    };
    let threads = [
        spawn(|world| {
            world.write(0);
            world.write(1);
        }),
        spawn(|world| {
            world.mark(2);
            world.mark(0);
        }),
    ];
    world.take();
    // The worker packs as soon as the take is over, whoever still marks.
    let packed: Vec<_> =
        world.closed.lock().unwrap().iter().map(|closed| (closed.0, closed.1.to_set())).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for epoch in 1..=2 {
        let set = world.since(epoch, &packed);
        for block in 0..BLOCKS {
            let written = world.written[block as usize].load(Ordering::SeqCst);
            assert!(written <= epoch || set.contains(block as u32), "I4: block {block} since {epoch}");
        }
    }
}

#[test]
fn i4_no_mark_falls_between_two_epochs() {
    shuttle::check_random(|| race(false), 4000);
    shuttle::check_pct(|| race(false), 2000, 3);
}

#[test]
#[should_panic(expected = "I4")]
fn a_mark_that_does_not_look_again_is_noticed() {
    shuttle::check_random(|| race(true), 8000);
}
