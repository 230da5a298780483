//! The filter: what happens when a request goes by.

use bowline_block::{ByteRange, Filter, Request, Store, Verdict};

use super::sync::Ordering;
use super::tracker::{Inner, Tracker};

impl Filter for Tracker {
    fn kind(&self) -> &'static str {
        "track"
    }

    #[inline]
    fn ask<'a>(&'a self, request: &Request, below: &'a dyn Store) -> Verdict<'a> {
        if !request.op.changes_data() {
            return Verdict::Pass;
        }
        let inner = &*self.inner;
        if inner.special.load(Ordering::Relaxed) {
            return inner.ask_closely(request.range, below);
        }
        // A bit that is set says that the intent of its region is durable, or that it was saved by a clean stop.
        let current = inner.current.load();
        if current.is_marked(current.shape.blocks.touched_by(request.range)) {
            return Verdict::Pass;
        }
        drop(current);
        inner.ask_unmarked(request.range, below)
    }

    /// What changes from now on is not seen.
    fn detached(&self) {
        self.inner.detached.store(true, Ordering::SeqCst);
        self.inner.look_closer();
    }
}

impl Inner {
    fn ask_unmarked<'a>(&'a self, range: ByteRange, below: &'a dyn Store) -> Verdict<'a> {
        let size = self.current.load().shape.size;
        if range.end() > size {
            self.renew(below.geometry().size.max(range.end()), "the device has grown");
        }
        self.mark_inside(range)
    }

    #[cold]
    fn ask_closely<'a>(&'a self, range: ByteRange, below: &'a dyn Store) -> Verdict<'a> {
        if self.closed.load(Ordering::SeqCst) {
            self.degrade("the device was written to after its tracker was saved");
            return Verdict::Hold(Box::pin(self.wait_for_revocation()));
        }
        if self.detached.swap(false, Ordering::SeqCst) {
            self.look_closer();
            let size = self.current.load().shape.size;
            self.renew(size, "the tracker was off its device for a time");
        }
        for part in tracked_parts(range, &self.excluded.load()) {
            match self.ask_unmarked(part, below) {
                Verdict::Pass => {}
                other => return other,
            }
        }
        Verdict::Pass
    }
}

/// The parts of a range that are not excluded.
pub(crate) fn tracked_parts(range: ByteRange, excluded: &[ByteRange]) -> Vec<ByteRange> {
    let mut parts = vec![range];
    for hole in excluded {
        let cut = parts.iter().flat_map(|part| {
            let (before, rest) = part.split_at(hole.start());
            [before, rest.split_at(hole.end()).1]
        });
        parts = cut.filter(|part| !part.is_empty()).collect();
    }
    parts
}
