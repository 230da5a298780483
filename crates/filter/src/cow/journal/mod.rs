//! The journal of a device's persistent snapshots: where their old contents are, on stable storage.
//!
//! ```text
//!   header │ mark of failure │ frame │ frame │ frame │ zeroes
//!                              └ records: stores, members, copies, zeroes, image writes, removals
//! ```
//!
//! One journal per history, a file in the daemon's state folder; the old contents themselves are in the snapshots' diff
//! storage. `docs/format/journal.md` has the bytes, `docs/adr/0009-persistent-snapshots.md` the reasons.
//!
//! * `record`, `log`: what it says, and how that is on disk
//! * `index`: what that comes to
//! * `commit`: a journal in use, with group commit
//! * `check`: a journal and its stores looked at offline

mod check;
mod commit;
mod compact;
mod extents;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod index;
mod layout;
mod log;
mod record;
mod ticket;

pub use check::{JournalReport, ReadBlocks, check_journal};
#[cfg(test)]
pub(crate) use commit::{Counts, Damage};
pub(crate) use commit::{Journal, Source, Write};
pub(crate) use extents::Extents;
#[cfg(test)]
pub(crate) use extents::Piece;
pub(crate) use index::{Holding, Index};
pub(crate) use layout::crc;
pub(crate) use log::{Header, Scan, scan};
pub(crate) use record::{Place, Record, Slots, Taken, Zero};
pub(crate) use ticket::{Outcome, Ticket};

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
