//! Sending: headers and small payloads gathered in one buffer, a large payload straight from its own.

use std::io::IoSlice;

use bowline_block::{Error, ErrorKind, Result};
use bowline_nbd::wire::ExtendedRequest;
use bowline_nbd::{Command, CommandFlags, Cookie, ReplyForm, RequestHead};

use super::connection::Connection;
use super::durability::Durability;
use super::flight::Flight;

/// Bytes gathered before they are sent.
const GATHER_BYTES: usize = 128 << 10;
/// Payloads up to this are copied, which is cheaper than a send of their own.
const COPIED_MAX: usize = 16 << 10;

/// A payload that is sent from its own buffer.
struct Direct {
    slot: usize,
    sent: usize,
}

/// What is to be sent.
#[derive(Default)]
pub(super) struct Outbound {
    gathered: Vec<u8>,
    sent: usize,
    direct: Option<Direct>,
}

impl Outbound {
    pub(super) fn is_empty(&self) -> bool {
        self.gathered.len() == self.sent && self.direct.is_none()
    }

    pub(super) fn has_room(&self) -> bool {
        self.direct.is_none() && self.gathered.len() < GATHER_BYTES
    }

    /// Whether part of that flight's payload is still to be sent from its buffer.
    pub(super) fn is_sending(&self, slot: usize) -> bool {
        self.direct.as_ref().is_some_and(|direct| direct.slot == slot)
    }

    /// Appends a request.
    pub(super) fn put(&mut self, slot: usize, flight: &Flight, form: ReplyForm) -> Result<()> {
        let Some(call) = &flight.call else { return Ok(()) };
        let payload = if call.command == Command::Write { &*call.data } else { &[] };
        let mut flags = call.flags;
        flags.set(CommandFlags::PAYLOAD_LEN, form.is_extended() && call.command == Command::Write);
        let head = RequestHead {
            flags,
            command: call.command,
            cookie: flight.cookie,
            offset: call.range.start(),
            length: call.range.len(),
        };
        self.put_head(&head, form)?;
        if payload.len() <= COPIED_MAX {
            self.gathered.extend_from_slice(payload);
        } else {
            self.direct = Some(Direct { slot, sent: 0 });
        }
        Ok(())
    }

    fn put_head(&mut self, head: &RequestHead, form: ReplyForm) -> Result<()> {
        let mut room = [0; ExtendedRequest::SIZE];
        let size = head
            .encode(&mut room, form.is_extended())
            .map_err(|_| Error::new(ErrorKind::Invalid, "the request is too long for the connection"))?;
        self.gathered.extend_from_slice(room.get(..size).unwrap_or_default());
        Ok(())
    }

    /// Notes that so many bytes were sent; the slot whose payload is now all gone.
    fn advance(&mut self, bytes: usize, payload: usize) -> Option<usize> {
        let gathered = bytes.min(self.gathered.len() - self.sent);
        self.sent += gathered;
        if self.sent == self.gathered.len() {
            self.gathered.clear();
            self.sent = 0;
        }
        let direct = self.direct.as_mut()?;
        direct.sent += bytes - gathered;
        let slot = direct.slot;
        if direct.sent < payload {
            return None;
        }
        self.direct = None;
        Some(slot)
    }
}

impl Connection {
    /// Sends as far as the socket takes it.
    pub(super) fn send(&mut self, durability: &mut Durability) -> Result<()> {
        while self.ready.writable() && !self.outbound.is_empty() {
            let gathered = self.outbound.gathered.get(self.outbound.sent..).unwrap_or_default();
            let payload: &[u8] = match &self.outbound.direct {
                None => &[],
                Some(direct) => match self.flights.get_mut(direct.slot) {
                    Some(Flight { call: Some(call), .. }) => &call.data,
                    _ => return Err(Error::new(ErrorKind::Io, "a payload was given up half sent")),
                },
            };
            let skip = self.outbound.direct.as_ref().map_or(0, |direct| direct.sent);
            let parts = [IoSlice::new(gathered), IoSlice::new(payload.get(skip..).unwrap_or_default())];
            let length = payload.len();
            let sent = self.wire.send(&parts);
            if let Some(bytes) = self.unless_full(sent)? {
                let all_sent = self.outbound.advance(bytes, length);
                self.payload_sent(all_sent, durability);
            }
        }
        while self.ready.writable() && self.wire.wants_send() {
            let flushed = self.wire.flush();
            self.unless_full(flushed)?;
        }
        if self.outbound.is_empty() && !self.wire.wants_send() {
            self.ready.done_writing();
        }
        Ok(())
    }

    /// `None` when it is to be tried again, at once or when the socket has room.
    fn unless_full<T>(&self, sent: std::io::Result<T>) -> Result<Option<T>> {
        match sent {
            Ok(sent) => Ok(Some(sent)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.ready.clear_writable();
                Ok(None)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(Error::from_io("cannot send", error)),
        }
    }

    /// A payload is all sent: if its reply is here already, the call has ended.
    fn payload_sent(&mut self, slot: Option<usize>, durability: &mut Durability) {
        let Some(slot) = slot else { return };
        let early = self.flights.get_mut(slot).and_then(|flight| flight.early.take());
        if let Some(result) = early {
            self.finish(slot, result, durability);
        }
    }

    /// Says goodbye, if the socket takes it now and nothing is half sent.
    pub(super) fn disconnect(&mut self) {
        if !self.outbound.is_empty() {
            return;
        }
        let head = RequestHead {
            flags: CommandFlags::empty(),
            command: Command::Disconnect,
            cookie: Cookie(0),
            offset: 0,
            length: 0,
        };
        if self.outbound.put_head(&head, self.form).is_ok() {
            let _ = self.wire.send(&[IoSlice::new(&self.outbound.gathered)]);
        }
    }
}
