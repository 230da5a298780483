//! The NBD server: devices by export name over Unix sockets and TCP.
//!
//! ```text
//!   listener (queue 0) ──► connection task, on the queue with the fewest ──► Device
//! ```
//!
//! A connection lives on one queue thread, and so do its requests: nothing is handed from thread to thread. See
//! `conn` for a connection's life, [`bowline_nbd`] for the protocol itself.
//!
//! What a client can do to the server (I8, I9): nothing it sends sizes an allocation; a connection holds fixed buffers
//! and a bounded number of requests; a bad or silent client ends or fills its own connection only.

mod address;
mod bitmaps;
mod conn;
mod exports;
mod listener;
mod registry;
mod server;

pub use address::{ListenAddr, check_exposure};
pub use bitmaps::{BitmapExtent, DirtyBitmap, DirtyBitmaps};
pub use exports::{ExportEntry, ExportTarget, Exports};
pub use server::{NbdServer, ServerConfig, TlsConfig};

#[cfg(test)]
mod tests;

/// Requests of one connection that may be under way at once; what comes beyond is not read.
pub const REQUESTS_PER_CONNECTION_MAX: usize = conn::slow::REQUESTS_MAX;
