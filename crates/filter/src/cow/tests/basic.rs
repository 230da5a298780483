//! The plain cases, one by one.

use std::sync::Arc;

use bowline_block::*;
use bowline_device::Device;

use super::support::*;
use crate::cow::Snapshot;

fn device(pace: Pace) -> (Arc<TestStore>, Arc<Device>) {
    let store = TestStore::new(4 * MIB, BlockSize::B512, pace);
    let pattern: Vec<u8> = (0..2 * MIB).map(|at| (at / 512 % 251 + 1) as u8).collect();
    store.write(ByteRange::new(0, 2 * MIB), &pattern);
    (store.clone(), Device::new("disk", store))
}

#[test]
fn an_image_keeps_what_a_write_changes() {
    for pace in [Pace::Now, Pace::Later, Pace::Mixed] {
        let (store, device) = device(pace);
        let before = store.contents();
        let snapshot = take_one("s", &device, None);
        write(&*device, 512, &[7; 1024]);
        write(&*device, 8192, &[8; 200 * 1024]);
        write(&*device, 4 * MIB - 512, &[9; 512]);
        assert_eq!(contents(image(&snapshot)), before, "I2, {pace:?}");
        assert_eq!(contents(&*device), store.contents());
        let changed = snapshot.devices()[0].changed(None).unwrap();
        let want = [(0, G), (8192, 200 * 1024), (4 * MIB - G, G)];
        assert_eq!(changed.len(), 3, "{changed:?}");
        assert!(changed.iter().zip(want).all(|(have, (start, len))| *have == ByteRange::new(start, len)));
    }
}

#[test]
fn a_removed_last_snapshot_leaves_the_device_as_it_was() {
    let (_, device) = device(Pace::Mixed);
    let snapshot = take_one("s", &device, None);
    write(&*device, 0, &[1; 8192]);
    assert_eq!(device.filters().len(), 1);
    let storage = snapshot.storage().clone();
    assert!(storage.used() > 0);
    snapshot.remove(FREEZE).unwrap();
    assert!(device.filters().is_empty());
    assert_eq!(storage.used(), 0);
    assert!(snapshot.devices()[0].history().is_over());
    let error = read(image(&snapshot), ByteRange::new(0, 512)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
    write(&*device, 0, &[2; 8192]);
}

#[test]
fn discards_keep_data_and_cost_nothing_for_holes() {
    for op in [Op::Discard, Op::WriteZeroes] {
        let (store, device) = device(Pace::Mixed);
        let before = store.contents();
        let snapshot = take_one("s", &device, None);
        clear(&*device, op, ByteRange::new(2 * MIB, 2 * MIB));
        assert_eq!(snapshot.devices()[0].stats().blocks, 0, "holes need no copy and no mark");
        clear(&*device, op, ByteRange::new(512, 4 * MIB - 1024));
        assert_eq!(contents(image(&snapshot)), before, "I2");
        assert_eq!(snapshot.devices()[0].stats().blocks, 512);
    }
}

#[test]
fn changes_between_two_takes_are_those_of_their_intervals() {
    let (_, device) = device(Pace::Mixed);
    let first = take_one("first", &device, None);
    write(&*device, 0, &[1; 4096]);
    let second = take_one("second", &device, Some(&first));
    write(&*device, 8192, &[2; 512]);
    let third = take_one("third", &device, Some(&second));
    write(&*device, 0, &[3; 512]);
    let changed = |from: &Snapshot, until: Option<&Snapshot>| {
        let ranges = from.devices()[0].changed(until.map(|one| &one.devices()[0])).unwrap();
        ranges.iter().map(|range| range.start() / G).collect::<Vec<_>>()
    };
    assert_eq!(changed(&first, Some(&second)), [0]);
    assert_eq!(changed(&second, Some(&third)), [2]);
    assert_eq!(changed(&first, Some(&third)), [0, 2]);
    assert_eq!(changed(&third, None), [0]);
    assert_eq!(changed(&first, None), [0, 2]);
    assert!(changed(&first, Some(&first)).is_empty());
    let error = second.devices()[0].changed(Some(&first.devices()[0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let (_, other) = self::device(Pace::Now);
    let elsewhere = take_one("elsewhere", &other, None);
    let error = first.devices()[0].changed(Some(&elsewhere.devices()[0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "epochs of another device say nothing");
    // I4: a removed one in between takes nothing away.
    second.remove(FREEZE).unwrap();
    assert_eq!(changed(&first, Some(&third)), [0, 2]);
    let error = second.devices()[0].changed(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
}
