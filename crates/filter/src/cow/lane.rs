//! Lanes: the segments an interval is filling, one per queue thread, so that writers do not contend.
//!
//! When diff storage has no more segments, a writer goes on in the lanes of others: a small limit is used to the end
//! however many queues there are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;

use super::segment::{SEGMENT_SLOTS, Segment, SegmentTable};
use super::zone::SlotId;

/// A segment that is being filled.
pub(crate) struct Open {
    pub(crate) segment: Arc<Segment>,
    /// Its number in the history.
    pub(crate) number: u32,
    /// The first slot that is not in use.
    pub(crate) next: u32,
}

impl Open {
    pub(crate) fn room(&self) -> u32 {
        SEGMENT_SLOTS - self.next
    }

    /// Takes the next `count` slots; the first of them.
    pub(crate) fn take(&mut self, count: u32) -> SlotId {
        let first = SlotId(self.number * SEGMENT_SLOTS + self.next);
        self.segment.hold(count);
        self.next += count;
        first
    }
}

/// A lane, empty until its first copy.
#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) open: Option<Open>,
}

impl Lane {
    /// The open segment, if it has room.
    pub(crate) fn with_room(&mut self) -> Option<&mut Open> {
        self.open.as_mut().filter(|open| open.room() > 0)
    }

    /// Ends the filling of the segment: what is in it may go to the file.
    pub(crate) fn seal(&mut self, table: &SegmentTable) {
        let Some(open) = self.open.take() else { return };
        open.segment.set_filled(open.next);
        if open.segment.release(1) {
            table.forget(open.number, &open.segment);
        } else {
            open.segment.storage.store(&open.segment);
        }
    }
}

/// The lanes of an interval.
pub(crate) struct Lanes(Box<[CachePadded<Mutex<Lane>>]>);

impl Lanes {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count.max(1)).map(|_| CachePadded::default()).collect())
    }

    /// This thread's lane first, then those of others. At most one may be locked at a time.
    pub(crate) fn mine_first(&self) -> impl Iterator<Item = &Mutex<Lane>> {
        // Threads without a queue share the last one.
        let mine = bowline_io::queue_index().unwrap_or(self.0.len() - 1) % self.0.len();
        self.0.iter().cycle().skip(mine).take(self.0.len()).map(|lane| &**lane)
    }

    /// Seals all lanes: the interval is over.
    pub(crate) fn seal(&self, table: &SegmentTable) {
        for lane in &self.0 {
            lock_lane(lane).seal(table);
        }
    }
}

pub(crate) fn lock_lane(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}
