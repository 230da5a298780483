//! A tracker on a device, and takes of it.

use std::sync::Arc;

use bowline_block::{Buf, ByteRange, Io, Op, Request, Store};
use bowline_device::Device;

use super::support::{K, Memory, attach, block_on, write};
use crate::cow::{self, NoEvents, Origin, StoreKind, StoreSpec};
use crate::track::marking::AMID_A_MARK;
use crate::track::{NoTrackEvents, Tracker};

fn tracked(size: u64) -> (Arc<Device>, Arc<Tracker>) {
    let device = Device::new("d", Memory::new(size));
    let tracker = Tracker::memory("d", size, Arc::new(NoTrackEvents));
    attach(&device, &tracker);
    (device, tracker)
}

fn take(name: &str, origin: &Origin) -> cow::Snapshot {
    let spec = StoreSpec { kind: StoreKind::Memory, limit: 1 << 20, step: 1 << 20 };
    let storage = cow::DiffStorage::open(spec).unwrap();
    let origins = std::slice::from_ref(origin);
    cow::take(name, origins, &storage, Arc::new(NoEvents), cow::Limits::default()).unwrap()
}

#[test]
fn a_take_closes_an_epoch_of_the_tracker() {
    let (device, tracker) = tracked(1 << 20);
    let mut origin = Origin { tracker: Some(tracker.clone()), ..Origin::new(device.clone(), None) };
    write(&device, 0, &[1; 512]);
    let first = take("a", &origin);
    origin.history = Some(first.devices()[0].history().clone());
    write(&device, 8 * K, &[1; 512]);
    let second = take("b", &origin);
    write(&device, 16 * K, &[1; 512]);
    assert_eq!((first.devices()[0].epoch(), second.devices()[0].epoch()), (1, 2));
    assert_eq!(first.devices()[0].generation(), tracker.generation());
    assert_eq!(second.devices()[0].tracked().unwrap().epoch, 2);
    assert_eq!(tracker.changed(1, Some(2)).unwrap().extents(0, 9).0, [ByteRange::new(8 * K, K)]);
    assert_eq!(tracker.changed(2, None).unwrap().extents(0, 9).0, [ByteRange::new(16 * K, K)]);
}

/// Whether they are done on the spot or not.
#[test]
fn i4_all_that_is_written_to_an_image_is_marked() {
    let (device, tracker) = tracked(4 << 20);
    let origin = Origin { tracker: Some(tracker.clone()), ..Origin::new(device, None) };
    let first = take("a", &origin);
    let image = first.devices()[0].image();
    let submit = |op, at, data: &[u8], len| {
        let request = Request::new(op, ByteRange::new(at, len));
        block_on(image.submit(Io::new(request, Buf::copy_of(data)))).result.unwrap();
    };
    submit(Op::Write, 8 * K, &[1; 4096], K);
    submit(Op::Discard, 8 * K, &[], K);
    submit(Op::WriteZeroes, 16 * K, &[], K);
    let found = tracker.changed(1, None).unwrap();
    assert!(found.contains(ByteRange::new(8 * K, K)));
}

/// The take's set may be packed by then: what is set in its map is seen by nobody.
#[test]
fn i4_a_mark_that_a_take_overtakes_counts_behind_the_take() {
    let tracker = Tracker::memory("d", 1 << 20, Arc::new(NoTrackEvents));
    let first = tracker.close_epoch("a").epoch;
    let amid = tracker.clone();
    AMID_A_MARK.set(Some(Box::new(move || {
        let second = amid.close_epoch("b").epoch;
        assert!(amid.changed(first, Some(second)).unwrap().is_empty(), "it is packed");
    })));
    let range = ByteRange::new(8 * K, K);
    assert!(tracker.mark_now(range));
    assert_eq!(tracker.epoch(), first + 2, "a take came between");
    assert!(tracker.changed(first + 1, None).unwrap().contains(range), "I4: it is behind the take");
}
