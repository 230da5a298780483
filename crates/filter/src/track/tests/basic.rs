//! What is tracked, closed and answered.

use std::sync::Arc;

use bowline_block::{ByteRange, ErrorKind};

use crate::track::{NoTrackEvents, Tracker};

const K: u64 = 4096;

fn tracker(size: u64) -> Arc<Tracker> {
    Tracker::memory("d", size, Arc::new(NoTrackEvents))
}

#[test]
fn what_is_marked_between_two_takes_is_found_there() {
    let tracker = tracker(100 * K + 512);
    assert_eq!(tracker.close_epoch("a").epoch, 1);
    tracker.mark_blocking(ByteRange::new(K + 1, 1));
    tracker.mark_blocking(ByteRange::new(100 * K, 512));
    tracker.prepare_close();
    assert_eq!(tracker.close_epoch("b").epoch, 2);
    tracker.mark_blocking(ByteRange::new(5 * K, 2 * K));
    let since_a = tracker.changed(1, None).unwrap();
    let (first, next) = since_a.extents(0, 2);
    assert_eq!(first, [ByteRange::new(K, K), ByteRange::new(5 * K, 2 * K)]);
    assert_eq!(next, Some(100 * K));
    assert_eq!(since_a.extents(100 * K, 9), (vec![ByteRange::new(100 * K, 512)], None));
    assert_eq!(since_a.bytes(), 3 * K + 512);
    assert_eq!(tracker.changed(1, Some(2)).unwrap().bytes(), K + 512);
    assert_eq!(tracker.changed(2, None).unwrap().bytes(), 2 * K);
    assert!(tracker.changed(2, Some(2)).unwrap().is_empty());
    assert_eq!(tracker.epoch_of("a"), Some(1));
}

#[test]
fn i4_what_cannot_be_known_is_refused() {
    let tracker = tracker(100 * K);
    let closed = tracker.close_epoch("a");
    let kind = |since, until| tracker.changed(since, until).unwrap_err().kind();
    assert_eq!(kind(0, None), ErrorKind::Gone);
    assert_eq!(kind(2, None), ErrorKind::Gone);
    assert_eq!(kind(1, Some(2)), ErrorKind::Gone);
    assert_eq!(tracker.close_epoch("b").epoch, 2);
    assert_eq!(kind(2, Some(1)), ErrorKind::Invalid);
    tracker.renew("test");
    assert_eq!(tracker.changed_in(closed.generation, 1, None).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(tracker.epoch_of("a"), None);
}
