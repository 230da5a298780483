//! What is tracked, closed and answered.

use std::sync::Arc;

use bowline_block::{ByteRange, ErrorKind, Filter, Op, Request, Verdict};

use super::support::{K, Memory};
use crate::track::{NoTrackEvents, Tracker};

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
fn runs_of_every_length_are_found_whole() {
    let blocks = 400_000;
    let tracker = tracker(blocks * K);
    let _ = tracker.close_epoch("a");
    let mut expected = Vec::new();
    let mut at = 3;
    for length in [1, 2, 1, 255, 256, 257, 1, 511, 512, 513, 65_536, 1, 70_000, 300, 131_072, 64, 5] {
        let range = ByteRange::new(at * K, length * K);
        tracker.mark_blocking(range);
        expected.push(range);
        at += length + 1 + length % 3;
    }
    let set = tracker.changed(1, None).unwrap();
    assert_eq!(set.ranges(0).collect::<Vec<_>>(), expected);
    // In pages, from wherever one ends.
    let (mut paged, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let (some, after) = set.extents(from, 2);
        paged.extend(some);
        next = after;
    }
    assert_eq!(paged, expected);
    let middle = expected[4].start() + 7 * K + 5;
    assert_eq!(set.ranges(middle).next(), Some(ByteRange::between(middle - 5, expected[4].end())));
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

/// Behind a map that was filled at once, blocks beyond its end counted as marked.
#[test]
fn i4_a_write_beyond_the_end_of_a_full_map_begins_a_generation() {
    let tracker = tracker(100 * K);
    let closed = tracker.close_epoch("a");
    tracker.mark_blocking(ByteRange::new(0, 100 * K));
    let grown = Memory::new(102 * K);
    let beyond = Request::new(Op::Write, ByteRange::new(100 * K, K));
    assert!(matches!(tracker.ask(&beyond, &*grown), Verdict::Pass));
    assert_ne!(tracker.generation(), closed.generation, "the device has grown");
    assert_eq!(tracker.status().size, 102 * K);
}
