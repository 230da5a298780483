//! The daemon: assembles stacks, keeps state, answers the control API.
//!
//! ```text
//!   control API ──► Daemon ──► verbs (device, export, snapshot, changes, status)
//!                     │           │ change the tables, build and take apart stacks
//!                     │           ▼
//!                     ├── tables: devices, images, snapshots, listeners, exports
//!                     ├── queues: the threads that move data
//!                     ├── events: what happened, in order
//!                     └── state folder: what outlives the process
//! ```
//!
//! Verbs that change something run one at a time. The tables are locked for looking up and for noting down, never
//! while a stack is being frozen or a file opened.

pub mod options;

mod bitmaps;
mod catalog;
mod changes;
pub mod check;
mod control;
mod daemon;
mod device;
mod error;
mod events;
mod export;
mod keeper;
mod losses;
mod metrics;
mod mounts;
mod reading;
mod rollback;
mod serve;
mod snapshot;
mod socket;
mod state;
mod status;
mod stop;
mod tables;
mod tls;
mod tracking;

pub use bowline_api::ApiError as Error;
pub use options::{EngineChoice, ListenAddr, LogLevel, ServeOptions, TlsFiles};
pub use serve::serve;

#[cfg(test)]
mod tests;
