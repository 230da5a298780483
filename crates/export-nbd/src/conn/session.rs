//! The transmission phase without the socket: takes received bytes, writes replies to the output.
//!
//! | state | what comes next is | leaves when |
//! |-------|--------------------|-------------|
//! | neither | a request | |
//! | `incoming` | the payload of a long write, or one that is skipped | it has all come |
//! | `outgoing` | nothing: a long read goes out piece by piece | all pieces were begun |
//!
//! A request that the device answers at once costs no allocation and no task: reads go straight into the output
//! behind their header, writes straight from the receive buffer. The others become futures in [`Slow`].

use std::sync::Arc;
use std::task::Poll;

use bowline_block::{Buf, ByteRange, Error, ErrorKind, Flags, Now, Op, Request, Store};
use bowline_device::Device;
use bowline_nbd::transmission::reply::{MAX_ERROR, MAX_HEADER};
use bowline_nbd::{Command, CommandFlags, ProtocolError, ReplyWriter, RequestHead, RequestLimits, WireError};

use super::answer::wire_error;
use super::contexts::Context;
use super::long_read::Outgoing;
use super::long_write::Incoming;
use super::output::Output;
use super::slow::{self, Purpose, Slow};
use super::status;

/// Reads up to this length go into the output in one piece.
pub(super) const WHOLE_READ_MAX: u64 = 128 << 10;
/// Writes up to this length are taken when all of their data is there.
pub(super) const WHOLE_WRITE_MAX: u64 = 64 << 10;
/// Requests, or pieces of one, that are answered before the answers are sent. Not all that have come: a client that gets
/// the first half of its answers works on them while the second half is made.
const STEPS_PER_SEND: usize = 16;
/// Room without which no request is taken: that of an error with its text.
pub(super) const REPLY_ROOM: usize = MAX_ERROR;

/// Why no more requests are taken.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client said goodbye.
    Disconnect,
    /// The client sends no more.
    EndOfStream,
    /// The server is stopping, or the export is taken away.
    Drained,
    /// The device was removed.
    Gone,
    /// What came is not NBD.
    Protocol(ProtocolError),
    /// A request that cannot be answered within the protocol.
    Unanswerable(&'static str),
}

impl Ending {
    /// Whether requests that have arrived are still answered.
    fn answers_the_rest(&self) -> bool {
        matches!(self, Self::EndOfStream | Self::Drained)
    }
}

/// What became of received bytes.
pub(super) enum Step {
    /// So many were used.
    Used(usize),
    /// More are needed.
    NeedMore,
    /// Nothing can be taken until something was sent or has ended.
    Blocked,
}

pub(super) struct Session {
    pub(super) device: Arc<Device>,
    pub(super) limits: RequestLimits,
    pub(super) contexts: Vec<Context>,
    pub(super) output: Output,
    pub(super) slow: Slow,
    pub(super) incoming: Option<Incoming>,
    pub(super) outgoing: Option<Outgoing>,
    pub(super) ending: Option<Ending>,
    /// The last look at the input found no whole request.
    starved: bool,
    /// The last look at the input got somewhere, be it that a piece of a long read was begun: who begins something must
    /// see to it that it is polled.
    pub(super) stepped: bool,
}

impl Session {
    pub(super) fn new(device: Arc<Device>, limits: RequestLimits, contexts: Vec<Context>) -> Self {
        Self {
            device,
            limits,
            contexts,
            output: Output::default(),
            slow: Slow::default(),
            incoming: None,
            outgoing: None,
            ending: None,
            starved: true,
            stepped: false,
        }
    }

    /// Whether more bytes should be received.
    #[inline]
    pub(super) fn wants_input(&self) -> bool {
        self.starved && self.ending.is_none()
    }

    /// Whether everything is answered that will be, and sent.
    pub(super) fn is_over(&self) -> bool {
        let Some(ending) = &self.ending else { return false };
        (self.starved || !ending.answers_the_rest()) && self.is_idle()
    }

    /// Whether nothing is under way or waits to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.slow.is_empty() && self.outgoing.is_none() && self.output.is_empty()
    }

    /// Takes as many requests as can be taken; how many bytes of `bytes` were used.
    #[inline]
    pub(super) fn consume(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        self.stepped = false;
        for _ in 0..STEPS_PER_SEND {
            let step = if self.outgoing.is_some() {
                self.pump()
            } else if self.ending.as_ref().is_some_and(|ending| !ending.answers_the_rest()) {
                Step::Blocked
            } else {
                let rest = bytes.get(used..).unwrap_or_default();
                if self.incoming.is_some() { self.payload(rest) } else { self.request(rest) }
            };
            match step {
                Step::Used(count) => {
                    used += count;
                    self.stepped = true;
                }
                Step::NeedMore => {
                    self.starved = true;
                    return used;
                }
                Step::Blocked => break,
            }
        }
        self.starved = false;
        used
    }

    #[inline]
    fn request(&mut self, bytes: &[u8]) -> Step {
        let (head, size) = match RequestHead::parse(bytes, self.limits.form.is_extended()) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Step::NeedMore,
            Err(error) => {
                self.ending = Some(Ending::Protocol(error));
                return Step::Blocked;
            }
        };
        if !self.admits() {
            return Step::Blocked;
        }
        if let Err(error) = self.limits.check(&head) {
            return self.refuse(&head, size, error);
        }
        match head.command {
            Command::Read => self.read(&head, size),
            Command::Write => self.write(&head, size, bytes),
            _ => self.rare(&head, size, bytes),
        }
    }

    /// Whether another request may begin: there is room for its reply, and not too much is under way.
    #[inline]
    pub(super) fn admits(&mut self) -> bool {
        self.slow.admits(self.output.owned_bytes()) && self.output.room(REPLY_ROOM).is_some()
    }

    pub(super) fn writer(&self, head: &RequestHead) -> ReplyWriter {
        ReplyWriter::new(self.limits.form, head)
    }

    #[inline]
    fn read(&mut self, head: &RequestHead, size: usize) -> Step {
        if head.length > WHOLE_READ_MAX {
            self.outgoing = Some(Outgoing::new(head, self.limits.form));
            return Step::Used(size);
        }
        let range = ByteRange::new(head.offset, head.length);
        let (length, wire_length) = lengths(head.length);
        let writer = self.writer(head);
        let Some(room) = self.output.room(MAX_HEADER + length) else { return Step::Blocked };
        let Ok(at) = writer.data(room, head.offset, wire_length, true) else { return Step::Blocked };
        let Some(data) = room.get_mut(at..at + length) else { return Step::Blocked };
        match self.device.read_now(range, data) {
            Now::Done(Ok(())) => self.output.commit(at + length),
            Now::Done(Err(error)) => self.fail(&writer, &error),
            Now::NotNow => self.begin_read(writer, range),
        }
        Step::Used(size)
    }

    /// A read as one request of the slow path.
    #[inline(never)]
    pub(super) fn begin_read(&mut self, writer: ReplyWriter, range: ByteRange) {
        let Some(data) = self.buffer(range.len(), &writer) else { return };
        let purpose = Purpose::Read { writer, offset: range.start() };
        self.slow.submit(&self.device, Request::new(Op::Read, range), data, purpose);
    }

    #[inline]
    fn write(&mut self, head: &RequestHead, size: usize, bytes: &[u8]) -> Step {
        let flags = write_flags(head.flags);
        let writer = self.writer(head);
        if head.length > WHOLE_WRITE_MAX {
            self.incoming = Some(Incoming::write(writer, head, flags));
            return Step::Used(size);
        }
        let range = ByteRange::new(head.offset, head.length);
        let (length, _) = lengths(head.length);
        let Some(data) = bytes.get(size..size + length) else { return Step::NeedMore };
        match self.device.write_now(range, data, flags) {
            Now::Done(Ok(())) => self.done(&writer),
            Now::Done(Err(error)) => self.fail(&writer, &error),
            Now::NotNow => self.begin_write(writer, Request::new(Op::Write, range).with_flags(flags), data),
        }
        Step::Used(size + length)
    }

    #[inline(never)]
    fn begin_write(&mut self, writer: ReplyWriter, request: Request, data: &[u8]) {
        let Some(mut buf) = self.buffer(request.range.len(), &writer) else { return };
        buf.copy_from_slice(data);
        self.slow.submit(&self.device, request, buf, Purpose::Plain { writer });
    }

    /// A buffer of exactly this length; without memory the request fails.
    pub(super) fn buffer(&mut self, length: u64, writer: &ReplyWriter) -> Option<Buf> {
        let (length, _) = lengths(length);
        let buf = bowline_io::alloc(length);
        if buf.len() == length {
            return Some(buf);
        }
        self.refuse_with(writer, WireError::NoMemory, "no memory for the request's data");
        None
    }

    #[inline(never)]
    fn rare(&mut self, head: &RequestHead, size: usize, bytes: &[u8]) -> Step {
        let writer = self.writer(head);
        let range = ByteRange::checked(head.offset, head.length).unwrap_or_default();
        let device = self.device.clone();
        match head.command {
            Command::Disconnect => self.ending = Some(Ending::Disconnect),
            Command::Flush => {
                self.slow.submit(&device, Request::flush(), Buf::empty(), Purpose::Plain { writer });
            }
            Command::Trim => {
                let request = Request::new(Op::Discard, range).with_flags(write_flags(head.flags));
                self.slow.push(0, slow::run_then_flush(device, request, writer));
            }
            Command::WriteZeroes => {
                let request = Request::new(Op::WriteZeroes, range).with_flags(zero_flags(head.flags));
                self.slow.push(0, slow::run_then_flush(device, request, writer));
            }
            Command::Cache => {
                self.slow.push(slow::PREFETCH_COST, slow::prefetch(device, range, writer));
            }
            Command::BlockStatus => return self.block_status(head, size, bytes),
            Command::Read | Command::Write | Command::Other(_) => {
                self.refuse_with(&writer, WireError::Invalid, "unknown command");
            }
        }
        Step::Used(size)
    }

    fn block_status(&mut self, head: &RequestHead, size: usize, bytes: &[u8]) -> Step {
        let (length, _) = lengths(head.payload_length(self.limits.form.is_extended()));
        let Some(payload) = bytes.get(size..size + length) else { return Step::NeedMore };
        let writer = self.writer(head);
        match status::Query::new(head, payload, &self.limits, &self.contexts) {
            Ok(query) => {
                let future = status::answer(self.device.clone(), query, self.limits.form, writer);
                self.slow.push(status::COST, slow::reply(future, writer, status::COST));
            }
            Err((error, why)) => self.refuse_with(&writer, error, why),
        }
        Step::Used(size + length)
    }

    /// Answers a request that keeps not to the rules; its payload is skipped.
    #[cold]
    fn refuse(&mut self, head: &RequestHead, size: usize, error: WireError) -> Step {
        let writer = self.writer(head);
        let payload = head.payload_length(self.limits.form.is_extended());
        tracing::debug!(device = self.device.name(), ?head, %error, "request refused");
        if payload > Incoming::SKIP_MAX {
            self.refuse_with(&writer, error, "the payload is too long to be skipped");
            self.ending = Some(Ending::Unanswerable("a payload too long to be skipped"));
        } else if payload > 0 {
            self.incoming = Some(Incoming::Skip { writer, error, remaining: payload });
        } else {
            self.refuse_with(&writer, error, refusal(head, &self.limits));
        }
        Step::Used(size)
    }

    /// Answers with an error number of our own choice.
    #[cold]
    pub(super) fn refuse_with(&mut self, writer: &ReplyWriter, error: WireError, why: &str) {
        if let Some(room) = self.output.room(REPLY_ROOM)
            && let Ok(count) = writer.error(room, error, why)
        {
            self.output.commit(count);
        }
    }

    /// Answers that a request was done.
    #[inline]
    pub(super) fn done(&mut self, writer: &ReplyWriter) {
        if let Some(room) = self.output.room(REPLY_ROOM)
            && let Ok(count) = writer.done(room)
        {
            self.output.commit(count);
        }
    }

    /// Answers that a request failed in the device.
    #[cold]
    pub(super) fn fail(&mut self, writer: &ReplyWriter, error: &Error) {
        tracing::debug!(device = self.device.name(), %error, "request failed");
        self.note_gone(error);
        self.refuse_with(writer, wire_error(error), &error.to_string());
    }

    /// A removed device serves nobody: what has begun is answered, then the connection ends.
    pub(super) fn note_gone(&mut self, error: &Error) {
        if error.kind() == ErrorKind::Gone && self.device.is_gone() {
            self.ending.get_or_insert(Ending::Gone);
        }
    }

    /// Answers requests of the slow path that have ended; whether there was any.
    pub(super) fn complete(&mut self, cx: &mut std::task::Context<'_>) -> bool {
        let mut any = false;
        loop {
            if let Some(progress) = self.poll_stream(cx) {
                return any || progress;
            }
            if self.slow.is_empty() || self.output.room(REPLY_ROOM).is_none() {
                return any;
            }
            let Poll::Ready(finished) = self.slow.poll_next(cx) else { return any };
            any = true;
            self.finish(finished);
        }
    }
}

/// A length that was checked against the limits, as the types that memory and wire have.
#[inline]
pub(super) fn lengths(length: u64) -> (usize, u32) {
    (usize::try_from(length).unwrap_or(usize::MAX), u32::try_from(length).unwrap_or(u32::MAX))
}

fn write_flags(flags: CommandFlags) -> Flags {
    if flags.contains(CommandFlags::FUA) { Flags::FUA } else { Flags::empty() }
}

fn zero_flags(flags: CommandFlags) -> Flags {
    let mut ours = write_flags(flags);
    ours.set(Flags::NO_UNMAP, flags.contains(CommandFlags::NO_HOLE));
    ours.set(Flags::FAST_ZERO, flags.contains(CommandFlags::FAST_ZERO));
    ours
}

/// Why a request was refused, for a human.
fn refusal(head: &RequestHead, limits: &RequestLimits) -> &'static str {
    let end = head.offset.checked_add(head.length);
    let mask = u64::from(limits.blocks.minimum).saturating_sub(1);
    if matches!(head.command, Command::Other(_)) {
        "unknown command"
    } else if end.is_none_or(|end| end > limits.size) {
        "beyond the end of the export"
    } else if (head.offset | head.length) & mask != 0 {
        "not a multiple of the block size"
    } else if head.length > u64::from(limits.blocks.maximum) {
        "longer than the maximum block size"
    } else {
        "command or flags not offered, or not allowed"
    }
}
