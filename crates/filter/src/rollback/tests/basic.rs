//! The plain cases, one by one.

use std::sync::Arc;

use bowline_block::*;
use bowline_device::Device;

use super::*;
use crate::cow::*;
use crate::rollback::*;
use crate::track::{NoTrackEvents, TRACK_ALTITUDE, Tracker};

#[test]
fn a_device_goes_back_and_other_snapshots_stay_exact() {
    for pace in [Pace::Now, Pace::Later, Pace::Mixed] {
        let (store, device) = device(4, pace);
        let old = take_one("old", &device, None);
        let at_old = store.contents();
        write(&*device, 0, &[1; 65536]);
        let to = take_one("to", &device, Some(&old));
        let at_to = store.contents();
        write(&*device, 32768, &[2; 65536]);
        clear(&*device, Op::Discard, ByteRange::new(2 * MIB, MIB));
        write(&*device, 4 * MIB - 512, &[2; 512]);
        let new = take_one("new", &device, Some(&to));
        let at_new = store.contents();
        write(&*device, MIB, &[3; 4096]);
        // What was written to an image is no part of the snapshot.
        write(image(&to), 32768, &[4; 512]);

        let rollback = Rollback::begin(&to.devices()[0], &options()).unwrap();
        assert_eq!(contents(&*device), at_to, "at once");
        done(&rollback);
        assert_eq!(contents(&*device), at_to);
        assert_eq!(store.contents(), at_to, "all is put back");
        assert_eq!(contents(image(&old)), at_old, "I2: an older snapshot");
        assert_eq!(contents(image(&new)), at_new, "I2: a newer snapshot");
        assert!(device.filters().iter().all(|filter| filter.kind == "cow"), "it takes itself off");
        assert!(to.devices()[0].history().rollback().is_none());
        // Forward again, to the newer one.
        let rollback = Rollback::begin(&new.devices()[0], &options()).unwrap();
        done(&rollback);
        assert_eq!(store.contents(), at_new);
        let all = [to, new, old];
        all.iter().for_each(|snapshot| snapshot.remove(FREEZE).unwrap());
        assert!(all.iter().all(|snapshot| snapshot.storage().used() == 0));
    }
}

#[test]
fn what_is_pending_reads_right_and_is_written_right_before_it_is_put_back() {
    let (store, device) = device(4, Pace::Later);
    let snapshot = take_one("s", &device, None);
    let mut want = store.contents();
    overwrite(&device, 0, 2 * MIB, 7);
    let held = Held::new(&store);
    let rollback = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    assert_eq!(contents(&*device), want, "readable at once, while nothing can be put back");
    assert_eq!(rollback.status().total_bytes, 2 * MIB);
    drop(held);
    // At odd places, over the border of what is pending, and a discard.
    for (at, len) in
        [(512, 512), (8192, 4096), (12288 - 512, 9216), (2 * MIB - 1536, 3072), (MIB, 300 * 1024)]
    {
        let data = vec![9; len as usize];
        want[at as usize..][..len as usize].copy_from_slice(&data);
        write(&*device, at, &data);
        assert_eq!(read(&*device, ByteRange::new(at, len)).unwrap(), data);
    }
    clear(&*device, Op::WriteZeroes, ByteRange::new(MIB + 512, 128 * 1024));
    want[(MIB + 512) as usize..][..128 << 10].fill(0);
    assert_eq!(contents(&*device), want);
    done(&rollback);
    assert_eq!(store.contents(), want);
}

#[test]
fn holes_below_are_data_while_they_are_pending() {
    let (store, device) = device(4, Pace::Now);
    let snapshot = take_one("s", &device, None);
    clear(&*device, Op::Discard, ByteRange::new(0, MIB));
    let held = Held::new(&store);
    let rollback = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    let found = block_on(device.extents(ByteRange::new(0, MIB), 8)).unwrap();
    assert!(found.as_slice().iter().all(|extent| extent.kind == ExtentKind::Data), "{found:?}");
    drop(held);
    done(&rollback);
}

#[test]
fn zeroes_are_put_back_as_holes() {
    let store = TestStore::new(4 * MIB, BlockSize::B512, Pace::Now);
    let device = Device::new("disk", store.clone());
    let snapshot = take_one("s", &device, None);
    overwrite(&device, 0, MIB, 7);
    done(&Rollback::begin(&snapshot.devices()[0], &options()).unwrap());
    let found = block_on(device.extents(ByteRange::new(0, 4 * MIB), 8)).unwrap();
    assert!(found.as_slice().iter().all(|extent| extent.kind.reads_zero()), "{found:?}");
}

#[test]
fn a_rollback_is_a_change_from_its_first_moment() {
    let (store, device) = device(4, Pace::Later);
    let tracker = Tracker::memory("disk", 4 * MIB, Arc::new(NoTrackEvents));
    let frozen = bowline_device::freeze_all(std::slice::from_ref(&device), FREEZE).unwrap();
    frozen[0].attach(tracker.clone(), TRACK_ALTITUDE, None).unwrap();
    drop(frozen);
    let take = |name: &str, earlier: Option<&Snapshot>| {
        let history = earlier.map(|one| one.devices()[0].history().clone());
        let origin = Origin { tracker: Some(tracker.clone()), ..Origin::new(device.clone(), history) };
        crate::cow::take(name, &[origin], &memory(32 * MIB), Arc::new(NoEvents), limits()).unwrap()
    };
    let first = take("first", None);
    write(&*device, MIB, &[1; 8192]);
    let second = take("second", Some(&first));
    let held = Held::new(&store);
    let options = RollbackOptions { tracker: Some(tracker.clone()), ..options() };
    let rollback = Rollback::begin(&first.devices()[0], &options).unwrap();
    let since_second = tracker.changed(second.devices()[0].epoch(), None).unwrap();
    let range = ByteRange::new(MIB, 8192);
    let told = since_second.contains(range);
    assert!(told, "I4: the device differs from the second take there");
    assert_eq!(second.devices()[0].changed(None).unwrap(), [range], "I4: also without a tracker");
    drop(held);
    done(&rollback);
    assert_eq!(second.devices()[0].changed(None).unwrap(), [range]);
}

#[test]
fn what_would_disturb_it_is_refused() {
    let (store, device) = device(4, Pace::Later);
    let snapshot = take_one("s", &device, None);
    let other = take_one("t", &device, Some(&snapshot));
    overwrite(&device, 0, MIB, 7);
    let held = Held::new(&store);
    let rollback = Rollback::begin(&snapshot.devices()[0], &options()).unwrap();
    assert!(snapshot.devices()[0].is_rolling_back() && !other.devices()[0].is_rolling_back());
    let busy = |error: Error| assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    busy(snapshot.remove(FREEZE).unwrap_err());
    busy(Rollback::begin(&other.devices()[0], &options()).err().unwrap());
    busy(Rollback::begin(&snapshot.devices()[0], &options()).err().unwrap());
    let origin = Origin::new(device.clone(), Some(snapshot.devices()[0].history().clone()));
    let taken = take("u", &[origin], &memory(MIB), Arc::new(NoEvents), limits());
    busy(taken.err().unwrap());
    drop(held);
    done(&rollback);
    other.remove(FREEZE).unwrap();
    snapshot.remove(FREEZE).unwrap();
}

#[test]
fn another_size_or_a_failed_snapshot_is_refused_with_the_reason() {
    let (_, device) = device(4, Pace::Now);
    let snapshot = take_with("s", &device, None, &memory(MIB), Arc::new(NoEvents));
    let error = snapshot.devices()[0].image().check_rollback(5 * MIB).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("5242880 bytes, and had 4194304 when s was taken"), "{error}");
    overwrite(&device, 0, 4 * MIB, 7);
    assert_failed(&snapshot, "full");
    let error = Rollback::begin(&snapshot.devices()[0], &options()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(device.filters().iter().all(|filter| filter.kind == "cow"), "nothing has changed");
    snapshot.remove(FREEZE).unwrap();
}

#[test]
fn a_stopped_rollback_is_gone_on_with_from_its_log() {
    let (store, device) = device(4, Pace::Later);
    let snapshot = take_one("s", &device, None);
    let other = take_one("t", &device, Some(&snapshot));
    let mut want = store.contents();
    overwrite(&device, 0, 2 * MIB, 7);
    let folder = Arc::new(bowline_state::SimFolder::new());
    let options = RollbackOptions { folder: Some(folder.clone()), ..options() };
    assert!(Rollback::resume(&snapshot.devices()[0], &options).unwrap().is_none(), "there is no log");
    let held = Held::new(&store);
    let rollback = Rollback::begin(&snapshot.devices()[0], &options).unwrap();
    assert!(rollback.status().restartable);
    rollback.stop();
    drop(held);
    // Recorded also by a device whose rollback does not get on.
    want[MIB as usize..][..8192].fill(9);
    write(&*device, MIB, &[9; 8192]);
    block_on(perform(&*device, Op::Flush, ByteRange::new(0, 0), &[])).unwrap();
    let summary = check_log(&*folder).unwrap().unwrap();
    assert!(summary.pending_bytes <= 2 * MIB - 8192 && summary.records >= 2, "{summary:?}");

    // What a restart finds: the device without the filter.
    let frozen = bowline_device::freeze_all(std::slice::from_ref(&device), FREEZE).unwrap();
    let filter = device.filters().into_iter().find(|filter| filter.kind == "rollback").unwrap();
    frozen[0].detach(filter.id).unwrap();
    drop(frozen);
    snapshot.devices()[0].history().forget_rollback();
    let error = Rollback::resume(&other.devices()[0], &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let rollback = Rollback::resume(&snapshot.devices()[0], &options).unwrap().unwrap();
    assert_eq!(contents(&*device), want);
    done(&rollback);
    assert_eq!(store.contents(), want);
    assert!(Rollback::resume(&snapshot.devices()[0], &options).unwrap().is_none());
}
