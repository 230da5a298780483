//! Many threads that write, while takes freeze the device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bowline_block::ByteRange;
use bowline_sim::Rng;
use bowline_state::SimFolder;

use super::rig::{BLOCK, Rig};
use super::support::{close, write};

const BLOCKS: u64 = 16 << 8;
const TAKES: u64 = 40;

/// Each block is stamped with a number that only grows; a take notes the number then. What is stamped higher than at a
/// take was written behind it, and must be in the changes since.
#[test]
fn i4_no_write_slips_between_two_epochs() {
    let rig = Rig::new(SimFolder::new(), BLOCKS * BLOCK, None);
    let clock = AtomicU64::new(1);
    let stop = AtomicBool::new(false);
    let stamps: Vec<AtomicU64> = (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
    let mut takes: Vec<(u64, u64)> = Vec::new();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (device, clock, stop, stamps) = (&rig.device, &clock, &stop, &stamps);
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    // Blocks of one's own.
                    let block = rng.below(BLOCKS / 4) * 4 + seed;
                    // Read before the write: a number above a take's says that the write began behind that take.
                    let begun = clock.load(Ordering::SeqCst);
                    write(device, block * BLOCK, &[1; 512]);
                    stamps[block as usize].fetch_max(begun, Ordering::SeqCst);
                }
            });
        }
        let marker = &rig;
        let (clock_ref, stop_ref, stamps_ref) = (&clock, &stop, &stamps);
        scope.spawn(move || {
            let mut rng = Rng::new(99);
            while !stop_ref.load(Ordering::Relaxed) {
                // From outside the gate, as a write to an image does.
                let block = rng.below(BLOCKS);
                let begun = clock_ref.load(Ordering::SeqCst);
                marker.tracker.mark_blocking(ByteRange::new(block * BLOCK, BLOCK));
                stamps_ref[block as usize].fetch_max(begun, Ordering::SeqCst);
            }
        });
        for take in 0..TAKES {
            std::thread::sleep(Duration::from_millis(3));
            let epoch = close(&rig.device, &rig.tracker, &format!("s{take}"));
            takes.push((epoch, clock.fetch_add(1, Ordering::SeqCst)));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut compared = 0;
    for (epoch, number) in &takes {
        let set = rig.tracker.changed(*epoch, None).unwrap();
        for (block, stamp) in stamps.iter().enumerate() {
            if stamp.load(Ordering::SeqCst) > *number {
                compared += 1;
                assert!(
                    set.contains(ByteRange::new(block as u64 * BLOCK, BLOCK)),
                    "I4: epoch {epoch} misses {block}"
                );
            }
        }
    }
    assert!(compared > 1000, "{compared}");
    assert!(rig.tracker.status().durable);
}
