//! Copy-on-write snapshots.
//!
//! A [`History`] is the filter that preserves old contents of one device before they change, as long as there is a
//! snapshot of it; an [`ImageStore`] is a snapshot's view of that device; a [`DiffStorage`] is where the old contents
//! are.
//!
//! ```text
//!   write ──► History ──claim──► zone ◄──bits── ImageStore ◄── read
//!                │                 │                │
//!                └─read old──► lane│segment ◄─slot──┤
//!                     │            ▼                │
//!                     │       DiffStorage (worker: touch memory, grow and write the file)
//!                     ▼                             │
//!                 the store below ◄── what is not preserved
//! ```
//!
//! * Copies are made in granules of 4 KiB, once per interval between two takes, however many snapshots there are
//!   (`chain`).
//! * What happens to a granule is decided under one lock per 16 MiB, which is never held over I/O (`zone`).
//! * Locks, in their order: a history's surgery · a lane · a segment's contents · a zone · the segment table · a
//!   storage's work. At most one of each kind at a time.
//! * Whatever fails costs snapshots, never the origin (I1): a snapshot is exact (I2) or says that it failed.

mod chain;
mod changed;
mod clear;
mod copy;
mod durable;
mod events;
mod exclude;
mod granule;
mod history;
mod image;
mod interval;
mod journal;
mod keeper;
mod lane;
mod layers;
mod persist;
mod recover;
mod remove;
mod segment;
mod shared;
mod snapshot;
mod store;
mod sync;
pub(crate) mod wait;
mod zone;

pub(crate) use copy::{is_zero, not_busy};
pub use events::{Cause, Failure, NoEvents, SnapshotEvents, Space};
pub use granule::GRANULE_BYTES;
pub(crate) use granule::{Granules, WORD_GRANULES, mask_of};
pub use history::{COW_ALTITUDE, History, IndexMemory};
pub use image::ImageStore;
pub(crate) use image::read::window;
pub(crate) use interval::Interval;
#[cfg(any(test, feature = "fuzz"))]
pub use journal::fuzz::snapshot_journal as fuzz_snapshot_journal;
pub use journal::{JournalReport, ReadBlocks, check_journal};
pub use persist::take_persistent;
pub use recover::{HeldDevice, HeldSnapshot, Recovery, Returned, recover};
pub use segment::SEGMENT_BYTES;
pub use shared::{HOLD_TIMEOUT_DEFAULT, OnFull, SnapshotState};
pub use snapshot::{Limits, Origin, PreservedStats, Snapshot, SnapshotDevice, take};
pub use store::{
    DiffStorage, FileIdentity, KeptStore, Medium, RANGE_ALIGNMENT, RANGES_MAX, StateMedium, StoreKind,
    StoreSpec,
};
pub(crate) use zone::{Claim, Claimed, Run, SlotId, ZONE_GRANULES, Zone};

#[cfg(all(test, feature = "shuttle"))]
mod schedule_tests;
#[cfg(all(test, not(feature = "shuttle")))]
pub(crate) mod tests;
