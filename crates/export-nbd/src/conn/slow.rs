//! Requests that could not be answered at once: futures of the device, in any number up to a bound, ending in any order.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bowline_block::{Buf, ByteRange, Flags, Io, Op, Request, Result, Store};
use bowline_device::Device;
use bowline_nbd::ReplyWriter;
use futures_util::stream::{FuturesUnordered, StreamExt};

/// Requests of one connection under way in the device.
pub(crate) const REQUESTS_MAX: usize = 256;
/// Bytes of data that they, and replies waiting to be sent, may hold.
pub(super) const BYTES_MAX: usize = 8 << 20;
/// Most that is read ahead for one `CACHE`, and in what pieces.
const PREFETCH_MAX: u64 = 32 << 20;
const PREFETCH_PIECE: u64 = 256 << 10;

/// A request that is done in pieces.
pub(super) struct Long {
    pub(super) writer: ReplyWriter,
    /// Pieces in the device.
    pub(super) under_way: Cell<usize>,
    /// Every piece has been begun.
    pub(super) all_begun: Cell<bool>,
    /// The first failure, and where.
    pub(super) failure: RefCell<Option<(bowline_block::Error, u64)>>,
}

impl Long {
    pub(super) fn new(writer: ReplyWriter) -> Rc<Self> {
        Rc::new(Self {
            writer,
            under_way: Cell::new(0),
            all_begun: Cell::new(false),
            failure: RefCell::new(None),
        })
    }

    pub(super) fn fail(&self, error: bowline_block::Error, offset: u64) {
        self.failure.borrow_mut().get_or_insert((error, offset));
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Whether nothing is left to do but to answer.
    pub(super) fn is_over(&self) -> bool {
        self.all_begun.get() && self.under_way.get() == 0
    }
}

/// What a request was for.
pub(super) enum Purpose {
    /// A whole read at this offset.
    Read { writer: ReplyWriter, offset: u64 },
    /// A piece of a read at this offset.
    ReadPiece { long: Rc<Long>, offset: u64 },
    /// A piece of a write at this offset.
    WritePiece { long: Rc<Long>, offset: u64 },
    /// Anything that is answered without data.
    Plain { writer: ReplyWriter },
    /// A reply that is in the buffer as it is to be sent.
    Ready,
}

/// A request that has ended.
pub(super) struct Finished {
    pub(super) purpose: Purpose,
    pub(super) result: Result<()>,
    pub(super) data: Buf,
    cost: usize,
}

pub(super) type SlowFuture = Pin<Box<dyn Future<Output = Finished>>>;

/// The requests under way.
#[derive(Default)]
pub(super) struct Slow {
    futures: FuturesUnordered<SlowFuture>,
    count: usize,
    bytes: usize,
}

impl Slow {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether another request may begin, with so many bytes waiting to be sent.
    #[inline]
    pub(super) fn admits(&self, waiting_bytes: usize) -> bool {
        self.count < REQUESTS_MAX && self.bytes + waiting_bytes < BYTES_MAX
    }

    pub(super) fn push(&mut self, cost: usize, future: impl Future<Output = Finished> + 'static) {
        self.count += 1;
        self.bytes += cost;
        self.futures.push(Box::pin(future));
    }

    /// The next that has ended; pending when none has.
    #[inline]
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Finished> {
        if self.count == 0 {
            return Poll::Pending;
        }
        match self.futures.poll_next_unpin(cx) {
            Poll::Ready(Some(finished)) => {
                self.count -= 1;
                self.bytes -= finished.cost;
                Poll::Ready(finished)
            }
            _ => Poll::Pending,
        }
    }

    /// Waits for the end of all, whose answers nobody wants.
    pub(super) async fn run_out(mut self) {
        while self.futures.next().await.is_some() {}
    }

    /// Begins a request with its data.
    pub(super) fn submit(&mut self, device: &Arc<Device>, request: Request, data: Buf, purpose: Purpose) {
        let cost = data.len();
        self.push(cost, run(device.clone(), request, data, purpose));
    }
}

impl Drop for Slow {
    /// The client is gone, its requests go on to their end: a request given up in the midst would leave its device's
    /// gate while the engine below still writes, and a take would find the device at rest when it is not (I2, I6).
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.futures);
        if !left.is_empty() {
            bowline_io::spawn_local(async move { while left.next().await.is_some() {} });
        }
    }
}

/// One request, as a future that owns what it needs.
pub(super) async fn run(device: Arc<Device>, request: Request, data: Buf, purpose: Purpose) -> Finished {
    let cost = data.len();
    let done = device.submit(Io::new(request, data)).await;
    Finished { purpose, result: done.result, data: done.data, cost }
}

/// A discard or write-zeroes, made durable by a flush where the client wants that: not every store knows FUA there.
pub(super) async fn run_then_flush(device: Arc<Device>, request: Request, writer: ReplyWriter) -> Finished {
    let mut result = device.submit(Io::bare(request)).await.result;
    if result.is_ok() && request.flags.contains(Flags::FUA) {
        result = device.submit(Io::bare(Request::flush())).await.result;
    }
    Finished { purpose: Purpose::Plain { writer }, result, data: Buf::empty(), cost: 0 }
}

/// Reads ahead: what is read is thrown away, and stays in the cache of the store if it has one.
pub(super) async fn prefetch(device: Arc<Device>, range: ByteRange, writer: ReplyWriter) -> Finished {
    let range = ByteRange::new(range.start(), range.len().min(PREFETCH_MAX));
    let mut data = bowline_io::alloc(usize::try_from(PREFETCH_PIECE).unwrap_or(0));
    let mut result = Ok(());
    for piece in range.pieces(PREFETCH_PIECE) {
        data.set_len(usize::try_from(piece.len()).unwrap_or(0));
        let done = device.submit(Io::new(Request::new(Op::Read, piece), data)).await;
        data = done.data;
        result = done.result;
        if result.is_err() {
            break;
        }
    }
    Finished { purpose: Purpose::Plain { writer }, result, data: Buf::empty(), cost: PREFETCH_COST }
}

/// What a prefetch holds.
pub(super) const PREFETCH_COST: usize = 256 << 10;

/// A reply made up by `future`, ready to be sent.
pub(super) async fn reply(
    future: impl Future<Output = Result<Buf>>,
    writer: ReplyWriter,
    cost: usize,
) -> Finished {
    match future.await {
        Ok(data) => Finished { purpose: Purpose::Ready, result: Ok(()), data, cost },
        Err(error) => {
            Finished { purpose: Purpose::Plain { writer }, result: Err(error), data: Buf::empty(), cost }
        }
    }
}
