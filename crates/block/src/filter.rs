//! The filter trait and its verdicts.
//!
//! A filter looks at each request on its range on the way down and answers at once, without allocating on the
//! common path: pass it, end it, send it elsewhere, or hold it. The verdicts are those of the kernel block layer
//! filter that was proposed and never merged (pass / skip / redirect / repeat).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::{ByteRange, Request, Result, Store};

/// Where in a stack a filter sits: the highest sees a request first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Altitude(pub u32);

/// What a held request waits for. When it ends, the filter is asked again. It must end in bounded time (I1).
pub type HoldFuture<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A filter's answer.
pub enum Verdict<'a> {
    /// The request goes on to what is below.
    Pass,
    /// The request ends here. A read that ends well leaves its buffer as it was given.
    Complete(Result<()>),
    /// The request goes to another store, at this offset of it.
    Redirect {
        /// Where it goes.
        to: Arc<dyn Store>,
        /// The byte of `to` that stands for the first byte of the request.
        offset: u64,
    },
    /// The request waits; then the filter is asked again.
    Hold(HoldFuture<'a>),
}

/// A filter of a device's stack.
///
/// `ask` is called inside the device's gate: no filter is attached or detached, no snapshot taken, before the
/// request that it is asked about has ended. It may be asked several times about one request, so what it does for
/// its answer must bear repeating.
pub trait Filter: Send + Sync {
    /// The kind of filter, as in `filter attach DEVICE KIND`.
    fn kind(&self) -> &'static str;

    /// What is to become of `request`. `below` is the rest of the stack: what a filter itself reads or writes goes
    /// there, so that nothing is filtered twice.
    fn ask<'a>(&'a self, request: &Request, below: &'a dyn Store) -> Verdict<'a>;

    /// Whether what lies below does not say what the device holds in the range: then all of it is told as data.
    fn hides(&self, range: ByteRange) -> bool {
        let _ = range;
        false
    }

    /// Told once, frozen, when the filter is taken off or its device goes away.
    fn detached(&self) {}
}
