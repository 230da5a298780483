//! Faults that a test asks for. See `docs/faults.md` for which of them are legal behaviour of a disk.

use bowline_block::{ErrorKind, Op};

/// When operations complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stall {
    /// At once.
    #[default]
    None,
    /// After up to so many polls, the seed deciding: operations overtake each other.
    Polls(u64),
    /// Not before [`crate::SimDisk::release`].
    UntilReleased,
}

/// What a discarded range holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discards {
    /// Zeroes, and the disk says so.
    #[default]
    ReadZeroes,
    /// What was there.
    Keep,
    /// Something else.
    Scramble,
    /// The disk knows no discard.
    Unsupported,
}

/// What a flush that failed does to what it should have written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushFailure {
    /// It is dropped: readable, but no later flush makes it durable. What Linux page caches do.
    #[default]
    Forgets,
    /// The next flush tries again.
    Keeps,
}

/// An error to be given.
#[derive(Clone, Copy, Debug)]
pub struct PlannedError {
    /// The operation it is for; `None` is any.
    pub op: Option<Op>,
    /// Operations of this kind still to be let through.
    pub after: u64,
    /// How often it is given.
    pub times: u64,
    /// The error.
    pub kind: ErrorKind,
}

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// When operations complete.
    pub stall: Stall,
    /// What discards do.
    pub discards: Discards,
    /// What failed flushes do.
    pub flush_failure: FlushFailure,
    /// Bytes that may be allocated, in pages of 4 KiB; a write beyond answers *no space*.
    pub space_bytes: Option<u64>,
    /// Errors to be given.
    pub planned: Vec<PlannedError>,
}

impl Faults {
    /// The `nth` operation from now (0 is the next one) of that kind, or of any, fails.
    #[must_use]
    pub fn fail(self, op: Option<Op>, nth: u64, kind: ErrorKind) -> Self {
        self.fail_times(op, nth, 1, kind)
    }

    /// So many operations fail from the `nth` on; `u64::MAX` for ever.
    #[must_use]
    pub fn fail_times(mut self, op: Option<Op>, nth: u64, times: u64, kind: ErrorKind) -> Self {
        self.planned.push(PlannedError { op, after: nth, times, kind });
        self
    }

    /// The error this operation is to get.
    pub(crate) fn strike(&mut self, op: Op) -> Option<ErrorKind> {
        let mut struck = None;
        for plan in self.planned.iter_mut().filter(|plan| plan.op.is_none_or(|planned| planned == op)) {
            if plan.after > 0 {
                plan.after -= 1;
            } else if plan.times > 0 && struck.is_none() {
                plan.times -= 1;
                struck = Some(plan.kind);
            }
        }
        self.planned.retain(|plan| plan.times > 0);
        struck
    }
}
