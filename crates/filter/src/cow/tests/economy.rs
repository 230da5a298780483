//! What snapshots cost: one copy per interval, space given back and used again, a small index.

use std::sync::Arc;

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use super::threads::Dice;
use crate::cow::*;

fn full_device(size: u64) -> (Arc<TestStore>, Arc<Device>) {
    let store = TestStore::new(size, BlockSize::B4096, Pace::Now);
    (0..size / G).for_each(|at| store.write(ByteRange::new(at * G, G), &[at as u8 | 1; 4096]));
    (store.clone(), Device::new("disk", store))
}

#[test]
fn sixteen_snapshots_cost_one_copy() {
    let (store, device) = full_device(MIB);
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for number in 0..16 {
        snapshots.push(take_one(&format!("s{number}"), &device, snapshots.last()));
    }
    let before = store.contents();
    let reads = store.reads.load(std::sync::atomic::Ordering::Relaxed);
    for at in 0..100 {
        write(&*device, at * 2 * G, &[7; 4096]);
        write(&*device, at * 2 * G, &[8; 4096]);
    }
    let copies: u64 = snapshots.iter().map(|one| one.devices()[0].stats().stored_blocks).sum();
    assert_eq!(copies, 100, "once per interval, however many look at it");
    assert_eq!(
        store.reads.load(std::sync::atomic::Ordering::Relaxed) - reads,
        100,
        "a rewrite reads nothing"
    );
    assert!(snapshots.iter().all(|one| contents(image(one)) == before), "I2");
}

#[test]
fn space_of_duplicates_is_given_back_and_used_again() {
    let (store, device) = full_device(4 * MIB);
    let before = store.contents();
    let storage = memory(8 * MIB);
    let first = take_with("first", &device, None, &storage, Arc::new(NoEvents));
    write(&*device, 0, &vec![1; 1 << 20]);
    let base = storage.used();
    for round in 0..40u8 {
        let next = take_with("next", &device, Some(&first), &storage, Arc::new(NoEvents));
        let now = store.contents();
        write(&*device, 0, &vec![round | 1; 1 << 20]);
        assert_eq!(contents(image(&next)), now, "I2, round {round}");
        next.remove(FREEZE).unwrap();
        assert!(storage.used() <= base, "round {round}: {} of {base}", storage.used());
    }
    assert_eq!(first.state(), SnapshotState::Active);
    assert_eq!(contents(image(&first)), before, "I2");
    first.remove(FREEZE).unwrap();
    assert_eq!(storage.used(), 0);
    assert!(storage.spare_bytes() > 0, "touched memory is kept for its next use");
}

#[test]
fn the_index_takes_at_most_eight_bytes_a_block() {
    let (_, device) = full_device(64 * MIB);
    let snapshot = take_one("s", &device, None);
    let history = snapshot.devices()[0].history().clone();
    let mut dice = Dice(4711);
    let blocks = 64 * MIB / G;
    for count in 1..=20_000u64 {
        write(&*device, dice.roll(blocks) * G, &[1; 4096]);
        if count % 500 == 0 {
            let preserved = snapshot.devices()[0].stats().stored_blocks;
            let memory = history.memory();
            // What a zone costs once, however little is in it, is within a fifth of its bits.
            let fixed = 64 * MIB / (16 * MIB) * 128;
            assert!(memory.index_bytes <= 8 * preserved + fixed, "{memory:?} for {preserved} blocks");
            assert!(memory.bit_bytes <= blocks / 8 + 48 * 1024, "{memory:?}");
        }
    }
    assert!(snapshot.devices()[0].stats().stored_blocks > blocks / 2);
}

#[test]
fn free_space_of_a_sparse_origin_costs_no_storage() {
    let store = TestStore::new(8 * MIB, BlockSize::B512, Pace::Mixed);
    let device = Device::new("disk", store);
    let snapshot = take_one("s", &device, None);
    (0..8).for_each(|at| write(&*device, at * MIB, &vec![1; 1 << 20]));
    let stats = snapshot.devices()[0].stats();
    assert_eq!((stats.blocks, stats.stored_blocks), (8 * MIB / G, 0));
    assert!(contents(image(&snapshot)).iter().all(|&byte| byte == 0), "I2");
    let found = block_on(image(&snapshot).extents(ByteRange::new(0, 8 * MIB), 8)).unwrap();
    assert!(found.as_slice().iter().all(|extent| extent.kind.reads_zero()), "{found:?}");
}

#[test]
fn memory_that_a_burst_needed_is_given_back() {
    let (_, device) = full_device(32 * MIB);
    let storage = memory(64 * MIB);
    let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
    (0..32).for_each(|at| write(&*device, at * MIB, &vec![1; 1 << 20]));
    snapshot.remove(FREEZE).unwrap();
    assert!(storage.spare_bytes() > 4 * MIB, "kept for the next burst: {}", storage.spare_bytes());
    for _ in 0..1000 {
        if storage.spare_bytes() <= 2 * MIB {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("I9: {} bytes are kept", storage.spare_bytes());
}
