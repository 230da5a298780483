//! I1: whatever goes wrong costs snapshots, never the origin.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bowline_block::*;
use bowline_device::Device;
use bowline_io::{Queues, QueuesConfig};

use super::support::*;
use crate::cow::store::Fault;
use crate::cow::*;

#[test]
fn a_full_storage_costs_the_snapshot_once_and_the_origin_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for storage in [memory(MIB), file(&dir, "diff", MIB)] {
        let (store, device) = device(4, Pace::Mixed);
        let told = Arc::new(Told::default());
        let snapshot = take_with("s", &device, None, &storage, told.clone());
        overwrite(&device, 0, 512 * 1024, 1);
        assert_eq!(snapshot.state(), SnapshotState::Active);
        overwrite(&device, 512 * 1024, 4 * MIB, 1);
        assert!(store.contents().iter().all(|&byte| byte == 1), "I1: every write arrived");
        assert_eq!(device.stats().errors, 0);
        assert_failed(&snapshot, "is full at 1048576 bytes");
        let low = || told.all().iter().any(|one| one.contains("low-space"));
        for _ in 0..1000 {
            if low() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for kind in ["low-space", "no-space", "failed"] {
            let count = told.all().iter().filter(|one| one.contains(kind)).count();
            assert_eq!(count, 1, "{kind} once: {:?}", told.all());
        }
        snapshot.remove(FREEZE).unwrap();
        assert_eq!(storage.used(), 0);
    }
}

#[test]
fn an_older_snapshot_with_room_takes_over() {
    let (store, device) = device(4, Pace::Mixed);
    let before = store.contents();
    let old = take_one("old", &device, None);
    let new = take_with("new", &device, Some(&old), &memory(SEGMENT_BYTES), Arc::new(NoEvents));
    overwrite(&device, 0, 4 * MIB, 3);
    assert_failed(&new, "full");
    assert_eq!(old.state(), SnapshotState::Active);
    assert_eq!(contents(image(&old)), before, "I2");
    new.remove(FREEZE).unwrap();
    assert_eq!(contents(image(&old)), before, "I2");
}

#[test]
fn a_small_limit_is_used_to_the_end_from_many_queues() {
    let (_, device) = device(8, Pace::Now);
    let snapshot = take_with("s", &device, None, &memory(4 * MIB), Arc::new(NoEvents));
    let queues = Queues::start(QueuesConfig { count: 8, engine: bowline_io::probe().0 }).unwrap();
    for queue in 0..8u64 {
        let device = device.clone();
        queues.nth(queue as usize).unwrap().spawn(move || async move {
            for at in 0..256 {
                let range = ByteRange::new(queue * MIB + at * G, G);
                perform(&*device, Op::Write, range, &[9; 4096]).await.unwrap();
            }
        });
    }
    drop(queues);
    assert_failed(&snapshot, "full");
    assert_eq!(
        snapshot.devices()[0].stats().stored_blocks,
        4 * MIB / G,
        "the limit is used to the last block"
    );
}

#[test]
fn a_storage_that_errors_costs_only_its_own_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(8, Pace::Mixed);
    let before = store.contents();
    let old = take_one("old", &device, None);
    let storage = file(&dir, "diff", 64 * MIB);
    storage.plan(|faults| {
        faults.write = Some(Arc::new(|nth| if nth == 2 { Err(broken()) } else { Ok(()) }));
    });
    let told = Arc::new(Told::default());
    let new = take_with("new", &device, Some(&old), &storage, told.clone());
    overwrite(&device, 0, 4 * MIB, 5);
    let end = Instant::now() + Duration::from_secs(20);
    while new.state() == SnapshotState::Active && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_failed(&new, "cannot write to");
    overwrite(&device, 4 * MIB, 8 * MIB, 6);
    assert_eq!(contents(image(&old)), before, "I2: what the broken storage holds can still be read");
    assert_eq!(told.all().iter().filter(|one| one.contains("failed")).count(), 1);
    new.remove(FREEZE).unwrap();
    assert_eq!(contents(image(&old)), before);
}

#[test]
fn a_storage_that_stalls_is_given_up_in_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(24, Pace::Now);
    let storage = file(&dir, "diff", 64 * MIB);
    let (release, stalled) = mpsc::channel::<()>();
    let stalled = std::sync::Mutex::new(stalled);
    let stall: Fault = Arc::new(move |nth| {
        if nth == 1 {
            let _ = stalled.lock().unwrap().recv_timeout(Duration::from_secs(60));
        }
        Ok(())
    });
    storage.plan(|faults| faults.write = Some(stall));
    let hold = Duration::from_millis(300);
    let limits = Limits { hold, ..limits() };
    let snapshot =
        take("s", &[Origin::new(device.clone(), None)], &storage, Arc::new(NoEvents), limits).unwrap();
    let begun = Instant::now();
    overwrite(&device, 0, 24 * MIB, 7);
    assert!(begun.elapsed() >= hold, "16 MiB of backlog were not reached");
    assert!(store.contents().iter().all(|&byte| byte == 7), "I1");
    assert_failed(&snapshot, "took longer than");
    let begun = Instant::now();
    snapshot.remove(FREEZE).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits for the stuck worker");
    drop(release);
}

#[test]
fn old_contents_that_cannot_be_read_cost_the_snapshots() {
    for pace in [Pace::Now, Pace::Later] {
        let (store, device) = device(1, pace);
        let first = take_one("first", &device, None);
        let second = take_one("second", &device, Some(&first));
        store.broken.store(3, Ordering::Relaxed);
        write(&*device, 0, &[2; 8192]);
        assert_eq!(second.state(), SnapshotState::Active);
        write(&*device, 3 * G, &[2; 512]);
        store.broken.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(read(&*device, ByteRange::new(3 * G, 512)).unwrap(), [2; 512], "I1: the write went on");
        assert_failed(&first, "bad sector");
        assert_failed(&second, "bad sector");
        // A new snapshot is as good as any, and the failed ones can go in any order.
        let before = store.contents();
        let third = take_one("third", &device, Some(&second));
        write(&*device, 0, &[4; 65536]);
        first.remove(FREEZE).unwrap();
        second.remove(FREEZE).unwrap();
        assert_eq!(contents(image(&third)), before, "I2");
    }
}

#[test]
fn an_origin_read_that_never_ends_is_given_up() {
    let (store, device) = device(1, Pace::Now);
    let limits = Limits { hold: Duration::from_millis(200), ..limits() };
    let snapshot =
        take("s", &[Origin::new(device.clone(), None)], &memory(MIB), Arc::new(NoEvents), limits).unwrap();
    store.stuck.store(5, Ordering::Relaxed);
    let begun = Instant::now();
    write(&*device, 5 * G, &[1; 4096]);
    assert!(begun.elapsed() < Duration::from_secs(5), "I1");
    assert_failed(&snapshot, "took longer than");
}

#[test]
fn a_request_that_vanishes_leaves_nothing_behind() {
    let (store, device) = device(1, Pace::Later);
    let before = store.contents();
    let snapshot = take_one("s", &device, None);
    let range = ByteRange::new(0, 64 * 1024);
    for polls in 0..4 {
        let io = Io::new(Request::new(Op::Write, range), Buf::copy_of(&vec![7; 64 * 1024]));
        let mut future = device.submit(io);
        let waker = std::task::Waker::noop();
        for _ in 0..polls {
            let _ = future.as_mut().poll(&mut std::task::Context::from_waker(waker));
        }
        drop(future);
        let begun = Instant::now();
        write(&*device, 8192, &[1; 512]);
        assert!(begun.elapsed() < Duration::from_secs(2), "nobody waits for a copy that nobody makes");
        assert_eq!(contents(image(&snapshot)), before, "I2");
    }
    assert_eq!(device.stats().in_flight, 0);
    snapshot.remove(FREEZE).unwrap();
}

#[test]
fn an_origin_that_goes_takes_its_images_along() {
    let (_, device) = device(1, Pace::Now);
    let snapshot = take_one("s", &device, None);
    let frozen = bowline_device::freeze_all(std::slice::from_ref(&device), FREEZE).unwrap();
    frozen.into_iter().for_each(bowline_device::Frozen::remove);
    assert_failed(&snapshot, "origin was removed");
    snapshot.remove(FREEZE).unwrap();
    assert_eq!(snapshot.storage().used(), 0);
}

#[test]
fn an_origin_that_shrank_fails_its_snapshots() {
    let store = Arc::new(bowline_store::NullStore::new(MIB, BlockSize::B512, false));
    let device = Device::new("disk", store.clone());
    let snapshot = take_one("s", &device, None);
    store.resize(MIB / 2 + 512).unwrap();
    let error = read(image(&snapshot), ByteRange::new(MIB - 512, 512)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "what is not there any more is no zero: {error}");
    write(&*device, MIB / 2, &[1; 512]);
    assert_failed(&snapshot, "became smaller");
}

#[test]
fn an_origin_that_grew_keeps_its_images() {
    let store = Arc::new(bowline_store::FileStore::memory(MIB + 512, BlockSize::B512, false).unwrap());
    let device = Device::new("disk", store);
    write(&*device, MIB, &[5; 512]);
    let small = take_one("small", &device, None);
    let frozen = bowline_device::freeze_all(std::slice::from_ref(&device), FREEZE).unwrap();
    frozen[0].resize(2 * MIB).unwrap();
    drop(frozen);
    write(&*device, MIB, &[6; 65536]);
    write(&*device, 2 * MIB - 512, &[7; 512]);
    let large = take_one("large", &device, Some(&small));
    let (old, new) = (contents(image(&small)), contents(image(&large)));
    assert_eq!((old.len() as u64, new.len() as u64), (MIB + 512, 2 * MIB));
    write(&*device, MIB, &vec![8; 1 << 20]);
    assert_eq!(contents(image(&small)), old, "I2");
    assert_eq!(contents(image(&large)), new, "I2");
    large.remove(FREEZE).unwrap();
    write(&*device, 0, &vec![9; 2 << 20]);
    assert_eq!(contents(image(&small)), old, "I2");
    assert_eq!(old[MIB as usize..], [5; 512]);
}
