//! A folder that fails or stalls costs persistence, never the device (I1).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::{ByteRange, ErrorKind, Flags, Now, Store};
use bowline_device::Device;
use bowline_state::{Folder, FolderFault, FolderOp, SimFolder, Trouble};

use super::rig::{BLOCK, Told, fingerprint, identity, open};
use super::support::{M, Memory, attach, close, write};
use crate::track::{Continuity, TrackLimits, Tracker};

const SIZE: u64 = 96 * M;

fn tracked(folder: &SimFolder, hold: Duration) -> (Arc<Device>, Arc<Tracker>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let shared: Arc<dyn Folder> = Arc::new(folder.clone());
    let now = || Ok(fingerprint(SIZE));
    let opened = Tracker::open(&shared, &identity(SIZE), None, &now, told.clone(), TrackLimits { hold });
    let device = Device::new("d", Memory::new(SIZE));
    attach(&device, &opened.tracker);
    (device, opened.tracker, told)
}

#[test]
fn i1_failing_intents_let_the_write_go_on_and_end_the_generation() {
    for op in [FolderOp::Write, FolderOp::Sync] {
        let folder = SimFolder::new();
        let (device, tracker, told) = tracked(&folder, Duration::from_secs(20));
        let closed = close(&device, &tracker, "a");
        tracker.inner.wait_for(Duration::from_secs(20), |history| history.disk.saved == closed);
        let session = tracker.session();
        folder.plan(FolderFault { op: Some(op), after: 0, times: 1, trouble: Trouble::Fail(ErrorKind::Io) });
        write(&device, 0, &[1; 512]);
        assert_eq!(tracker.changed(closed, None).unwrap_err().kind(), ErrorKind::Gone);
        assert!(!tracker.status().durable && tracker.session() != session);
        // The write goes on first.
        let heard =
            || told.0.lock().unwrap().iter().any(|one| one.contains("not durable: intents cannot be"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !heard() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(heard(), "{:?}", told.0.lock().unwrap());
        // In memory it goes on.
        let closed = close(&device, &tracker, "b");
        write(&device, BLOCK, &[1; 512]);
        assert_eq!(tracker.changed(closed, None).unwrap().bytes(), BLOCK);
        // Files that may not have been removed any more are not of the session that was noted.
        let opened = open(&folder.kill(), SIZE, tracker.session());
        assert!(matches!(opened.continuity, Continuity::Renewed { .. }), "{:?}", opened.continuity);
    }
}

#[test]
fn i1_a_stalled_folder_holds_a_write_for_a_bounded_time() {
    let folder = SimFolder::new();
    let (device, tracker, told) = tracked(&folder, Duration::from_millis(200));
    let closed = close(&device, &tracker, "a");
    tracker.inner.wait_for(Duration::from_secs(20), |history| history.disk.saved == closed);
    folder.plan(FolderFault { op: Some(FolderOp::Sync), after: 0, times: 1, trouble: Trouble::Stall });
    let begun = Instant::now();
    write(&device, 0, &[1; 512]);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(10), "{took:?}");
    assert!(told.0.lock().unwrap().iter().any(|one| one.contains("not durable within")));
    // Takes do not wait for the disk either.
    let begun = Instant::now();
    close(&device, &tracker, "b");
    assert!(begun.elapsed() < Duration::from_secs(5));
    folder.release();
    // What was stalled comes back, and then the files go.
    let gone = || folder.contents("tracker").is_none();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !gone() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(gone(), "what cannot be believed is removed");
}

#[test]
fn i1_failing_sets_end_persistence_not_the_device() {
    let folder = SimFolder::new();
    let (device, tracker, _) = tracked(&folder, Duration::from_secs(20));
    folder.plan(FolderFault {
        op: Some(FolderOp::Sync),
        after: 0,
        times: 1,
        trouble: Trouble::Fail(ErrorKind::NoSpace),
    });
    close(&device, &tracker, "a");
    write(&device, 0, &[1; 512]);
    tracker.inner.wait_for(Duration::from_secs(20), |history| !history.disk.on);
    assert_eq!(tracker.changed(1, None).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(tracker.save(&fingerprint(SIZE)).unwrap_err().kind(), ErrorKind::Unsupported);
}

/// A mark by hand waited for the next take, or for its limit: nobody rang when its intent was durable.
#[test]
fn a_mark_by_hand_waits_for_its_intent_and_no_longer() {
    let folder = SimFolder::new();
    let (device, tracker, told) = tracked(&folder, Duration::from_secs(20));
    let closed = close(&device, &tracker, "a");
    let begun = Instant::now();
    for region in 0..20 {
        let range = ByteRange::new(region * 4 * M, 512);
        assert!(!tracker.mark_now(range) || region > 0, "it has to wait");
        if region % 2 == 0 {
            tracker.mark_blocking(range);
        } else {
            super::support::block_on(tracker.mark(range));
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(tracker.changed(closed, None).unwrap().bytes(), 20 * BLOCK);
    assert!(
        tracker.status().durable && tracker.status().intent_regions >= 20,
        "{:?}",
        told.0.lock().unwrap()
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_a_tracker_in_memory() {
    let folder = SimFolder::new();
    folder.fail(0, ErrorKind::ReadOnly);
    let opened = open(&folder, SIZE, None);
    assert!(matches!(opened.continuity, Continuity::Renewed { .. }));
    assert!(!opened.tracker.status().durable && opened.tracker.session().is_some());
}

#[test]
fn a_sequential_writer_finds_what_lies_ahead_durable() {
    let folder = SimFolder::new();
    let (device, tracker, _) = tracked(&folder, Duration::from_secs(20));
    let closed = close(&device, &tracker, "a");
    let mut waited = 0;
    for at in (0..SIZE).step_by(M as usize) {
        let data = vec![1; M as usize];
        let range = ByteRange::new(at, M);
        if matches!(device.write_now(range, &data, Flags::empty()), Now::NotNow) {
            waited += 1;
            write(&device, at, &data);
        }
        // Slower than the sync of a file in memory.
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(waited <= 6, "held {waited} times for {} regions", SIZE / (4 * M));
    assert_eq!(tracker.changed(closed, None).unwrap().bytes(), SIZE);
}
