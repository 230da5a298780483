//! Many snapshots at once: removed in any order under load, exact all the time, and nothing of them is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use super::threads::Dice;
use crate::cow::*;

const SIZE: u64 = 17 * MIB;
/// What is compared at once.
const WINDOW: u64 = 256 * 1024;

struct Held {
    snapshot: Snapshot,
    was: Vec<u8>,
}

/// Compares a window of an image.
fn compare(held: &Held, at: u64) -> std::result::Result<(), String> {
    let range = ByteRange::new(at, WINDOW);
    let have = read(image(&held.snapshot), range).map_err(|error| error.to_string())?;
    let want = &held.was[at as usize..range.end() as usize];
    if have == want {
        return Ok(());
    }
    let place = have.iter().zip(want).position(|(have, want)| have != want).unwrap_or(0);
    Err(format!("I2: image {} differs at byte {}", held.snapshot.name(), at + place as u64))
}

/// Sixteen snapshots with writes between, each in a storage of its own.
fn take_sixteen(store: &TestStore, device: &Arc<Device>, dice: &mut Dice) -> Vec<Held> {
    let mut all: Vec<Held> = Vec::new();
    for number in 0..16 {
        let earlier = all.last().map(|held| &held.snapshot);
        let storage = memory(32 * MIB);
        let was = store.contents();
        let snapshot = take_with(&format!("s{number}"), device, earlier, &storage, Arc::new(NoEvents));
        all.push(Held { snapshot, was });
        for _ in 0..40 {
            let at = dice.roll(SIZE / G) * G;
            write(&**device, at, &[dice.roll(256) as u8; 4096]);
        }
    }
    all
}

#[test]
fn removal_in_any_order_under_load_leaves_the_others_exact() {
    for seed in 1..=3u64 {
        let mut dice = Dice(seed * 7919);
        let (store, device) = device(SIZE / MIB, Pace::Mixed);
        let mut all = take_sixteen(&store, &device, &mut dice);
        let storages: Vec<_> = all.iter().map(|held| held.snapshot.storage().clone()).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..2u64 {
                let (device, stop) = (&device, &stop);
                scope.spawn(move || {
                    let mut dice = Dice(seed * 31 + writer + 1);
                    while !stop.load(Ordering::Relaxed) {
                        // Each in its own half, so that what it wrote can be asked for.
                        let at = (dice.roll(SIZE / G / 2) + writer * (SIZE / G / 2)) * G;
                        let byte = dice.roll(256) as u8;
                        write(&**device, at, &[byte; 4096]);
                        let have = read(&**device, ByteRange::new(at, G)).unwrap();
                        assert_eq!(have, [byte; 4096], "I1");
                    }
                });
            }
            while !all.is_empty() {
                let gone = all.swap_remove(dice.roll(all.len() as u64) as usize);
                std::thread::scope(|scope| {
                    let removal = scope.spawn(|| gone.snapshot.remove(FREEZE));
                    let mut reads = 0;
                    while !removal.is_finished() || reads < 5 {
                        for held in &all {
                            let at = dice.roll(SIZE / WINDOW) * WINDOW;
                            compare(held, at).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                        }
                        reads += 1;
                    }
                    removal.join().unwrap().unwrap();
                });
                let error = read(image(&gone.snapshot), ByteRange::new(0, 512)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Gone);
                if all.len().is_multiple_of(8) {
                    for held in &all {
                        let differs =
                            (0..SIZE).step_by(WINDOW as usize).find_map(|at| compare(held, at).err());
                        assert_eq!(differs, None, "seed {seed}");
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(device.filters().is_empty());
        assert_eq!(device.stats().errors, 0, "I6");
        let left: Vec<_> = storages.iter().map(|storage| storage.used()).collect();
        assert!(left.iter().all(|&used| used == 0), "I9, seed {seed}: {left:?}");
    }
}

#[test]
fn the_comparison_notices_a_copy_that_is_lost() {
    let (store, device) = device(SIZE / MIB, Pace::Now);
    let mut dice = Dice(5);
    let all = take_sixteen(&store, &device, &mut dice);
    all[15].snapshot.devices()[0].history().drop_copy(1);
    overwrite(&device, 0, SIZE, 0xc3);
    let found =
        all.iter().filter(|held| (0..SIZE).step_by(WINDOW as usize).any(|at| compare(held, at).is_err()));
    assert!(found.count() > 0, "a lost copy went unnoticed");
}

#[test]
fn sixteen_snapshots_store_each_block_once_per_interval() {
    let (store, device) = device(4, Pace::Now);
    let storage = memory(64 * MIB);
    let mut all: Vec<Snapshot> = Vec::new();
    let mut stored = 0;
    for number in 0..16u64 {
        all.push(take_with(&format!("s{number}"), &device, all.last(), &storage, Arc::new(NoEvents)));
        // Twice each: the second write of an interval costs nothing.
        for at in 0..2 * (number + 1) {
            write(&*device, (at / 2) * 3 * G, &[number as u8 + 100; 4096]);
        }
        stored += number + 1;
        let counted: u64 = all.iter().map(|one| one.devices()[0].stats().stored_blocks).sum();
        assert_eq!(counted, stored, "after {} takes", number + 1);
    }
    // A segment for each interval is open; none is there per snapshot and block.
    let most = stored.div_ceil(64) + 16;
    assert!(storage.used() <= most * SEGMENT_BYTES, "{} bytes for {stored} blocks", storage.used());
    drop(store);
    all.iter().for_each(|one| one.remove(FREEZE).unwrap());
    assert_eq!(storage.used(), 0);
}

#[test]
fn a_storage_that_is_used_a_hundred_times_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(2, Pace::Now);
    let storage = file(&dir, "diff", 64 * MIB);
    let mut largest = 0;
    for round in 0..100u8 {
        let was = store.contents();
        let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
        overwrite(&device, 0, 2 * MIB, round | 1);
        assert!(contents(image(&snapshot)) == was, "I2, round {round}");
        snapshot.remove(FREEZE).unwrap();
        assert_eq!(storage.used(), 0, "round {round}");
        if round == 10 {
            largest = storage.size();
        }
    }
    assert_eq!(storage.size(), largest, "I9: the same places are used again");
    assert!(largest <= 4 * MIB, "{largest}");
}
