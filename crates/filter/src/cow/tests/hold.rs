//! I1: a request is held no longer than the limit, however many things it waits for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use crate::cow::store::Fault;
use crate::cow::*;

/// Storage in a file whose syncs take `each`.
fn slow(dir: &tempfile::TempDir, each: Duration) -> Arc<DiffStorage> {
    let storage = file(dir, "diff", 512 * MIB);
    let sync: Fault = Arc::new(move |_| {
        std::thread::sleep(each);
        Ok(())
    });
    storage.plan(|faults| faults.sync = Some(sync));
    storage
}

fn take_held(
    device: &Arc<Device>,
    earlier: Option<&Snapshot>,
    storage: &Arc<DiffStorage>,
    hold: Duration,
) -> Snapshot {
    let history = earlier.map(|one| one.devices()[0].history().clone());
    let limits = Limits { hold, ..limits() };
    take("s", &[Origin::new(device.clone(), history)], storage, Arc::new(NoEvents), limits).unwrap()
}

#[test]
fn waits_of_one_write_that_are_each_in_time_are_not_so_together() {
    let hold = Duration::from_millis(500);
    for op in [Op::Write, Op::WriteZeroes] {
        // As much as goes with one deadline in a clear.
        let mib = if op == Op::Write { 64 } else { 32 };
        let dir = tempfile::tempdir().unwrap();
        let (store, device) = device(mib, Pace::Now);
        let storage = slow(&dir, Duration::from_millis(450));
        let snapshot = take_held(&device, None, &storage, hold);
        let range = ByteRange::new(0, mib * MIB);
        let data = vec![0; range.len() as usize];
        let begun = Instant::now();
        block_on(async {
            let buf = if op == Op::Write { Buf::copy_of(&data) } else { Buf::empty() };
            device.submit(Io::new(Request::new(op, range), buf)).await.result.unwrap();
        });
        assert!(begun.elapsed() < hold * 4, "{op:?} was held for {:?}", begun.elapsed());
        assert_failed(&snapshot, "took longer than");
        assert!(store.contents().iter().all(|&byte| byte == 0), "I1");
    }
}

#[test]
fn a_clear_of_much_data_goes_on_as_long_as_it_gets_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(128, Pace::Now);
    let before = store.contents();
    let storage = slow(&dir, Duration::from_millis(200));
    let hold = Duration::from_millis(2200);
    let snapshot = take_held(&device, None, &storage, hold);
    let begun = Instant::now();
    clear(&*device, Op::WriteZeroes, ByteRange::new(0, 128 * MIB));
    assert!(begun.elapsed() > hold, "the limit was not reached: {:?}", begun.elapsed());
    assert_eq!(snapshot.state(), SnapshotState::Active);
    assert!(contents(image(&snapshot)) == before, "I2");
}

#[test]
fn a_storage_that_uses_up_its_time_leaves_some_to_older_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(32, Pace::Later);
    let before = store.contents();
    let hold = Duration::from_secs(4);
    let old = take_held(&device, None, &memory(64 * MIB), hold);
    let new = take_held(&device, Some(&old), &slow(&dir, Duration::from_secs(20)), hold);
    let begun = Instant::now();
    let all = ByteRange::new(0, 32 * MIB);
    block_on(perform(&*device, Op::Write, all, &vec![9; 32 << 20])).unwrap();
    assert!(begun.elapsed() < hold * 2, "I1: {:?}", begun.elapsed());
    assert_failed(&new, "took longer than");
    assert_eq!(old.state(), SnapshotState::Active, "it has room, and the origin can be read");
    assert!(contents(image(&old)) == before, "I2");
    assert!(store.contents().iter().all(|&byte| byte == 9), "I1");
}
