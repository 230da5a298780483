//! The device: a name, a gate, and a stack of filters over a store.
//!
//! ```text
//!   request ──► gate ──► filter (altitude 300) ──► filter (altitude 100) ──► store
//!               │ counts what is in flight          each on a range of its own
//!               └ closed while the stack changes: freeze = close and drain, thaw = open
//! ```
//!
//! A device is itself a [`bowline_block::Store`], so a stack can stand on another device.

mod device;
mod freeze;
mod gate;
mod gone;
mod level;
mod stats;
mod sync;

pub use device::{Attachment, Device, FilterId, Inside};
pub use freeze::{Frozen, freeze_all};
pub use stats::IoStats;

#[cfg(test)]
#[cfg(feature = "shuttle")]
mod schedules;
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests;
