//! The store trait: anything that takes requests.

use std::future::Future;
use std::pin::Pin;

use crate::{Buf, ByteRange, Error, ErrorKind, ExtentKind, ExtentList, Flags, Geometry, Request, Result};

/// An answer given at once, or none.
#[derive(Debug)]
pub enum Now {
    /// Done, or failed for good.
    Done(Result<()>),
    /// It would block, or needs more than a call can do: use [`Store::submit`].
    NotNow,
}

/// A request with its data: what is written, or room for what is read. `data.len()` is the range's length for
/// reads and writes and 0 otherwise.
#[derive(Debug)]
pub struct Io {
    /// The request.
    pub request: Request,
    /// Its data.
    pub data: Buf,
}

/// How a request ended. The data comes back in every case, so that buffers are never lost.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub result: Result<()>,
    /// The data of a read; otherwise the buffer for its next use.
    pub data: Buf,
}

/// What a store held may have become something else, though nobody wrote to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// What is beneath ended here at some time, which is before the store's end.
    Shorter(u64),
    /// What is beneath was not there.
    Vanished,
}

/// The future of a submitted request. It lives and is polled on the queue thread that made it; dropping it does not
/// take back what the engine below has begun.
pub type IoFuture<'a> = Pin<Box<dyn Future<Output = Done> + 'a>>;

/// The future of an extent query.
pub type ExtentsFuture<'a> = Pin<Box<dyn Future<Output = Result<ExtentList>> + 'a>>;

/// Something that takes requests: the bottom of a stack, or a filter together with all that is below it.
///
/// Callers have checked the request against [`Store::geometry`]; a store may rely on it for its logic but not for
/// memory safety. Requests may be in flight from many threads, in any number, and complete in any order; a flush
/// covers what was acknowledged before it was sent, on whatever thread.
pub trait Store: Send + Sync {
    /// Size, block size and abilities. Cheap; may change in size when the device is resized.
    fn geometry(&self) -> Geometry;

    /// Where the bytes are, as a user would write it.
    fn location(&self) -> String;

    /// Reads `range` into `data` at once, if that needs no waiting.
    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        let _ = (range, data);
        Now::NotNow
    }

    /// Writes `data` to `range` at once, if that needs no waiting.
    fn write_now(&self, range: ByteRange, data: &[u8], flags: Flags) -> Now {
        let _ = (range, data, flags);
        Now::NotNow
    }

    /// Does a request of any kind.
    fn submit(&self, io: Io) -> IoFuture<'_>;

    /// Which parts of `range` hold data, appended to `found` until it is full, if that needs no waiting.
    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        found.push(range, ExtentKind::Data);
        Now::Done(Ok(()))
    }

    /// Which parts of `range` hold data: at least one extent, at most `max`, from the start of the range on.
    fn extents(&self, range: ByteRange, max: usize) -> ExtentsFuture<'_> {
        let mut found = ExtentList::with_max(max);
        let answer = match self.extents_now(range, &mut found) {
            Now::Done(result) => result.map(|()| found),
            Now::NotNow => Err(Error::new(ErrorKind::Unsupported, "this store cannot tell its extents")),
        };
        Box::pin(std::future::ready(answer))
    }

    /// Changes the size, while the device is frozen.
    ///
    /// # Errors
    /// *Unsupported* unless the store says otherwise.
    fn resize(&self, size: u64) -> Result<()> {
        let _ = size;
        Err(Error::new(ErrorKind::Unsupported, "a store of this kind has a fixed size").op("resize"))
    }

    /// What was seen of a loss beneath the store since this was last asked, with a look at what is there now. It takes a
    /// system call. One caller only: what it was told is forgotten here.
    fn take_loss(&self) -> Option<Loss> {
        None
    }

    /// Told once, when the device is removed or the daemon stops: nothing will be submitted any more.
    fn close(&self) {}
}

impl Done {
    /// The end of a request.
    #[must_use]
    pub fn new(result: Result<()>, data: Buf) -> Self {
        Self { result, data }
    }

    /// A future that has ended already.
    #[must_use]
    pub fn ready<'a>(result: Result<()>, data: Buf) -> IoFuture<'a> {
        Box::pin(std::future::ready(Self { result, data }))
    }
}

impl Io {
    /// A request with its data.
    #[must_use]
    pub fn new(request: Request, data: Buf) -> Self {
        Self { request, data }
    }

    /// A request that carries none.
    #[must_use]
    pub fn bare(request: Request) -> Self {
        Self { request, data: Buf::empty() }
    }
}
