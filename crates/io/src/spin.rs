//! Waiting awake for a moment, where that is likely to pay.
//!
//! A queue that serves one request at a time spends most of it falling asleep and being woken. So after a short turn it
//! looks for the next event for a moment before it sleeps, and lets others have the processor between two looks: the
//! client may be waiting for this very one. A moment in vain makes the next attempts rarer, so an idle or slow queue
//! sleeps as it should; and after a long turn, with many requests in it, there is nothing to gain.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The longest a queue looks for the next event before it sleeps.
const MOMENT: Duration = Duration::from_micros(100);
/// A turn that took longer has served many requests.
const SHORT_TURN: Duration = Duration::from_micros(40);
/// Sleeps without a look at the most, after looks in vain.
const SKIPS_MAX: u32 = 256;

/// When to look, by what came of the last looks.
#[derive(Default)]
pub(crate) struct Spin {
    skip: Cell<u32>,
    skips_next: Cell<u32>,
    turn_began: Cell<Option<Instant>>,
}

impl Spin {
    /// There is something to do.
    pub(crate) fn begin_turn(&self) {
        self.turn_began.set(Some(Instant::now()));
    }

    /// How long to look, if at all.
    pub(crate) fn until(&self) -> Option<Instant> {
        let began = self.turn_began.take()?;
        let now = Instant::now();
        if now - began > SHORT_TURN {
            return None;
        }
        let skip = self.skip.get();
        if skip > 0 {
            self.skip.set(skip - 1);
            return None;
        }
        Some(now + MOMENT)
    }

    /// The look has paid.
    pub(crate) fn paid(&self) {
        self.skips_next.set(0);
    }

    /// It was in vain.
    pub(crate) fn in_vain(&self) {
        let skips = self.skips_next.get();
        self.skip.set(skips);
        self.skips_next.set((skips * 2 + 1).min(SKIPS_MAX));
    }
}
