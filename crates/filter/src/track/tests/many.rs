//! Many takes, large devices, bounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::{ByteRange, ErrorKind};
use bowline_device::Device;
use bowline_state::SimFolder;

use super::rig::{BLOCK, Rig};
use super::support::{K, M, Memory, attach, close, write};
use crate::track::epochs::{NAMES_MAX, SETS_MAX, SetLimits};
use crate::track::grain::{BLOCKS_MAX, Grain, REGIONS_MAX};
use crate::track::{NoTrackEvents, Tracker};

const G: u64 = 1 << 30;
const T: u64 = 1 << 40;

fn tracker(size: u64) -> Arc<Tracker> {
    Tracker::memory("d", size, Arc::new(NoTrackEvents))
}

/// Waits until nothing is left to be packed or merged.
fn quiet(tracker: &Tracker, sets: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while tracker.status().sets > sets && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(tracker.status().sets <= sets, "{} sets", tracker.status().sets);
}

#[test]
fn blocks_keep_the_map_in_its_bound() {
    for (size, block) in [
        (1, 4),
        (2 * T - 16 * G, 4),
        (2 * T - 16 * G + 1, 8),
        (2 * T, 8),
        (4 * T, 16),
        (16 * T - 1, 64),
        (16 * T, 64),
        (31 * T, 64),
        (32 * T, 128),
        (64 * T, 256),
    ] {
        assert_eq!(Grain::blocks_of(size).bytes(), block << 10, "{size}");
    }
    let small = [(1, 64), (64 * M, 64), (64 * M + 1, 128), (100 * M, 128), (G, 1024), (2 * G + 1, 4096)];
    let large = [(16 * T, 4 << 10), (16 * T + 1, 8 << 10), (64 * T, 16 << 10)];
    for (size, region) in small.into_iter().chain(large) {
        assert_eq!(Grain::regions_of(size).bytes(), region << 10, "{size}");
    }
    for size in [0, 1, T, 2 * T - 1, 33 * T, 1 << 59, u64::MAX - 4096] {
        assert!(Grain::blocks_of(size).count(size) <= BLOCKS_MAX);
        assert!(Grain::regions_of(size).count(size) <= REGIONS_MAX);
    }
}

#[test]
fn i9_ten_thousand_takes_stay_in_their_bounds_and_miss_nothing() {
    let size = 64 * M;
    let tracker = tracker(size);
    let blocks = size / K;
    let taken = 10_000;
    for take in 1..=taken {
        tracker.prepare_close();
        assert_eq!(tracker.close_epoch(&format!("s{take}")).epoch, take);
        tracker.mark_blocking(ByteRange::new(take % blocks * K, 1));
    }
    quiet(&tracker, SETS_MAX);
    assert!(tracker.memory_bytes() < 4 * M, "{} bytes", tracker.memory_bytes());
    for since in [1, 2, 500, 5000, 9_990, taken] {
        let set = tracker.changed(since, None).unwrap();
        for take in since..=taken {
            assert!(
                set.contains(ByteRange::new(take % blocks * K, 1)),
                "I4: since {since} misses take {take}"
            );
        }
    }
    // The newest takes are exact, and the newest names known.
    assert_eq!(tracker.changed(9_990, None).unwrap().bytes(), 11 * K);
    assert_eq!(tracker.epoch_of("s10000"), Some(taken));
    assert_eq!(tracker.epoch_of(&format!("s{}", taken - NAMES_MAX as u64 + 1)), Some(taken - 4095));
    assert_eq!(tracker.epoch_of("s1"), None);
}

#[test]
fn three_hundred_takes_with_one_known_write_each() {
    let mut rig = Rig::new(SimFolder::new(), 64 * M, None);
    for take in 1..=300 {
        assert_eq!(rig.take(), take);
        rig.write(take * 7);
    }
    for since in 1..=300 {
        let set = rig.tracker.changed(since, None).unwrap();
        assert_eq!(set.bytes(), (301 - since) * BLOCK, "since {since}");
        if since < 300 {
            let one = rig.tracker.changed(since, Some(since + 1)).unwrap();
            assert_eq!(one.extents(0, 9).0, [ByteRange::new(since * 7 * BLOCK, BLOCK)]);
        }
    }
    let session = rig.save();
    let again = Rig::new(rig.folder.clone(), 64 * M, Some(session));
    for since in 1..=300 {
        assert_eq!(again.tracker.changed(since, None).unwrap().bytes(), (301 - since) * BLOCK);
    }
}

#[test]
fn i9_large_sets_are_merged_the_oldest_first() {
    let set_limits = SetLimits { count: 1000, bytes: 1 << 16 };
    let tracker = Tracker::memory_within("d", 1 << 32, Arc::new(NoTrackEvents), set_limits);
    for take in 1..80_u64 {
        let _ = tracker.close_epoch("s");
        for at in 0..2000_u64 {
            let block = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ take) % (1 << 20);
            tracker.mark_blocking(ByteRange::new(block * K, 1));
        }
        tracker.prepare_close();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while tracker.status().set_bytes > 1 << 18 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(tracker.status().set_bytes <= 1 << 18, "{} bytes", tracker.status().set_bytes);
    assert!(tracker.changed(78, None).unwrap().bytes() <= 4000 * K);
}

#[test]
fn i9_a_whole_device_of_any_size_is_marked_in_no_time_and_memory() {
    for size in [64 * T, 16 * T + 512, 1 << 62] {
        let tracker = tracker(size);
        let _ = tracker.close_epoch("a");
        let begun = Instant::now();
        tracker.mark_blocking(ByteRange::new(0, size));
        tracker.mark_blocking(ByteRange::new(K, size - K));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(tracker.memory_bytes() < 2 * M, "{} bytes", tracker.memory_bytes());
        let set = tracker.changed(1, None).unwrap();
        assert_eq!((set.bytes(), set.extents(0, 9)), (size, (vec![ByteRange::new(0, size)], None)));
    }
}

/// Bits, table and what stands ready for the next take: for each size under 64 MiB, however the changes lie.
#[test]
fn i9_the_densest_map_stays_in_its_bound() {
    for size in [2 * T - 16 * G, 2 * T, 16 * T, 32 * T] {
        for one_in in [1, 100] {
            let tracker = tracker(size);
            let block = tracker.granularity();
            // One block of each leaf, at least, makes all leaves.
            for at in (0..size).step_by(usize::try_from(block * (1 << 16) / one_in).unwrap()) {
                tracker.mark_blocking(ByteRange::new(at, 1));
            }
            tracker.prepare_close();
            let bytes = tracker.memory_bytes();
            assert!(bytes > 30 * M && bytes < 64 * M, "{size}: {bytes}");
        }
    }
    let most = tracker(2 * T - 16 * G);
    (0..2 * T - 16 * G).step_by(1 << 28).for_each(|at| most.mark_blocking(ByteRange::new(at, 1)));
    assert!(most.memory_bytes() > 63 * M, "the bound is made use of");
}

#[test]
fn a_device_that_grew_unseen_begins_a_new_generation() {
    let memory = Memory::new(16 * M);
    let device = Device::new("d", memory.clone());
    let tracker = tracker(16 * M);
    attach(&device, &tracker);
    let closed = close(&device, &tracker, "a");
    memory.0.lock().unwrap().resize(32 << 20, 0);
    write(&device, 20 * M, &[1; 512]);
    assert_eq!(tracker.changed(closed, None).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(tracker.status().size, 32 * M);
}
