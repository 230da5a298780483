//! Writes too long to wait for all of their data: they go to the device as it comes, and are answered once.

use std::rc::Rc;

use bowline_block::{Buf, ByteRange, Flags, Now, Op, Request, Store};
use bowline_nbd::{ReplyWriter, RequestHead, WireError};

use super::answer::no_memory;
use super::session::{Session, Step, WHOLE_WRITE_MAX, lengths};
use super::slow::{Long, Purpose};

/// Pieces of a long write that the device does not take at once.
const PIECE_MAX: u64 = 1 << 20;
/// Pieces are cut at multiples of this, the largest block size.
const PIECE_UNIT: usize = 4096;

/// A payload that is being received.
pub(super) enum Incoming {
    /// Of a request that was refused.
    Skip {
        /// Answers it.
        writer: ReplyWriter,
        /// With this.
        error: WireError,
        /// Bytes still to come.
        remaining: u64,
    },
    /// Of a long write.
    Write(LongWrite),
}

pub(super) struct LongWrite {
    long: Rc<Long>,
    flags: Flags,
    /// Where the next byte of payload goes.
    next: u64,
    /// Bytes that have not been given to the device.
    remaining: u64,
    /// The device answered at once so far.
    at_once: bool,
    /// A piece that is being filled, and how far it is.
    piece: Option<(Buf, usize)>,
}

impl Incoming {
    /// Most that is skipped to keep a connection.
    pub(super) const SKIP_MAX: u64 = 64 << 20;

    pub(super) fn write(writer: ReplyWriter, head: &RequestHead, flags: Flags) -> Self {
        Self::Write(LongWrite {
            long: Long::new(writer),
            flags,
            next: head.offset,
            remaining: head.length,
            at_once: true,
            piece: None,
        })
    }
}

impl LongWrite {
    fn passed(&mut self, count: usize) {
        let count = count as u64;
        self.next = self.next.saturating_add(count);
        self.remaining = self.remaining.saturating_sub(count);
    }

    fn request(&self, length: usize) -> Request {
        Request::new(Op::Write, ByteRange::new(self.next, length as u64)).with_flags(self.flags)
    }
}

impl Session {
    /// Takes payload.
    pub(super) fn payload(&mut self, bytes: &[u8]) -> Step {
        if self.output.room(super::session::REPLY_ROOM).is_none() {
            return Step::Blocked;
        }
        match self.incoming.take() {
            Some(Incoming::Skip { writer, error, remaining }) => {
                self.skip(writer, error, remaining, bytes.len())
            }
            Some(Incoming::Write(mut write)) => {
                let step = self.write_on(&mut write, bytes);
                if write.remaining > 0 {
                    self.incoming = Some(Incoming::Write(write));
                } else {
                    write.long.all_begun.set(true);
                    self.answer_write(&write.long);
                }
                step
            }
            None => Step::Used(0),
        }
    }

    fn skip(&mut self, writer: ReplyWriter, error: WireError, remaining: u64, available: usize) -> Step {
        let count = available.min(lengths(remaining).0);
        let remaining = remaining - count as u64;
        if remaining == 0 {
            self.refuse_with(&writer, error, "the write was refused");
            return Step::Used(count);
        }
        self.incoming = Some(Incoming::Skip { writer, error, remaining });
        if count == 0 { Step::NeedMore } else { Step::Used(count) }
    }

    fn write_on(&mut self, write: &mut LongWrite, bytes: &[u8]) -> Step {
        let (remaining, _) = lengths(write.remaining);
        if write.long.has_failed() {
            // What follows a failure is taken off the wire and forgotten.
            if let Some((_, filled)) = write.piece.take() {
                write.passed(filled);
                return Step::Used(0);
            }
            let count = bytes.len().min(remaining);
            write.passed(count);
            return if count == 0 { Step::NeedMore } else { Step::Used(count) };
        }
        if !write.at_once {
            return self.fill_piece(write, bytes);
        }
        let available = bytes.len().min(remaining).min(lengths(PIECE_MAX).0);
        let length = if available == remaining { available } else { available - available % PIECE_UNIT };
        if length < remaining.min(lengths(WHOLE_WRITE_MAX).0) {
            return Step::NeedMore;
        }
        let data = bytes.get(..length).unwrap_or_default();
        match self.device.write_now(write.request(length).range, data, write.flags) {
            Now::Done(result) => {
                if let Err(error) = result {
                    write.long.fail(error, write.next);
                }
                write.passed(length);
                Step::Used(length)
            }
            Now::NotNow => {
                write.at_once = false;
                Step::Used(0)
            }
        }
    }

    /// Copies payload into a piece of its own, and sends that to the device when it is full.
    fn fill_piece(&mut self, write: &mut LongWrite, bytes: &[u8]) -> Step {
        if write.piece.is_none() {
            if !self.admits() {
                return Step::Blocked;
            }
            let length = lengths(write.remaining.min(PIECE_MAX)).0;
            let buf = bowline_io::alloc(length);
            if buf.len() != length {
                write.long.fail(no_memory(), write.next);
                return Step::Used(0);
            }
            write.piece = Some((buf, 0));
        }
        let Some((buf, filled)) = &mut write.piece else { return Step::Used(0) };
        let room = buf.get_mut(*filled..).unwrap_or_default();
        let count = room.len().min(bytes.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..count), bytes.get(..count)) {
            room.copy_from_slice(bytes);
        }
        *filled += count;
        if *filled == buf.len() {
            self.begin_piece(write);
        } else if count == 0 {
            return Step::NeedMore;
        }
        Step::Used(count)
    }

    fn begin_piece(&mut self, write: &mut LongWrite) {
        let Some((buf, length)) = write.piece.take() else { return };
        write.long.under_way.set(write.long.under_way.get() + 1);
        let purpose = Purpose::WritePiece { long: write.long.clone(), offset: write.next };
        self.slow.submit(&self.device, write.request(length), buf, purpose);
        write.passed(length);
    }

    /// Where payload may be received without a copy.
    pub(super) fn payload_room(&mut self) -> Option<&mut [u8]> {
        match &mut self.incoming {
            Some(Incoming::Write(LongWrite { piece: Some((buf, filled)), .. })) => buf.get_mut(*filled..),
            _ => None,
        }
    }

    /// So many bytes of that were received.
    pub(super) fn payload_received(&mut self, count: usize) {
        if let Some(Incoming::Write(LongWrite { piece: Some((buf, filled)), .. })) = &mut self.incoming {
            *filled = (*filled + count).min(buf.len());
        }
    }
}
