//! Storage that is full, breaks or stalls, by either policy (scenarios 4 and 23); and storage that is extended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use crate::cow::store::{Fault, Got};
use crate::cow::*;

fn take_by(
    name: &str,
    device: &Arc<Device>,
    storage: &Arc<DiffStorage>,
    on_full: OnFull,
    told: &Arc<Told>,
) -> Snapshot {
    let limits = Limits { on_full, hold: Duration::from_secs(2), ..limits() };
    take(name, &[Origin::new(device.clone(), None)], storage, told.clone(), limits).unwrap()
}

fn hold(timeout: Duration) -> OnFull {
    OnFull::Hold { timeout }
}

fn memory_spec(limit: u64) -> StoreSpec {
    StoreSpec { kind: StoreKind::Memory, limit, step: limit }
}

fn count(told: &Told, kind: &str) -> usize {
    told.all().iter().filter(|one| one.split(' ').nth(1) == Some(kind)).count()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn scenario_4_growth_then_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(12, Pace::Mixed);
    let (_, other) = super::support::device(1, Pace::Now);
    let before = store.contents();
    let kind = StoreKind::File(dir.path().join("diff"));
    let storage = DiffStorage::open(StoreSpec { kind, limit: 8 * MIB, step: 2 * MIB }).unwrap();
    let told = Arc::new(Told::default());
    let origins = [Origin::new(device.clone(), None), Origin::new(other.clone(), None)];
    let snapshot = take("s", &origins, &storage, told.clone(), limits()).unwrap();
    overwrite(&device, 0, 3 * MIB / 2, 1);
    assert!(contents(image(&snapshot)) == before, "I2 within the first step");
    overwrite(&device, 3 * MIB / 2, 12 * MIB, 1);
    until("low-space", || count(&told, "low-space") > 0);
    for kind in ["low-space", "no-space", "failed"] {
        assert_eq!(count(&told, kind), 1, "{kind} once: {:?}", told.all());
    }
    assert!((1..=3).contains(&count(&told, "grown")), "a step each: {:?}", told.all());
    let all = told.all();
    let no_space = all.iter().find(|one| one.contains("no-space")).unwrap();
    assert!(no_space.contains("8388608 8388608") && no_space.contains("device=Some(\"disk\")"), "{no_space}");
    let failed = all.iter().find(|one| one.contains("failed")).unwrap();
    assert!(failed.contains("devices=[\"disk\", \"disk\"]"), "{failed}");
    assert_failed(&snapshot, "is full at 8388608 bytes");
    // The one upstream left commented out: the origin is right.
    assert!(store.contents().iter().all(|&byte| byte == 1), "I1");
    let part = &snapshot.devices()[1];
    assert!(read(&**part.image(), ByteRange::new(0, 512)).is_err(), "the other device's image too");
    snapshot.remove(FREEZE).unwrap();
    assert_eq!(storage.used(), 0);
    let after = store.contents();
    let again = take_one("again", &device, None);
    overwrite(&device, 0, 4 * MIB, 2);
    assert!(contents(image(&again)) == after, "I2: a new snapshot works");
}

#[test]
fn writers_that_hold_go_on_into_the_store_that_is_added() {
    for pace in [Pace::Now, Pace::Later] {
        let (store, device) = device(6, pace);
        let before = store.contents();
        let storage = memory(MIB);
        let told = Arc::new(Told::default());
        let snapshot = take_by("s", &device, &storage, hold(Duration::from_secs(60)), &told);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|at| (at, &device))
                .map(|(at, device)| {
                    scope.spawn(move || overwrite(device, at * 2 * MIB, (at + 1) * 2 * MIB, 7))
                })
                .collect();
            until("the wait", || count(&told, "holding") == 1);
            std::thread::sleep(Duration::from_millis(50));
            assert!(writers.iter().all(|writer| !writer.is_finished()), "they wait");
            assert_eq!(snapshot.state(), SnapshotState::Active);
            assert_eq!((count(&told, "low-space"), count(&told, "no-space")), (1, 1), "{:?}", told.all());
            storage.extend(memory_spec(MIB)).unwrap();
            until("the next wait", || count(&told, "holding") >= 2 && count(&told, "no-space") == 2);
            storage.extend(memory_spec(8 * MIB)).unwrap();
        });
        assert_eq!(snapshot.state(), SnapshotState::Active);
        assert!(contents(image(&snapshot)) == before, "I2");
        assert!(store.contents().iter().all(|&byte| byte == 7), "I1");
        assert_eq!(count(&told, "failed"), 0);
        assert_eq!(storage.limit(), 10 * MIB);
        snapshot.remove(FREEZE).unwrap();
        assert_eq!(storage.used(), 0);
    }
}

#[test]
fn a_hold_without_room_ends_in_time_for_all_writers() {
    let (store, device) = device(6, Pace::Mixed);
    let told = Arc::new(Told::default());
    let timeout = Duration::from_millis(700);
    let snapshot = take_by("s", &device, &memory(MIB), hold(timeout), &told);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        (0..3).for_each(|at| {
            let device = &device;
            scope.spawn(move || overwrite(device, at * 2 * MIB, (at + 1) * 2 * MIB, 7));
        });
    });
    assert!(begun.elapsed() >= timeout, "they did not wait: {:?}", begun.elapsed());
    assert!(begun.elapsed() < timeout * 3, "I1: one wait for all: {:?}", begun.elapsed());
    assert!(store.contents().iter().all(|&byte| byte == 7), "I1");
    assert_failed(&snapshot, "no room came within");
    assert_eq!((count(&told, "failed"), count(&told, "no-space")), (1, 1));
    snapshot.remove(FREEZE).unwrap();
}

#[test]
fn room_that_another_snapshot_gives_back_lets_writers_go_on() {
    let (_, one) = device(2, Pace::Now);
    let (store, two) = device(2, Pace::Now);
    let before = store.contents();
    let storage = memory(MIB);
    let told = Arc::new(Told::default());
    let first = take_by("first", &one, &storage, OnFull::Drop, &told);
    overwrite(&one, 0, MIB / 2, 3);
    let second = take_by("second", &two, &storage, hold(Duration::from_secs(60)), &told);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| overwrite(&two, 0, MIB, 4));
        until("the wait", || count(&told, "holding") == 1);
        assert!(!writer.is_finished());
        first.remove(FREEZE).unwrap();
    });
    assert_eq!(second.state(), SnapshotState::Active);
    assert!(contents(image(&second)) == before, "I2");
}

/// All who waited looked for a segment of their own: one of them got the only one that came, and the others let the
/// snapshot fail beside its empty slots.
#[test]
fn room_for_one_segment_is_room_for_all_who_wait() {
    let (_, one) = device(2, Pace::Now);
    let (store, two) = device(2, Pace::Now);
    let before = store.contents();
    let storage = memory(MIB);
    let told = Arc::new(Told::default());
    let first = take_by("first", &one, &storage, OnFull::Drop, &told);
    overwrite(&one, 0, SEGMENT_BYTES, 3);
    let second = take_by("second", &two, &storage, hold(Duration::from_secs(5)), &told);
    overwrite(&two, 0, 3 * SEGMENT_BYTES, 4);
    std::thread::scope(|scope| {
        let two = &two;
        let writers: Vec<_> = (0..4)
            .map(|at| scope.spawn(move || write(&**two, MIB + at * GRANULE_BYTES, &[5; 512])))
            .collect();
        until("the wait", || second.shared.writers_waiting() == 4);
        assert!(writers.iter().all(|writer| !writer.is_finished()));
        first.remove(FREEZE).unwrap();
    });
    assert_eq!(second.state(), SnapshotState::Active, "{:?}", told.all());
    assert_eq!(second.shared.writers_waiting(), 0);
    assert!(contents(image(&second)) == before, "I2");
}

/// Two at once got the same numbers for their segments, so that what was given back was handed out twice.
#[test]
fn stores_that_are_added_at_once_share_no_segments() {
    for _ in 0..50 {
        let storage = memory(MIB);
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    storage.extend(memory_spec(MIB)).unwrap();
                });
            }
        });
        let mut segments = Vec::new();
        while let Got::Segment(segment) = storage.segment(&Arc::from("d")) {
            segments.push(segment);
        }
        let places: std::collections::BTreeSet<_> = segments.iter().map(|segment| segment.place).collect();
        assert_eq!((segments.len(), places.len()), (20, 20), "I2");
        segments.iter().for_each(|segment| storage.take_back(segment));
    }
}

#[test]
fn a_snapshot_that_writers_wait_for_can_be_removed() {
    let (store, device) = device(3, Pace::Mixed);
    let old = take_one("old", &device, None);
    let before = store.contents();
    let told = Arc::new(Told::default());
    let limits = Limits { on_full: hold(Duration::from_secs(60)), ..limits() };
    let origin = Origin::new(device.clone(), Some(old.devices()[0].history().clone()));
    let snapshot = take("s", &[origin], &memory(MIB), told.clone(), limits).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| overwrite(&device, 0, 3 * MIB, 5));
        until("the wait", || count(&told, "holding") == 1);
        let begun = Instant::now();
        snapshot.remove(FREEZE).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "I9: {:?}", begun.elapsed());
        writer.join().unwrap();
    });
    assert_eq!(count(&told, "failed"), 0, "it was removed, it did not fail: {:?}", told.all());
    assert!(store.contents().iter().all(|&byte| byte == 5), "I1");
    assert!(contents(image(&old)) == before, "I2: the older one went on in its own storage");
}

/// Scenario 23: a store that from write k on does something else.
fn from_write(k: u64, what: impl Fn() -> std::io::Result<()> + Send + Sync + 'static) -> Fault {
    Arc::new(move |nth| if nth >= k { what() } else { Ok(()) })
}

#[test]
fn scenario_23_a_store_that_fails_at_write_k() {
    for k in [0, 1, 5, 13] {
        for policy in [OnFull::Drop, hold(Duration::from_millis(500))] {
            let dir = tempfile::tempdir().unwrap();
            let (store, device) = device(24, Pace::Mixed);
            let storage = file(&dir, "diff", 64 * MIB);
            storage.plan(|faults| faults.write = Some(from_write(k, || Err(broken()))));
            let told = Arc::new(Told::default());
            let snapshot = take_by("s", &device, &storage, policy, &told);
            let begun = Instant::now();
            overwrite(&device, 0, 24 * MIB, 7);
            until("the end", || snapshot.state() != SnapshotState::Active);
            assert!(begun.elapsed() < Duration::from_secs(10), "I1: {:?}", begun.elapsed());
            assert!(store.contents().iter().all(|&byte| byte == 7), "I1, k = {k}");
            assert_failed(&snapshot, "cannot write to");
            let all = told.all();
            assert_eq!(count(&told, "failed"), 1, "{all:?}");
            assert!(all.iter().any(|one| one.contains("errno=Some(5)")), "{all:?}");
            // On a slow machine writers also wait for what is on its way to the file, before that fails.
            let held = if policy == OnFull::Drop { 0..=0 } else { 1..=2 };
            assert!(held.contains(&count(&told, "holding")), "{all:?}");
        }
    }
}

#[test]
fn scenario_23_a_store_that_fails_is_replaced_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(24, Pace::Now);
    let before = store.contents();
    let storage = file(&dir, "diff", 64 * MIB);
    storage.plan(|faults| faults.write = Some(from_write(3, || Err(broken()))));
    let told = Arc::new(Told::default());
    let snapshot = take_by("s", &device, &storage, hold(Duration::from_secs(60)), &told);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| overwrite(&device, 0, 24 * MIB, 7));
        until("the wait", || count(&told, "holding") >= 1 && count(&told, "no-space") == 1);
        assert!(!writer.is_finished());
        storage.extend(memory_spec(32 * MIB)).unwrap();
    });
    assert_eq!(snapshot.state(), SnapshotState::Active);
    assert!(contents(image(&snapshot)) == before, "I2: what could not be written stayed in memory");
    assert!(store.contents().iter().all(|&byte| byte == 7), "I1");
}

#[test]
fn scenario_23_a_store_that_stalls_at_write_k() {
    for (policy, at_most) in [(OnFull::Drop, 2000), (hold(Duration::from_millis(600)), 600)] {
        let dir = tempfile::tempdir().unwrap();
        let (store, device) = device(24, Pace::Now);
        let storage = file(&dir, "diff", 64 * MIB);
        let (release, stalled) = mpsc::channel::<()>();
        let stalled = std::sync::Mutex::new(stalled);
        storage.plan(|faults| {
            faults.write = Some(from_write(2, move || {
                let _ = stalled.lock().unwrap().recv_timeout(Duration::from_secs(60));
                Ok(())
            }));
        });
        let told = Arc::new(Told::default());
        let snapshot = take_by("s", &device, &storage, policy, &told);
        let begun = Instant::now();
        overwrite(&device, 0, 24 * MIB, 7);
        let at_most = Duration::from_millis(at_most);
        assert!(begun.elapsed() >= at_most, "16 MiB of backlog were not reached: {:?}", begun.elapsed());
        assert!(begun.elapsed() < at_most * 3 + Duration::from_secs(2), "I1: {:?}", begun.elapsed());
        assert!(store.contents().iter().all(|&byte| byte == 7), "I1");
        let why = if policy == OnFull::Drop { "took longer than" } else { "took nothing for" };
        assert_failed(&snapshot, why);
        snapshot.remove(FREEZE).unwrap();
        drop(release);
    }
}

#[test]
fn no_space_below_is_used_to_the_last_and_found_again_when_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(8, Pace::Now);
    let before = store.contents();
    let storage = file(&dir, "diff", 64 * MIB);
    let full = Arc::new(AtomicBool::new(true));
    let still = full.clone();
    storage.plan(|faults| {
        faults.grow = Some(Arc::new(move |size| {
            let enospc = size > 2 * MIB && still.load(Ordering::Relaxed);
            if enospc { Err(std::io::Error::from_raw_os_error(28)) } else { Ok(()) }
        }));
    });
    let told = Arc::new(Told::default());
    let snapshot = take_by("s", &device, &storage, hold(Duration::from_secs(60)), &told);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for at in (0..8 * MIB).step_by(64 * 1024) {
                write(&*device, at, &[7; 64 * 1024]);
                // The worker is to know of the lack before writers have run past it.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        until("the wait", || count(&told, "holding") > 0);
        assert!(!writer.is_finished());
        let all = told.all();
        assert!(all.iter().any(|one| one.contains("no-space") && one.contains("errno=Some(28)")), "{all:?}");
        full.store(false, Ordering::Relaxed);
    });
    assert_eq!(snapshot.state(), SnapshotState::Active, "{:?}", told.all());
    assert!(contents(image(&snapshot)) == before, "I2");
    snapshot.remove(FREEZE).unwrap();

    // By the other policy it costs the snapshot, with the reason.
    full.store(true, Ordering::Relaxed);
    let storage = file(&dir, "second", 64 * MIB);
    storage.plan(|faults| {
        faults.grow = Some(Arc::new(|_| Err(std::io::Error::from_raw_os_error(28))));
    });
    let snapshot = take_by("s", &device, &storage, OnFull::Drop, &told);
    overwrite(&device, 0, 8 * MIB, 8);
    until("the failure", || snapshot.state() != SnapshotState::Active);
    let SnapshotState::Failed { reason } = snapshot.state() else { unreachable!() };
    assert!(reason.contains("No space left on device"), "{reason}");
    assert!(store.contents().iter().all(|&byte| byte == 8), "I1");
}

#[test]
fn an_extension_that_cannot_be_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let storage = file(&dir, "diff", 4 * MIB);
    let same = StoreSpec { kind: StoreKind::File(dir.path().join("diff")), limit: 4 * MIB, step: MIB };
    assert_eq!(storage.extend(same).unwrap_err().kind(), ErrorKind::Busy, "I8");
    let kind = StoreKind::Directory(dir.path().join("none"));
    assert!(storage.extend(StoreSpec { kind, limit: MIB, step: MIB }).is_err());
    assert_eq!((storage.limit(), storage.stores().len()), (4 * MIB, 1));
    let kind = StoreKind::Directory(dir.path().to_owned());
    storage.extend(StoreSpec { kind, limit: 2 * MIB, step: MIB }).unwrap();
    assert_eq!((storage.limit(), storage.stores().len()), (6 * MIB, 2));
    assert!(storage.location().contains(" + "), "{}", storage.location());
}
