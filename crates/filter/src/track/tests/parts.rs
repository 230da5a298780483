//! Answers against a plain list of blocks: whole ones, parts, and every way changes can lie in a chunk.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_block::ByteRange;
use bowline_sim::Rng;

use super::support::K;
use crate::track::{ChangeSet, NoTrackEvents, Tracker};

const CHUNK: u64 = 1 << 16;
const BLOCKS: u64 = 2 * CHUNK + 777;

/// Changes some blocks, in a way of its own in each chunk: alone, in runs of any length, across borders, nearly all.
fn change(tracker: &Tracker, rng: &mut Rng, known: &mut BTreeSet<u64>) {
    for _ in 0..rng.below(8) {
        let first = if rng.once_in(4) { rng.below(2) * CHUNK + CHUNK - 70 } else { rng.below(BLOCKS) };
        let longest = [1, 1, 2, 70, 70, 300, 300, CHUNK][rng.index(8)];
        let end = (first + 1 + rng.below(longest)).min(BLOCKS);
        // More runs than are kept as such.
        let step = if rng.once_in(8) { 2 } else { 1 };
        if step == 2 {
            for block in (first..(first + 9000).min(BLOCKS)).step_by(2) {
                tracker.mark_blocking(ByteRange::new(block * K, 1));
                known.insert(block);
            }
        }
        tracker.mark_blocking(ByteRange::between(first * K, end * K));
        known.extend(first..end);
    }
}

fn runs(known: &BTreeSet<u64>, from: u64, end: u64) -> Vec<ByteRange> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for block in known.range(from..end) {
        match found.last_mut() {
            Some((_, end)) if *end == *block => *end += 1,
            _ => found.push((*block, block + 1)),
        }
    }
    found.iter().map(|(first, end)| ByteRange::between(first * K, end * K)).collect()
}

fn compare(set: &ChangeSet, known: &BTreeSet<u64>, rng: &mut Rng) {
    assert_eq!(set.ranges(0).collect::<Vec<_>>(), runs(known, 0, BLOCKS));
    assert_eq!(set.bytes(), known.len() as u64 * K);
    for _ in 0..5 {
        let from = rng.below(BLOCKS);
        assert_eq!(set.ranges(from * K).collect::<Vec<_>>(), runs(known, from, BLOCKS), "from {from}");
        let one = ByteRange::new(from * K, K);
        assert_eq!((set.contains(one), set.overlaps(one)), (known.contains(&from), known.contains(&from)));
        let end = (from + 1 + rng.below(500)).min(BLOCKS);
        let some = ByteRange::between(from * K, end * K);
        assert_eq!(set.contains(some), (from..end).all(|block| known.contains(&block)));
        assert_eq!(set.overlaps(some), known.range(from..end).next().is_some());
    }
}

#[test]
fn i4_the_union_of_maps_and_sets_is_what_was_marked() {
    for seed in 0..4 {
        let mut rng = Rng::new(seed);
        let tracker = Tracker::memory("d", BLOCKS * K, Arc::new(NoTrackEvents));
        let mut epochs = Vec::new();
        // More closed sets than are looked at one by one, at times.
        for _ in 0..if seed % 4 == 0 { 18 } else { rng.below(4) + 1 } {
            let _ = tracker.close_epoch("s");
            let mut known = BTreeSet::new();
            change(&tracker, &mut rng, &mut known);
            epochs.push(known);
        }
        let union = |from: usize, end: usize| epochs[from..end].iter().flatten().copied().collect();
        let last = epochs.len();
        for since in (1..=last).step_by(4) {
            compare(&tracker.changed(since as u64, None).unwrap(), &union(since - 1, last), &mut rng);
            let until = since + rng.index(last - since + 1);
            let closed = tracker.changed(since as u64, Some(until as u64)).unwrap();
            compare(&closed, &union(since - 1, until - 1), &mut rng);
        }
        // Parts: exactly what the whole says there, as far as they say they reach.
        let (generation, whole) = (tracker.generation(), tracker.changed(1, None).unwrap());
        for _ in 0..10 {
            let first = rng.below(BLOCKS * K);
            let range = ByteRange::new(first, rng.below(BLOCKS * K - first));
            let max = [1, 10, usize::MAX][rng.index(3)];
            let part = tracker.changed_within(generation, 1, None, range, max).unwrap();
            let covered = part.covered();
            assert!(range.is_empty() || covered.start() <= range.start() && covered.end() > range.start());
            assert!(max < usize::MAX || range.is_empty() || covered.end() >= range.end());
            let inside = |set: &ChangeSet| -> Vec<ByteRange> {
                let cut = set.ranges(range.start()).map(|one| one.intersection(covered));
                cut.filter(|one| !one.is_empty()).collect()
            };
            assert_eq!(inside(&part), inside(&whole));
        }
    }
}
