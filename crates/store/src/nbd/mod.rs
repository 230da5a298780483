//! The NBD client: a store that is an export of a server elsewhere.
//!
//! ```text
//!   submit ──► pending calls ──► connection task ──► socket ──► server       one task on one queue thread
//!     ▲        (bounded)         │ flights by cookie  │
//!     └── ticket ◄───────────────┴── replies ◄────────┘                      in any order
//! ```
//!
//! | state | pending calls | leaves to |
//! |-------|---------------|-----------|
//! | connected | are sent, at most 128 at once | lost, when the peer hangs up, is silent for a whole request timeout, or breaks the protocol |
//! | lost | in flight fail; pending wait, at most the reconnect wait | connected, when the dial thread has a connection to the same export |
//! | closed | fail | |
//!
//! Nothing the server says sizes an allocation or is waited for without a limit. Every call ends: with its reply, its
//! timeout, or the connection.
//!
//! A flush on a new connection says nothing about writes acknowledged on the one that was lost: the server may have
//! died with them in its cache. So the first flush after such a loss fails (I7). A server that offers no flush claims to
//! have no volatile cache, and flushes of it succeed, as they do for the kernel's client.

mod connection;
mod dial;
mod durability;
mod flight;
mod limits;
mod receive;
mod send;
mod shared;
mod supervisor;
mod tls;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bowline_block::{
    Buf, ByteRange, Capabilities, Done, Error, ErrorKind, ExtentKind, ExtentList, ExtentsFuture, Flags,
    Geometry, Io, IoFuture, Now, Op, Request, Result, Store,
};
use bowline_io::QueueHandle;
use bowline_nbd::{Command, CommandFlags, NbdUri};

use limits::Limits;
use shared::{Answer, Call, Shared};

/// Zeroes written at once where the server has no write-zeroes.
const ZEROES_BYTES: u64 = 1 << 20;

/// Time limits of an NBD client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NbdOptions {
    /// For reaching the server and negotiating, once.
    pub connect_timeout: Duration,
    /// From asking for an operation to its reply.
    pub request_timeout: Duration,
    /// How long an operation waits for a lost connection to come back.
    pub reconnect_wait: Duration,
    /// Longest pause between two attempts to connect again; the first is short, each next one doubles.
    pub backoff_max: Duration,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            reconnect_wait: Duration::from_secs(10),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// An export of an NBD server, as a store.
///
/// Its connection lives on a queue thread until [`Store::close`] or the drop; end it before the queues.
pub struct NbdStore {
    shared: Arc<Shared>,
}

impl NbdStore {
    /// Connects and negotiates, waiting for both at most the connect timeout; later losses are mended in the background.
    /// May be called on any thread. The connection is given to one of `queues`, in turns.
    ///
    /// # Errors
    /// *Unsupported* for block sizes beyond 4096 and for TLS without certificates to check the server by; *timeout*, *not found*, *denied* or *I/O* when the
    /// server cannot be reached; *protocol* when it is no NBD server or refuses the export. The message says what.
    pub fn connect(uri: &NbdUri, queues: &[QueueHandle], options: NbdOptions) -> Result<Arc<Self>> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let location = format!("nbd:{uri}");
        let turn = TURN.fetch_add(1, Ordering::Relaxed).checked_rem(queues.len()).unwrap_or(0);
        let queue = queues.get(turn).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "there is no queue to own the connection").device(&location)
        })?;
        let named = |error: Error| error.device(&location).op("connect");
        let dialed = dial::dial(uri, options.connect_timeout).map_err(named)?;
        let limits = Limits::of(&dialed.export).map_err(named)?;
        if limits.can_flush || limits.geometry.read_only {
            tracing::debug!(source = location, size = limits.geometry.size, "connected");
        } else {
            tracing::warn!(source = location, "the server offers no flush: it must have no volatile cache");
        }
        let shared = Shared::new(uri.clone(), location, options, limits);
        let for_task = shared.clone();
        queue.spawn(move || supervisor::supervise(for_task, dialed));
        Ok(Arc::new(Self { shared }))
    }

    /// Whether there is a connection now, and if not, why.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble()
    }

    fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    async fn run(&self, io: Io) -> Done {
        let Io { request, data } = io;
        let done = self.dispatch(request, data).await;
        let result = done
            .result
            .map_err(|error| error.device(&self.shared.location).op(request.op.name()).range(request.range));
        Done { result, data: done.data }
    }

    async fn dispatch(&self, request: Request, data: Buf) -> Done {
        // Servers differ in how they refuse these, and some drop the connection.
        if let Err(error) = self.limits().geometry.check(&request) {
            return Done::new(Err(error), data);
        }
        let carries = matches!(request.op, Op::Read | Op::Write);
        if carries && request.range.len() != data.len() as u64 {
            return Done::new(Err(Error::new(ErrorKind::Invalid, "data of another length")), data);
        }
        if request.range.is_empty() && request.op != Op::Flush {
            return Done::new(Ok(()), data);
        }
        let can = self.limits().geometry.can;
        let mut done = match request.op {
            Op::Read => self.transfer(Command::Read, CommandFlags::empty(), request.range, data).await,
            Op::Write => self.transfer(Command::Write, self.fua(&request), request.range, data).await,
            Op::Flush => return Done::new(self.flush().await, data),
            Op::Discard if can.contains(Capabilities::DISCARD) => {
                let flags = self.fua(&request);
                Done::new(self.without_data(Command::Trim, flags, request.range).await, data)
            }
            Op::WriteZeroes => Done::new(self.write_zeroes(&request).await, data),
            _ => {
                let why = "the server does not offer it";
                return Done::new(Err(Error::new(ErrorKind::Unsupported, why)), data);
            }
        };
        if done.result.is_ok() && request.flags.contains(Flags::FUA) && !self.limits().can_fua {
            done.result = self.flush().await;
        }
        done
    }

    /// The wire's FUA flag, where it is asked for and offered.
    fn fua(&self, request: &Request) -> CommandFlags {
        let wanted = request.flags.contains(Flags::FUA) && request.op.changes_data();
        if wanted && self.limits().can_fua { CommandFlags::FUA } else { CommandFlags::empty() }
    }

    async fn flush(&self) -> Result<()> {
        if !self.limits().can_flush {
            return Ok(());
        }
        let nothing = ByteRange::new(0, 0);
        self.call(Command::Flush, CommandFlags::empty(), nothing, Buf::empty(), 0).await.result
    }

    /// A read or write, in pieces where it is larger than the server takes.
    async fn transfer(&self, command: Command, flags: CommandFlags, range: ByteRange, data: Buf) -> Done {
        let most = self.limits().payload_max;
        if range.len() <= most {
            let answer = self.call(command, flags, range, data, 0).await;
            return Done::new(answer.result, answer.data);
        }
        let mut data = data;
        for piece in cut(range, most) {
            let from = usize::try_from(piece.start() - range.start()).unwrap_or(usize::MAX);
            let len = usize::try_from(piece.len()).unwrap_or(0);
            let window = from..from.saturating_add(len);
            let mut part = bowline_io::alloc(len);
            if command == Command::Write {
                part.copy_from_slice(data.get(window.clone()).unwrap_or_default());
            }
            let answer = self.call(command, flags, piece, part, 0).await;
            if answer.result.is_err() {
                return Done::new(answer.result, data);
            }
            if let (Command::Read, Some(room)) = (command, data.get_mut(window)) {
                room.copy_from_slice(&answer.data);
            }
        }
        Done::new(Ok(()), data)
    }

    async fn without_data(&self, command: Command, flags: CommandFlags, range: ByteRange) -> Result<()> {
        for piece in cut(range, self.limits().range_max()) {
            self.call(command, flags, piece, Buf::empty(), 0).await.result?;
        }
        Ok(())
    }

    async fn write_zeroes(&self, request: &Request) -> Result<()> {
        let mut flags = self.fua(request);
        let fast = request.flags.contains(Flags::FAST_ZERO);
        if fast && !self.limits().can_fast_zero {
            let why = "the server cannot tell whether zeroing is fast";
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        flags.set(CommandFlags::FAST_ZERO, fast);
        flags.set(CommandFlags::NO_HOLE, request.flags.contains(Flags::NO_UNMAP));
        if self.limits().geometry.can.contains(Capabilities::WRITE_ZEROES) {
            return self.without_data(Command::WriteZeroes, flags, request.range).await;
        }
        for piece in cut(request.range, ZEROES_BYTES.min(self.limits().payload_max)) {
            let zeroes = Buf::zeroed(usize::try_from(piece.len()).unwrap_or(0));
            self.call(Command::Write, self.fua(request), piece, zeroes, 0).await.result?;
        }
        Ok(())
    }

    async fn call(
        &self,
        command: Command,
        flags: CommandFlags,
        range: ByteRange,
        data: Buf,
        extents_max: usize,
    ) -> Answer {
        let call = Call::new(command, flags, range, data, extents_max);
        let ticket = call.ticket();
        self.shared.enqueue(call).await;
        ticket.await
    }

    async fn ask_extents(&self, range: ByteRange, max: usize) -> Result<ExtentList> {
        if !self.limits().geometry.can.contains(Capabilities::EXTENTS) || range.is_empty() {
            let mut found = ExtentList::with_max(max);
            found.push(range, ExtentKind::Data);
            return Ok(found);
        }
        // Less than asked for is a full answer.
        let asked = ByteRange::new(range.start(), range.len().min(self.limits().range_max()));
        let flags = if max == 1 { CommandFlags::REQ_ONE } else { CommandFlags::empty() };
        let answer = self.call(Command::BlockStatus, flags, asked, Buf::empty(), max.max(1)).await;
        answer
            .result
            .map(|()| answer.extents)
            .map_err(|error| error.device(&self.shared.location).op("extents").range(range))
    }
}

/// The range in pieces of at most `most` bytes.
fn cut(range: ByteRange, most: u64) -> impl Iterator<Item = ByteRange> {
    let mut rest = range;
    std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| {
            let (piece, after) = rest.split_at(rest.start().saturating_add(most.max(1)));
            rest = after;
            piece
        })
    })
}

impl Store for NbdStore {
    fn geometry(&self) -> Geometry {
        self.limits().geometry
    }

    fn location(&self) -> String {
        self.shared.location.clone()
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Box::pin(self.run(io))
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        if self.limits().geometry.can.contains(Capabilities::EXTENTS) {
            return Now::NotNow;
        }
        found.push(range, ExtentKind::Data);
        Now::Done(Ok(()))
    }

    fn extents(&self, range: ByteRange, max: usize) -> ExtentsFuture<'_> {
        Box::pin(self.ask_extents(range, max))
    }

    fn close(&self) {
        self.shared.close();
    }
}

impl Drop for NbdStore {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests;
