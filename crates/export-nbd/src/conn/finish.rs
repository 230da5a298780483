//! What a request of the slow path is answered when it has ended.

use std::rc::Rc;

use bowline_block::{Buf, Error};
use bowline_nbd::{ReplyForm, ReplyWriter};

use super::answer::{is_zero, wire_error};
use super::session::{REPLY_ROOM, Session, lengths};
use super::slow::{Finished, Long, Purpose};

/// Zeroes from this length on are sent as a hole.
const HOLE_MIN: usize = 32 << 10;

impl Session {
    /// Answers a request; there is [`REPLY_ROOM`].
    pub(super) fn finish(&mut self, finished: Finished) {
        let Finished { purpose, result, data, .. } = finished;
        match purpose {
            Purpose::Plain { writer } => match result {
                Ok(()) => self.done(&writer),
                Err(error) => self.fail(&writer, &error),
            },
            Purpose::Ready => self.output.push(data),
            Purpose::Read { writer, offset } => match result {
                Ok(()) => self.send_data(&writer, offset, data, true),
                Err(error) => self.fail(&writer, &error),
            },
            Purpose::ReadPiece { long, offset } => {
                self.finish_read_piece(&long, offset, result.map(|()| data));
            }
            Purpose::WritePiece { long, offset } => {
                long.under_way.set(long.under_way.get().saturating_sub(1));
                if let Err(error) = result {
                    long.fail(error, offset);
                }
                self.answer_write(&long);
            }
        }
    }

    fn finish_read_piece(&mut self, long: &Rc<Long>, offset: u64, result: Result<Buf, Error>) {
        long.under_way.set(long.under_way.get().saturating_sub(1));
        match result {
            Ok(data) if !long.has_failed() => self.send_data(&long.writer, offset, data, long.is_over()),
            Ok(_) => {}
            Err(error) => long.fail(error, offset),
        }
        if long.is_over() && long.has_failed() {
            self.answer_failed_read(long);
        }
    }

    /// The last chunk of a read of which a piece failed.
    pub(super) fn answer_failed_read(&mut self, long: &Long) {
        if let Some((error, offset)) = long.failure.take() {
            self.fail_at(&long.writer, &error, offset);
        }
    }

    /// Answers a long write if it is over.
    pub(super) fn answer_write(&mut self, long: &Long) {
        if !long.is_over() {
            return;
        }
        match long.failure.take() {
            None => self.done(&long.writer),
            Some((error, offset)) => self.fail_at(&long.writer, &error, offset),
        }
    }

    fn fail_at(&mut self, writer: &ReplyWriter, error: &Error, offset: u64) {
        tracing::debug!(device = self.device.name(), %error, "request failed");
        self.note_gone(error);
        if let Some(room) = self.output.room(REPLY_ROOM)
            && let Ok(count) = writer.error_at(room, wire_error(error), &error.to_string(), offset)
        {
            self.output.commit(count);
        }
    }

    fn send_data(&mut self, writer: &ReplyWriter, offset: u64, data: Buf, last: bool) {
        let simple = self.limits.form == ReplyForm::Simple;
        if !simple && data.len() >= HOLE_MIN && is_zero(&data) {
            if let Some(room) = self.output.room(REPLY_ROOM)
                && let Ok(count) = writer.hole(room, offset, lengths(data.len() as u64).1, last)
            {
                self.output.commit(count);
            }
            return;
        }
        self.data_header(writer, offset, data.len() as u64, last);
        self.output.push(data);
    }

    pub(super) fn data_header(&mut self, writer: &ReplyWriter, offset: u64, length: u64, last: bool) {
        if let Some(room) = self.output.room(REPLY_ROOM)
            && let Ok(count) = writer.data(room, offset, lengths(length).1, last)
        {
            self.output.commit(count);
        }
    }
}
