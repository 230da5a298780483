//! Filling trackers the way measurements need it.

use std::sync::Arc;

use bowline_block::ByteRange;

use super::events::NoTrackEvents;
use super::tracker::Tracker;

/// How what changed lies on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// In runs of 1 MiB.
    Runs,
    /// In single blocks, anywhere.
    Blocks,
}

/// A tracker in memory of a device of `size` bytes, one part in `one_in` of which changed since take 1: half of that in
/// epochs that are closed since, and half in the one that is going on.
#[must_use]
pub fn changed_tracker(size: u64, one_in: u64, spread: Spread) -> Arc<Tracker> {
    let tracker = Tracker::memory("measured", size, Arc::new(NoTrackEvents));
    let _ = tracker.close_epoch("full");
    let unit = match spread {
        Spread::Runs => (1 << 20).max(tracker.granularity()),
        Spread::Blocks => tracker.granularity(),
    };
    let units = size / unit;
    let changed = units / one_in.max(1);
    for nth in 0..changed {
        // Spread evenly, moved about within its part: neither sorted into few containers nor regular.
        let scramble = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let at = (nth * one_in + scramble % one_in.max(1)).min(units.saturating_sub(1));
        tracker.mark_blocking(ByteRange::new(at * unit, unit));
        if nth == changed / 4 || nth == changed / 2 {
            tracker.prepare_close();
            let _ = tracker.close_epoch("increment");
        }
    }
    tracker
}
