//! Origins that fail, vanish or change beneath held snapshots: images are exact or errors, and nothing hangs (I1, I2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bowline_block::*;
use bowline_device::Device;
use bowline_store::{FileOptions, FileStore};

use super::support::*;
use crate::cow::*;

fn gone(told: &Told) -> Vec<String> {
    told.all().into_iter().filter(|one| one.contains("device-gone")).collect()
}

#[test]
fn an_origin_that_vanishes_is_told_once_for_each_snapshot() {
    for pace in [Pace::Now, Pace::Later] {
        let (store, device) = device(2, pace);
        let told = Arc::new(Told::default());
        let first = take_with("first", &device, None, &memory(8 * MIB), told.clone());
        let second = take_with("second", &device, Some(&first), &memory(8 * MIB), told.clone());
        overwrite(&device, 0, MIB, 4);
        store.gone.store(true, Ordering::Relaxed);
        for at in 0..4 {
            // What the store says of the write itself is the writer's to hear; here it takes it.
            write(&*device, MIB + at * G, &[1; 4096]);
        }
        let mut all = gone(&told);
        all.sort();
        assert_eq!(all, ["first device-gone disk Some(Gone)", "second device-gone disk Some(Gone)"]);
        for snapshot in [&first, &second] {
            assert_failed(snapshot, "old contents of the origin cannot be read");
        }
        let failed: Vec<_> = told.all().into_iter().filter(|one| one.contains(" failed ")).collect();
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed.iter().all(|one| one.contains("errno=Some(6)")), "{failed:?}");
        // Removal does not need the origin's contents.
        first.remove(FREEZE).unwrap();
        second.remove(FREEZE).unwrap();
        assert_eq!((first.storage().used(), second.storage().used()), (0, 0));
    }
}

#[test]
fn an_origin_that_only_images_miss_is_told_too() {
    for pace in [Pace::Now, Pace::Later] {
        let (store, device) = device(1, pace);
        let told = Arc::new(Told::default());
        let snapshot = take_with("s", &device, None, &memory(MIB), told.clone());
        store.gone.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            let error = read(image(&snapshot), ByteRange::new(0, 4096)).unwrap_err();
            assert_eq!(error.errno(), Errno(5), "{error}");
        }
        assert_eq!(gone(&told), ["s device-gone disk Some(Gone)"]);
        assert_eq!(snapshot.state(), SnapshotState::Active, "what is preserved can still be read");
    }
}

#[test]
fn a_device_that_is_removed_is_told_once() {
    let (_, device) = device(1, Pace::Now);
    let told = Arc::new(Told::default());
    let snapshot = take_with("s", &device, None, &memory(MIB), told.clone());
    let frozen = bowline_device::freeze_all(std::slice::from_ref(&device), FREEZE).unwrap();
    frozen.into_iter().for_each(bowline_device::Frozen::remove);
    assert_failed(&snapshot, "origin was removed");
    assert_eq!(gone(&told), ["s device-gone disk None"]);
    snapshot.remove(FREEZE).unwrap();
}

#[test]
fn a_bad_sector_that_only_images_read_costs_nothing_else() {
    for pace in [Pace::Now, Pace::Later, Pace::Mixed] {
        let (store, device) = device(1, pace);
        let before = store.contents();
        let snapshot = take_one("s", &device, None);
        overwrite(&device, 0, MIB / 2, 2);
        store.broken.store(200, Ordering::Relaxed);
        let error = read(image(&snapshot), ByteRange::new(199 * G, 4 * G)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        for at in (0..MIB).step_by(4096).filter(|at| at / G != 200) {
            let have = read(image(&snapshot), ByteRange::new(at, G)).unwrap();
            assert!(have == before[at as usize..(at + G) as usize], "I2 at {at}");
        }
        assert_eq!(snapshot.state(), SnapshotState::Active);
        store.broken.store(u64::MAX, Ordering::Relaxed);
        assert!(contents(image(&snapshot)) == before, "I2: it healed");
    }
}

#[test]
fn a_file_that_loses_its_name_keeps_its_images_exact() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![5; 1 << 20]).unwrap();
    let store = FileStore::open(&path, &FileOptions::default()).unwrap().store;
    let device = Device::new("disk", Arc::new(store));
    let snapshot = take_one("s", &device, None);
    std::fs::remove_file(&path).unwrap();
    overwrite(&device, 0, MIB / 2, 6);
    assert!(contents(image(&snapshot)).iter().all(|&byte| byte == 5), "I2");
    assert_eq!(snapshot.state(), SnapshotState::Active);
}

#[test]
fn a_file_that_is_cut_beneath_gives_no_zeroes_for_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![5; 1 << 20]).unwrap();
    let store = FileStore::open(&path, &FileOptions::default()).unwrap().store;
    let device = Device::new("disk", Arc::new(store));
    let snapshot = take_one("s", &device, None);
    overwrite(&device, 0, MIB / 4, 6);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(MIB / 2).unwrap();
    for at in (0..MIB).step_by(65536) {
        // Preserved or still there: exact. Cut off: an error.
        match read(image(&snapshot), ByteRange::new(at, 65536)) {
            Ok(have) => assert!(have.iter().all(|&byte| byte == 5), "I2 at {at}"),
            Err(error) => assert!(at >= MIB / 2, "{error}"),
        }
    }
    let begun = std::time::Instant::now();
    let lost = ByteRange::new(MIB / 2, 65536);
    let _ = block_on(perform(&*device, Op::Write, lost, &[7; 65536]));
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "I1");
    let after = read(image(&snapshot), lost);
    assert!(after.is_err(), "I2: neither the new contents nor zeroes");
    snapshot.remove(FREEZE).unwrap();
}
