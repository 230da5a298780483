//! What goes wrong on the way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bowline_block::*;
use bowline_device::Device;
use bowline_sim::{Faults, SimDisk};
use bowline_state::{FolderFault, FolderOp, SimFolder, Trouble};

use super::*;
use crate::cow::*;
use crate::rollback::*;

/// A device over a disk with faults: its first MiB was overwritten since the take.
fn world() -> (Arc<SimDisk>, Arc<Device>, Snapshot) {
    let disk = Arc::new(SimDisk::new(4 * MIB, 5));
    let device = Device::new("disk", disk.clone());
    overwrite(&device, 0, 4 * MIB, 1);
    let snapshot = take_one("s", &device, None);
    overwrite(&device, 0, MIB, 2);
    (disk, device, snapshot)
}

#[test]
fn an_origin_that_takes_no_writes_reads_right_and_is_gone_on_with() {
    let (disk, device, snapshot) = world();
    disk.set_faults(Faults::default().fail_times(Some(Op::Write), 0, u64::MAX, ErrorKind::Io));
    let rollback = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    assert!(reason(&rollback).contains("blocks cannot be put back"), "{}", reason(&rollback));
    assert!(contents(&*device).iter().all(|&byte| byte == 1), "it reads as the snapshot all the same");
    assert!(snapshot.devices()[0].is_rolling_back());
    assert_eq!(snapshot.remove(FREEZE).unwrap_err().kind(), ErrorKind::Busy);
    disk.set_faults(Faults::default());
    // Writes go on, what is only touched is put back first.
    write(&*device, 512, &[9; 512]);
    // Begun again it is the same one.
    let again = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    done(&again);
    assert!(rollback.is_over());
    let now = contents(&*device);
    assert!(now[512..1024].iter().all(|&byte| byte == 9));
    assert!(now[..512].iter().chain(&now[1024..]).all(|&byte| byte == 1));
    snapshot.remove(FREEZE).unwrap();
}

#[test]
fn an_error_that_passes_is_not_told() {
    let (disk, _, snapshot) = world();
    disk.set_faults(Faults::default().fail_times(Some(Op::Write), 0, 2, ErrorKind::Io));
    done(&Rollback::begin(&snapshot.devices()[0], &options()).unwrap());
}

#[test]
fn a_flush_that_fails_in_the_end_is_tried_again() {
    let (disk, device, snapshot) = world();
    disk.set_faults(Faults::default().fail(Some(Op::Flush), 0, ErrorKind::Io));
    let rollback = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    assert!(reason(&rollback).contains("cannot be flushed"));
    assert!(rollback.retry());
    done(&rollback);
    assert!(contents(&*device).iter().all(|&byte| byte == 1));
}

#[test]
fn a_snapshot_that_fails_on_the_way_costs_nothing() {
    let (store, device) = device(4, Pace::Later);
    let mut want = store.contents();
    let storage = memory(2 * MIB);
    let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
    overwrite(&device, 0, MIB, 2);
    let held = Held::new(&store);
    let rollback = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    drop(held);
    // Its storage fills up: what is written now need not be preserved for the rollback.
    overwrite(&device, 2 * MIB, 4 * MIB, 3);
    want[2 << 20..].fill(3);
    assert_ne!(snapshot.state(), SnapshotState::Active);
    assert_eq!(contents(&*device), want);
    done(&rollback);
    assert_eq!(store.contents(), want);
}

#[test]
fn old_contents_that_cannot_be_read_are_errors_there_only() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device) = device(4, Pace::Later);
    let before = store.contents();
    let storage = file(&dir, "diff", 32 * MIB);
    let snapshot = take_with("s", &device, None, &storage, Arc::new(NoEvents));
    overwrite(&device, 0, 2 * MIB, 2);
    // All that is full is in the file; the file loses it.
    block_on(storage.drained());
    for _ in 0..2000 {
        if storage.backlog() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(storage.backlog(), 0);
    std::fs::OpenOptions::new().write(true).open(dir.path().join("diff")).unwrap().set_len(0).unwrap();
    let rollback = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    assert!(reason(&rollback).contains("blocks cannot be put back"), "{}", reason(&rollback));
    let lost = rollback.pending()[0];
    let granule = ByteRange::new(lost.start(), G);
    assert_eq!(read(&*device, granule).unwrap_err().kind(), ErrorKind::Io);
    let partial = block_on(perform(&*device, Op::Write, ByteRange::new(lost.start(), 512), &[5; 512]));
    assert_eq!(partial.unwrap_err().kind(), ErrorKind::Io, "the rest of the block is not known");
    let elsewhere = read(&*device, ByteRange::new(2 * MIB, MIB)).unwrap();
    assert_eq!(elsewhere, before[2 << 20..3 << 20], "the rest goes on");
    write(&*device, lost.start(), &[6; 4096]);
    assert_eq!(read(&*device, granule).unwrap(), [6; 4096], "a write of the whole block cures it");
}

#[test]
fn a_device_that_goes_ends_it() {
    let (store, device) = device(4, Pace::Later);
    let snapshot = take_one("s", &device, None);
    overwrite(&device, 0, MIB, 2);
    store.broken.store(u64::MAX, Ordering::Relaxed);
    let held = Held::new(&store);
    let rollback = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    drop(held);
    let frozen = bowline_device::freeze_all(std::slice::from_ref(&device), FREEZE).unwrap();
    frozen.into_iter().for_each(bowline_device::Frozen::remove);
    let status = rollback.wait(LIMIT);
    assert_ne!(status.state, RollbackState::Running, "nothing hangs");
}

#[test]
fn a_log_that_cannot_be_made_refuses_it_and_changes_nothing() {
    let (disk, device, snapshot) = world();
    let folder = Arc::new(SimFolder::new());
    folder.limit_space(Some(0));
    let options = RollbackOptions { folder: Some(folder.clone()), ..options() };
    let before = disk.contents().bytes(ByteRange::new(0, 4 * MIB));
    let error = Rollback::begin(&snapshot.devices()[0], &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(contents(&*device), before);
    assert!(device.filters().iter().all(|filter| filter.kind == "cow"));
    folder.limit_space(None);
    done(&Rollback::begin(&snapshot.devices()[0], &options).unwrap());
    assert_eq!(check_log(&*folder).unwrap(), None, "the log goes with it");
}

#[test]
fn a_log_that_breaks_is_removed_and_the_rollback_goes_on() {
    let (_, device, snapshot) = world();
    let folder = Arc::new(SimFolder::new());
    let options = RollbackOptions { folder: Some(folder.clone()), ..options() };
    let held = Arc::new(SimDisk::new(512, 1));
    drop(held);
    // Room for the log as it begins, and for no record.
    folder.limit_space(Some(4096));
    let rollback = Rollback::begin(&snapshot.devices()[0], &options).unwrap();
    folder.limit_space(Some(0));
    for at in 0..64 {
        write(&*device, at * 4096, &[3; 4096]);
    }
    done(&rollback);
    assert!(contents(&*device)[256 << 10..].iter().all(|&byte| byte == 1));
    assert_eq!(check_log(&*folder).unwrap(), None);
}

/// It had its name already: the next start would have gone on with a rollback that was told not to have begun.
#[test]
fn a_rollback_that_does_not_begin_leaves_no_log() {
    let (_, device, snapshot) = world();
    let folder = SimFolder::new();
    let fault = |op| FolderFault { op: Some(op), after: 0, times: 1, trouble: Trouble::Fail(ErrorKind::Io) };
    folder.plan(fault(FolderOp::SyncNames));
    let options = RollbackOptions { folder: Some(Arc::new(folder.clone())), ..options() };
    let error = Rollback::begin(&snapshot.devices()[0], &options).err().expect("not begun");
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(contents(&*device)[..1 << 20].iter().all(|&byte| byte == 2), "nothing has changed");
    write(&*device, 0, &[3; 512]);
    assert!(folder.contents(LOG_NAME).is_none(), "I5");
    for seed in 0..8 {
        let left = folder.cut_at(folder.power().now(), seed);
        assert!(left.contents(LOG_NAME).is_none(), "I5, whatever the cut leaves");
    }
    assert!(Rollback::resume(&snapshot.devices()[0], &options).unwrap().is_none());
    assert_eq!(read(&*device, ByteRange::new(0, 512)).unwrap(), [3; 512]);
}
