//! Diff storage on a disk that fails late, hangs or stalls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bowline_block::*;

use super::support::*;
use crate::cow::store::Fault;
use crate::cow::*;

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn contents_that_the_kernel_could_not_write_back_are_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(16, Pace::Mixed);
    let before = store.contents();
    let old = take_one("old", &device, None);
    let storage = file(&dir, "diff", 64 * MIB);
    let path = dir.path().join("diff");
    // The writes succeed; then the disk fails, and the kernel drops the pages.
    let lose: Fault = Arc::new(move |_| {
        let len = std::fs::metadata(&path).unwrap().len();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(0).and_then(|()| file.set_len(len)).unwrap();
        Err(broken())
    });
    storage.plan(|faults| faults.sync = Some(lose));
    let new = take_with("new", &device, Some(&old), &storage, Arc::new(NoEvents));
    overwrite(&device, 0, 8 * MIB, 5);
    until("the failure", || new.state() != SnapshotState::Active);
    assert_failed(&new, "cannot write to");
    overwrite(&device, 8 * MIB, 16 * MIB, 6);
    assert_eq!(contents(image(&old)), before, "I2: zeroes are not what was there");
    new.remove(FREEZE).unwrap();
    assert_eq!(contents(image(&old)), before, "I2");
}

#[test]
fn segments_wait_for_their_sync_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (_, device) = device(8, Pace::Now);
    let storage = file(&dir, "diff", 64 * MIB);
    let syncs = Arc::new(Mutex::new(0));
    let count = syncs.clone();
    storage.plan(|faults| {
        faults.sync = Some(Arc::new(move |_| {
            *count.lock().unwrap() += 1;
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        }));
    });
    let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
    overwrite(&device, 0, 8 * MIB, 5);
    until("the last sync", || storage.backlog() == 0);
    let syncs = *syncs.lock().unwrap();
    assert!((1..=8).contains(&syncs), "{syncs} syncs for 32 segments: several go with one");
    assert_eq!(snapshot.state(), SnapshotState::Active);
}

#[test]
fn a_stalled_read_of_diff_storage_fails_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(4, Pace::Now);
    let storage = file(&dir, "diff", 64 * MIB);
    let limits = Limits { hold: Duration::from_millis(200), ..limits() };
    let snapshot =
        take("s", &[Origin::new(device.clone(), None)], &storage, Arc::new(NoEvents), limits).unwrap();
    overwrite(&device, 0, 4 * MIB, 5);
    until("the file", || storage.backlog() == 0);
    storage.plan(|faults| faults.reads_stall = true);
    let begun = Instant::now();
    let error = read(image(&snapshot), ByteRange::new(0, 4096)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(begun.elapsed() < Duration::from_secs(5), "bounded");
    storage.plan(|faults| faults.reads_stall = false);
    // I2: exact or failed; it does not come back when the disk does.
    assert_failed(&snapshot, "reading diff storage took longer than");
    assert!(store.contents().iter().all(|&byte| byte == 5), "I1");
}

#[test]
fn a_hung_disk_does_not_hold_up_the_end_of_a_storage() {
    let dir = tempfile::tempdir().unwrap();
    let storage = file(&dir, "diff", 4 * MIB);
    let path = dir.path().join("diff");
    let (release, hung) = mpsc::channel::<()>();
    let hung = Mutex::new(hung);
    let on_caller = Arc::new(AtomicBool::new(false));
    let (caller, seen) = (std::thread::current().id(), on_caller.clone());
    storage.plan(|faults| {
        faults.dispose = Some(Arc::new(move |_| {
            seen.store(std::thread::current().id() == caller, Ordering::Relaxed);
            let _ = hung.lock().unwrap().recv_timeout(Duration::from_secs(30));
            Ok(())
        }));
    });
    let begun = Instant::now();
    drop(storage);
    assert!(begun.elapsed() < Duration::from_secs(5), "I9: {:?}", begun.elapsed());
    assert!(path.exists(), "not given back yet: it is the worker that hangs");
    assert!(!on_caller.load(Ordering::Relaxed));
    drop(release);
    until("the end of the file", || !path.exists());
}
