//! Receiving: replies in any order, data straight into the buffers it is for.
//!
//! Nothing is believed: a cookie must be one that is out, data must lie within the read it answers, extents are only taken
//! up to the number asked for. What breaks these rules ends the connection.

use bowline_block::{ByteRange, Error, ErrorKind, ExtentKind, Result};
use bowline_nbd::transmission::decode::MAX_REPLY_NEEDED;
use bowline_nbd::wire::allocation;
use bowline_nbd::{Command, Cookie, Extent, ExtentDecoder, ProtocolError, ReplyBody, WireError};

use super::connection::Connection;
use super::durability::Durability;
use super::flight::Flight;

const INPUT_BYTES: usize = 64 << 10;
const _: () = assert!(INPUT_BYTES > MAX_REPLY_NEEDED);
/// Data still to come that is worth a receive of its own, past the input buffer.
const DIRECT_MIN: usize = 8 << 10;

/// Where in the stream of replies the input stands.
#[derive(Clone, Copy)]
enum Stage {
    Head,
    Data { slot: usize, position: usize, remaining: usize, last: bool },
    Extents { slot: usize, decoder: ExtentDecoder, wanted: bool, last: bool },
}

/// What was received and not yet used.
pub(super) struct Inbound {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    stage: Stage,
}

/// What a reply says, apart from the input it was read from.
enum Said {
    Success,
    Failure(Error),
    Data { offset: u64, length: u32 },
    Hole { offset: u64, length: u32 },
    Nothing,
    Extents { decoder: ExtentDecoder, wanted: bool },
}

impl Inbound {
    /// The beginning of the input; the negotiation leaves less than the buffer holds.
    pub(super) fn new(input: &[u8]) -> Self {
        let mut bytes = vec![0; INPUT_BYTES.max(input.len())];
        if let Some(room) = bytes.get_mut(..input.len()) {
            room.copy_from_slice(input);
        }
        Self { bytes, start: 0, end: input.len(), stage: Stage::Head }
    }

    fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room to receive into, behind what is unread.
    fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }
}

fn broken(error: ProtocolError) -> Error {
    Error::new(ErrorKind::Protocol, "the server breaks the protocol").source(error)
}

fn breach(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, why)
}

impl Connection {
    /// Receives once and takes in what came; `false` when there was nothing.
    pub(super) fn receive(&mut self, durability: &mut Durability) -> Result<bool> {
        // What came with the negotiation is here already.
        self.take_in(durability)?;
        if !self.ready.readable() {
            return Ok(false);
        }
        let (received, straight) = match self.inbound.stage {
            Stage::Data { slot, position, remaining, .. }
                if remaining >= DIRECT_MIN && self.inbound.unread().is_empty() =>
            {
                match self.flights.get_mut(slot).and_then(|flight| room_of(flight, position, remaining)) {
                    Some(room) => (self.wire.recv(room), true),
                    None => (self.wire.recv(self.inbound.room()), false),
                }
            }
            _ => (self.wire.recv(self.inbound.room()), false),
        };
        match received {
            Ok(0) => return Err(Error::new(ErrorKind::Gone, "the server hung up")),
            Ok(bytes) if straight => self.data_came(bytes, durability)?,
            Ok(bytes) => self.inbound.end += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.ready.clear_readable();
                return Ok(false);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(Error::from_io("cannot receive", error)),
        }
        self.heard = std::time::Instant::now();
        self.take_in(durability)?;
        Ok(true)
    }

    /// Uses the input as far as it goes.
    fn take_in(&mut self, durability: &mut Durability) -> Result<()> {
        loop {
            let progress = match self.inbound.stage {
                Stage::Head => self.take_head(durability)?,
                Stage::Data { slot, position, remaining, .. } => {
                    let bytes = self.inbound.unread().len().min(remaining);
                    let unread = self.inbound.unread().get(..bytes).unwrap_or_default();
                    let flight = self.flights.get_mut(slot);
                    if let Some(room) = flight.and_then(|flight| room_of(flight, position, bytes)) {
                        room.copy_from_slice(unread);
                    }
                    self.inbound.consume(bytes);
                    self.data_came(bytes, durability)?;
                    bytes > 0
                }
                Stage::Extents { slot, decoder, wanted, last } => {
                    self.take_extent(slot, decoder, wanted, last, durability)?
                }
            };
            if !progress {
                return Ok(());
            }
        }
    }

    fn take_head(&mut self, durability: &mut Durability) -> Result<bool> {
        let (used, reply) = self.form.decode(self.inbound.unread()).map_err(broken)?;
        let Some(reply) = reply else { return Ok(false) };
        let (cookie, last) = (reply.cookie, reply.last);
        let said = match reply.body {
            ReplyBody::Success => Said::Success,
            ReplyBody::Failure { error, message, .. } => Said::Failure(failure(error, message)),
            ReplyBody::Data { offset, length } => Said::Data { offset, length },
            ReplyBody::Hole { offset, length } => Said::Hole { offset, length },
            ReplyBody::None => Said::Nothing,
            ReplyBody::BlockStatus { context, extents } => {
                Said::Extents { decoder: extents, wanted: Some(context) == self.allocation }
            }
        };
        self.inbound.consume(used);
        self.on_reply(cookie, last, said, durability)?;
        Ok(true)
    }

    fn on_reply(
        &mut self,
        cookie: Cookie,
        last: bool,
        said: Said,
        durability: &mut Durability,
    ) -> Result<()> {
        let Some((slot, flight)) = self.flights.find(cookie) else {
            return Err(breach(format!("the server answers a request {:#x} that was not made", cookie.0)));
        };
        if flight.early.is_some() {
            return Err(breach("the server answers a request twice"));
        }
        self.useful = true;
        match (said, flight.command) {
            (Said::Success, Command::Read) => {
                let (start, length) = (flight.offset, flight.length);
                if length > 0 {
                    self.begin_data(slot, start, length, true)?;
                    return Ok(());
                }
            }
            (Said::Data { offset, length }, Command::Read) => {
                self.begin_data(slot, offset, length, last)?;
                return Ok(());
            }
            (Said::Hole { offset, length }, Command::Read) => {
                let position = accept(flight, offset, length)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if let Some(room) = room_of(flight, position, length) {
                    room.fill(0);
                }
            }
            (Said::Extents { decoder, wanted }, Command::BlockStatus) => {
                self.inbound.stage = Stage::Extents { slot, decoder, wanted, last };
                return Ok(());
            }
            (Said::Failure(error), _) => flight.failure = Some(error),
            (Said::Nothing | Said::Success, _) => {}
            _ => return Err(breach("the server sends data for a request that has none")),
        }
        if last { self.complete(slot, durability) } else { Ok(()) }
    }

    /// `length` bytes of data at `offset` follow.
    fn begin_data(&mut self, slot: usize, offset: u64, length: u32, last: bool) -> Result<()> {
        let Some(flight) = self.flights.get_mut(slot) else { return Ok(()) };
        let position = accept(flight, offset, length)?;
        let remaining = usize::try_from(length).unwrap_or(usize::MAX);
        self.inbound.stage = Stage::Data { slot, position, remaining, last };
        Ok(())
    }

    /// So many bytes of the data have been put where they belong.
    fn data_came(&mut self, bytes: usize, durability: &mut Durability) -> Result<()> {
        let Stage::Data { slot, position, remaining, last } = &mut self.inbound.stage else { return Ok(()) };
        *position += bytes;
        *remaining -= bytes;
        if *remaining > 0 {
            return Ok(());
        }
        let (slot, last) = (*slot, *last);
        self.inbound.stage = Stage::Head;
        if last { self.complete(slot, durability) } else { Ok(()) }
    }

    fn take_extent(
        &mut self,
        slot: usize,
        mut decoder: ExtentDecoder,
        wanted: bool,
        last: bool,
        durability: &mut Durability,
    ) -> Result<bool> {
        let Some((used, extent)) = decoder.decode(self.inbound.unread()).map_err(broken)? else {
            return Ok(false);
        };
        self.inbound.consume(used);
        if wanted && let Some(flight) = self.flights.get_mut(slot) {
            push_extent(flight, extent);
        }
        let over = decoder.remaining() == 0;
        self.inbound.stage = if over { Stage::Head } else { Stage::Extents { slot, decoder, wanted, last } };
        if over && last {
            self.complete(slot, durability)?;
        }
        Ok(true)
    }

    /// The last chunk of a reply has been taken in.
    fn complete(&mut self, slot: usize, durability: &mut Durability) -> Result<()> {
        let Some(flight) = self.flights.get_mut(slot) else { return Ok(()) };
        let result = match flight.failure.take() {
            Some(error) => Err(error),
            None => {
                if flight.command == Command::Read {
                    flight.read.finish().map_err(broken)?;
                }
                if let (Command::BlockStatus, Some(call)) = (flight.command, &mut flight.call)
                    && call.extents.as_slice().is_empty()
                {
                    // A server that says nothing of it leaves the answer that is always safe.
                    call.extents.push(call.range, ExtentKind::Data);
                }
                Ok(())
            }
        };
        self.finish(slot, result, durability);
        Ok(())
    }
}

/// Where a chunk of a read goes in its buffer.
fn accept(flight: &mut Flight, offset: u64, length: u32) -> Result<usize> {
    let position = flight.read.accept(offset, length).map_err(broken)?;
    if !flight.cleared && length < flight.length {
        // The chunks to come need not fill the buffer, which may hold another reader's data.
        if let Some(call) = &mut flight.call {
            call.data.fill(0);
        }
    }
    flight.cleared = true;
    usize::try_from(position).map_err(|_| breach("a read beyond this machine's memory"))
}

/// The part of a flight's buffer, unless the flight has timed out.
fn room_of(flight: &mut Flight, position: usize, length: usize) -> Option<&mut [u8]> {
    flight.call.as_mut()?.data.get_mut(position..position.checked_add(length)?)
}

/// Appends an extent where the last one ended, cut to what was asked for.
fn push_extent(flight: &mut Flight, extent: Extent) {
    let Some(call) = &mut flight.call else { return };
    let from = call.extents.as_slice().last().map_or(call.range.start(), |last| last.range.end());
    let range = ByteRange::new(from, extent.length).intersection(call.range);
    let flags = u32::try_from(extent.flags).unwrap_or(0);
    let kind = match (flags & allocation::ZERO != 0, flags & allocation::HOLE != 0) {
        (true, true) => ExtentKind::Hole,
        (true, false) => ExtentKind::Zero,
        // A hole that is not said to read as zeroes may read as anything.
        (false, _) => ExtentKind::Data,
    };
    call.extents.push(range, kind);
}

/// What the server said is wrong; its text is shown escaped and cut.
fn failure(error: WireError, message: &[u8]) -> Error {
    let kind = match error {
        WireError::NotPermitted => ErrorKind::Denied,
        WireError::Io | WireError::NoMemory => ErrorKind::Io,
        WireError::Invalid | WireError::Overflow => ErrorKind::Invalid,
        WireError::NoSpace => ErrorKind::NoSpace,
        WireError::NotSupported => ErrorKind::Unsupported,
        WireError::Shutdown => ErrorKind::Gone,
    };
    let shown = String::from_utf8_lossy(message.get(..message.len().min(200)).unwrap_or_default());
    let shown: String = shown.escape_debug().take(256).collect();
    let why = if shown.is_empty() {
        format!("the server answers: {error}")
    } else {
        format!("the server answers: {error} ({shown})")
    };
    Error::new(kind, why)
}
