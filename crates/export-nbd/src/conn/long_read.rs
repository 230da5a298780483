//! Reads too long for one go: they are sent piece by piece, so that no request holds more than a few pieces.
//!
//! With structured or extended replies each piece is a chunk of its own, or a hole, and pieces may end in any order.
//! A simple reply, or one that must not be fragmented, is a *stream*: one header, then the pieces in order, and
//! nothing else in between. When a stream breaks after its header was written, the connection ends: the protocol has
//! no way to say it.

use std::rc::Rc;
use std::task::{Context, Poll};

use bowline_block::{ByteRange, Now, Op, Request, Store};
use bowline_nbd::transmission::reply::MAX_HEADER;
use bowline_nbd::{CommandFlags, ReplyForm, ReplyWriter, RequestHead};

use super::answer::{is_zero, no_memory};
use super::session::{Ending, REPLY_ROOM, Session, Step, lengths};
use super::slow::{self, Finished, Long, Purpose, SlowFuture};

/// Pieces of a long read that the device answers at once: small enough to be in the processor's cache when they are sent.
const PIECE_AT_ONCE_MAX: u64 = 256 << 10;
/// Pieces of a long read that cannot be answered at once.
const PIECE_MAX: u64 = 1 << 20;

/// A long read that goes out.
pub(super) struct Outgoing {
    long: Rc<Long>,
    whole: ByteRange,
    /// The first byte not yet begun.
    next: u64,
    /// One header for all pieces.
    stream: bool,
    /// The header of a stream was written.
    begun: bool,
    /// The device answered at once so far.
    at_once: bool,
    /// The piece of a stream that the device is reading.
    piece: Option<SlowFuture>,
}

/// What became of one look at a long read.
enum Pump {
    /// There is more to do.
    Again,
    /// Something must be sent, or end, first.
    Blocked,
    /// Every piece was begun.
    Begun,
}

impl Outgoing {
    pub(super) fn new(head: &RequestHead, form: ReplyForm) -> Self {
        let stream = form == ReplyForm::Simple || head.flags.contains(CommandFlags::DF);
        let long = Long::new(ReplyWriter::new(form, head));
        let whole = ByteRange::new(head.offset, head.length);
        Self { long, whole, next: head.offset, stream, begun: false, at_once: true, piece: None }
    }

    fn piece(&self, max: u64) -> ByteRange {
        ByteRange::new(self.next, (self.whole.end() - self.next).min(max))
    }

    fn advance(&mut self, piece: ByteRange) -> Pump {
        self.next = piece.end();
        if self.next < self.whole.end() {
            return Pump::Again;
        }
        self.long.all_begun.set(true);
        Pump::Begun
    }
}

impl Session {
    /// Goes on with the long read.
    pub(super) fn pump(&mut self) -> Step {
        let Some(mut read) = self.outgoing.take() else { return Step::Blocked };
        let pumped = match (read.at_once, read.stream) {
            (true, _) => self.pump_at_once(&mut read),
            (false, true) => self.pump_stream(&mut read),
            (false, false) => self.pump_chunk(&mut read),
        };
        match pumped {
            Pump::Again => self.outgoing = Some(read),
            Pump::Blocked => {
                self.outgoing = Some(read);
                return Step::Blocked;
            }
            Pump::Begun => {}
        }
        Step::Used(0)
    }

    fn pump_at_once(&mut self, read: &mut Outgoing) -> Pump {
        let piece = read.piece(PIECE_AT_ONCE_MAX);
        let (length, wire_length) = lengths(piece.len());
        let last = piece.end() == read.whole.end();
        let writer = read.long.writer;
        let Some(room) = self.output.room(MAX_HEADER + length) else { return Pump::Blocked };
        let header = match (read.stream, read.begun) {
            (true, true) => Ok(0),
            (true, false) => writer.data(room, read.whole.start(), lengths(read.whole.len()).1, true),
            (false, _) => writer.data(room, piece.start(), wire_length, last),
        };
        let Ok(at) = header else { return Pump::Blocked };
        let Some(data) = room.get_mut(at..at + length) else { return Pump::Blocked };
        match self.device.read_now(piece, data) {
            Now::Done(Ok(())) => {
                let hole = !read.stream && is_zero(data);
                let hole = if hole { writer.hole(room, piece.start(), wire_length, last).ok() } else { None };
                self.output.commit(hole.unwrap_or(at + length));
                read.begun = true;
                read.advance(piece)
            }
            Now::Done(Err(error)) => {
                if read.stream {
                    self.break_stream(read, &error);
                } else {
                    read.long.fail(error, piece.start());
                    self.answer_failed_read(&read.long);
                }
                Pump::Begun
            }
            Now::NotNow if read.next == read.whole.start() && read.whole.len() <= PIECE_MAX => {
                self.begin_read(writer, read.whole);
                Pump::Begun
            }
            Now::NotNow => {
                read.at_once = false;
                Pump::Again
            }
        }
    }

    /// Begins the next piece of a read that is answered in chunks.
    fn pump_chunk(&mut self, read: &mut Outgoing) -> Pump {
        let long = &read.long;
        if !self.admits() {
            return Pump::Blocked;
        }
        let piece = read.piece(PIECE_MAX);
        let data = bowline_io::alloc(lengths(piece.len()).0);
        if data.len() != lengths(piece.len()).0 {
            long.fail(no_memory(), piece.start());
        }
        if long.has_failed() {
            long.all_begun.set(true);
            if long.is_over() {
                self.answer_failed_read(long);
            }
            return Pump::Begun;
        }
        long.under_way.set(long.under_way.get() + 1);
        let purpose = Purpose::ReadPiece { long: long.clone(), offset: piece.start() };
        self.slow.submit(&self.device, Request::new(Op::Read, piece), data, purpose);
        read.advance(piece)
    }

    /// Begins the next piece of a stream, if none is under way.
    fn pump_stream(&mut self, read: &mut Outgoing) -> Pump {
        if read.piece.is_some() || self.output.owned_bytes() >= lengths(PIECE_MAX).0 {
            return Pump::Blocked;
        }
        let piece = read.piece(PIECE_MAX);
        let data = bowline_io::alloc(lengths(piece.len()).0);
        let purpose = Purpose::Read { writer: read.long.writer, offset: piece.start() };
        let request = Request::new(Op::Read, piece);
        read.piece = Some(Box::pin(slow::run(self.device.clone(), request, data, purpose)));
        Pump::Again
    }

    /// Looks after a stream's piece. `None` when there is no stream that keeps other replies from being written.
    pub(super) fn poll_stream(&mut self, cx: &mut Context<'_>) -> Option<bool> {
        let read = self.outgoing.as_mut().filter(|read| read.stream)?;
        let other_replies_wait = read.begun;
        let Some(future) = read.piece.as_mut() else { return other_replies_wait.then_some(false) };
        if self.output.room(REPLY_ROOM).is_none() {
            return Some(false);
        }
        match future.as_mut().poll(cx) {
            Poll::Ready(finished) => {
                let mut read = self.outgoing.take()?;
                read.piece = None;
                if let Pump::Again = self.stream_piece(&mut read, finished) {
                    self.outgoing = Some(read);
                }
                Some(true)
            }
            Poll::Pending => other_replies_wait.then_some(false),
        }
    }

    fn stream_piece(&mut self, read: &mut Outgoing, finished: Finished) -> Pump {
        let piece = read.piece(PIECE_MAX);
        let (length, _) = lengths(piece.len());
        let result = if finished.data.len() == length {
            finished.result
        } else {
            Err(bowline_block::Error::new(bowline_block::ErrorKind::Io, "the read came back short"))
        };
        if let Err(error) = result {
            self.break_stream(read, &error);
            return Pump::Begun;
        }
        if !read.begun {
            self.data_header(&read.long.writer, read.whole.start(), read.whole.len(), true);
            read.begun = true;
        }
        self.output.push(finished.data);
        read.advance(piece)
    }

    /// A stream failed: an error reply if there is still time for one.
    fn break_stream(&mut self, read: &Outgoing, error: &bowline_block::Error) {
        if read.begun {
            tracing::info!(device = self.device.name(), %error, "a read failed after its reply had begun");
            self.ending = Some(Ending::Unanswerable("a read that failed after its reply had begun"));
        } else {
            self.fail(&read.long.writer, error);
        }
    }
}
