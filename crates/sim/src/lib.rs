//! A simulated disk for tests, the schedule to run it on, and a checker of what a crash left.
//!
//! ```text
//!   test ──► stack under test ──► SimDisk ──► volatile cache ──flush, FUA──► durable image
//!     │                             │                │                            │
//!     └ Ledger: what was promised   └ log of events  └──── power cut ────► Image ─┘
//!              └───────────────────────── check ─────────────────────────────┘
//! ```
//!
//! [`SimDisk`] is a store with a volatile cache. Everything it did is in a log; [`SimDisk::replay`] goes through the
//! log event by event, and at each makes the images that a power cut at that moment may leave. [`Ledger`] writes
//! recognisable contents and knows which of them must have survived. [`SimScheduler`] runs many futures on one
//! thread in a seeded order. One seed always gives one run. What faults there are, and which are legal, is told in
//! `docs/faults.md`.

mod cache;
mod client;
mod disk;
mod faults;
mod image;
mod ledger;
mod log;
mod power;
mod rng;
mod scheduler;

pub use cache::Crash;
pub use client::exercise;
pub use disk::SimDisk;
pub use faults::{Discards, Faults, FlushFailure, PlannedError, Stall};
pub use image::Image;
pub use ledger::{FlushId, Ledger, Violation, WriteId};
pub use log::{Event, Mark, Replay};
pub use power::PowerSwitch;
pub use rng::Rng;
pub use scheduler::{SimScheduler, Stuck, run_alone};

/// Bytes that a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = SECTOR as u64;

const SECTOR: usize = 512;

#[cfg(test)]
mod tests;
