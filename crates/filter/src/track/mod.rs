//! Changed-block tracking: which blocks of a device changed since a take.
//!
//! ```text
//!   write ──► Tracker (filter) ──bit──► live map ──take──► closed epochs (compressed, merged where there are too many)
//!                                            └──────────────┴──► changed(since, until) = their union
//! ```
//!
//! * A take closes an *epoch*: the live map becomes a closed set, an empty one begins. What changed since take *n* is
//!   the union of the sets of epochs *n* + 1 on, and the live map.
//! * Epochs are comparable within a *generation* only. Whenever continuity cannot be proven a new one begins, and
//!   questions about the old one are refused: they need a full read (I4).
//! * A bit is set before the request goes on to what is below, and once set is only looked at.

mod changes;
mod check;
mod chunks;
mod committer;
mod current;
pub(crate) mod disk;
mod durable;
mod epochs;
mod events;
mod filter;
mod fingerprint;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz_entry;
mod grain;
mod identity;
mod intents;
mod map;
mod marking;
mod measure;
mod open;
mod query;
mod recover;
mod sync;
mod tracker;
mod turn;
mod worker;

pub use changes::ChangeSet;
pub use check::{FILES, Finding, Owner, Severity, check, owner};
pub use events::{NoTrackEvents, TrackEvents};
pub use fingerprint::{Fingerprint, SAMPLE_BYTES, SAMPLES, Traces};
pub use identity::{Identity, StoreIdentity};
pub use measure::{Spread, changed_tracker};
pub use open::{Continuity, Opened};
pub use tracker::{Closed, TRACK_ALTITUDE, TrackLimits, TrackStatus, Tracker};

#[cfg(all(test, feature = "shuttle"))]
mod schedule_tests;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
