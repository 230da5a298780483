//! Load generator and benchmark tables.
//!
//! # Design notes
//!
//! * **A neutral judge.** This crate has its own tiny NBD client and uses no other crate of ours, so an error
//!   in our codec cannot cancel itself out.
//! * **Lean.** A heavy client hides the server: on two cores its CPU time is taken from the server's. One thread
//!   per connection, all due requests in one send, all replies that are there in one receive, one clock reading
//!   per batch.
//! * **Suspicious.** Every block carries a stamp that follows from its position, and every read checks it. A
//!   server that answers without reading is caught in the middle of the measurement.
//! * **Interleaved.** Servers take turns (A B C A B C …) on the same backing file with a fresh server and fresh
//!   connections each round. Verdicts come from the medians of per-round ratios; absolute figures move with
//!   the machine.

pub mod backing;
pub mod bowline;
pub mod changes;
pub mod criteria;
pub mod histogram;
pub mod limit;
pub mod load;
pub mod memory;
pub mod pattern;
pub mod peers;
pub mod procfs;
pub mod report;
pub mod rounds;
pub mod rows;
pub mod server;
pub mod single;
pub mod stats;
pub mod subject;
pub mod take;
pub mod tracked_memory;
pub mod tracking;
pub mod verify;
pub mod wire;
