//! The vocabulary of the block layer: requests, ranges, errors, buffers, and the two traits a stack is made of.
//!
//! ```text
//!   export ──► Device ──► Filter ──► Filter ──► Store        (everything from a filter down is again a Store)
//! ```
//!
//! A [`Store`] is something that takes requests: a file at the bottom of a stack, or a filter with what lies below
//! it. Each operation comes in two forms. The `*_now` form answers at once on the caller's thread, without
//! allocating and without blocking, or says [`Now::NotNow`]; the `submit` form takes ownership of the data and
//! answers with a future. Callers try the first and fall back to the second, so that what is in memory costs no
//! task, and what is not costs nobody else a wait.
//!
//! Nothing here does I/O, starts a thread or knows an engine.

mod buffer;
mod error;
mod extent;
mod filter;
mod geometry;
mod range;
mod request;
mod store;

pub use buffer::{Buf, BufHome, PAGE_BYTES, Page};
pub use error::{Context, Errno, Error, ErrorKind, Result};
pub use extent::{Extent, ExtentKind, ExtentList};
pub use filter::{Altitude, Filter, HoldFuture, Verdict};
pub use geometry::{BlockSize, Capabilities, Geometry};
pub use range::ByteRange;
pub use request::{Flags, Op, Request};
pub use store::{Done, ExtentsFuture, Io, IoFuture, Loss, Now, Store};

#[cfg(test)]
mod tests;
