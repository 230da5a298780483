//! Requests: the header, encoded and decoded, and the check that answers a bad one.
//!
//! Design notes: [`RequestHead::parse`] fails only where the stream itself is lost (a wrong magic). A request that
//! is merely wrong is answered with the error number the protocol names for it, after its payload was skipped:
//! [`RequestHead::payload_length`] tells how much follows whatever else is wrong with the request.

use super::reply::NoRoom;
use crate::error::{ProtocolError, WireError};
use crate::meta::{ContextId, MAX_CONTEXTS};
use crate::negotiate::{BlockSizes, ReplyForm};
use crate::options::{take, take_u32};
use crate::wire::{self, Command, CommandFlags, CompactRequest, Cookie, ExtendedRequest, TransmissionFlags};
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::U64;

/// Most data a server answers to a `READ` with `DF` in one chunk, at least 64 KiB by the protocol.
pub const MAX_UNFRAGMENTED: u32 = 2 << 20;
/// Longest payload of a `BLOCK_STATUS` that filters contexts, in bytes.
pub const MAX_STATUS_FILTER: usize = 8 + 4 * MAX_CONTEXTS;

/// The header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// Flags, unknown bits included.
    pub flags: CommandFlags,
    /// What is asked for.
    pub command: Command,
    /// The client's name for it.
    pub cookie: Cookie,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes; with `PAYLOAD_LEN` the payload's length.
    pub length: u64,
}

impl RequestHead {
    /// Parses the header at the front of `input`: the header and its size, or `None` when there are too few bytes.
    ///
    /// # Errors
    /// The magic is wrong: the stream is lost.
    #[inline]
    pub fn parse(input: &[u8], extended: bool) -> Result<Option<(Self, usize)>, ProtocolError> {
        if extended {
            let Some((raw, _)) = take::<ExtendedRequest>(input) else {
                return incomplete(input, wire::EXTENDED_REQUEST_MAGIC);
            };
            expect_magic(raw.magic.get(), wire::EXTENDED_REQUEST_MAGIC)?;
            let head = Self {
                flags: CommandFlags::from_bits_retain(raw.flags.get()),
                command: Command::from_code(raw.command.get()),
                cookie: Cookie(raw.cookie.get()),
                offset: raw.offset.get(),
                length: raw.length.get(),
            };
            Ok(Some((head, ExtendedRequest::SIZE)))
        } else {
            let Some((raw, _)) = take::<CompactRequest>(input) else {
                return incomplete(input, wire::REQUEST_MAGIC);
            };
            expect_magic(raw.magic.get(), wire::REQUEST_MAGIC)?;
            let head = Self {
                flags: CommandFlags::from_bits_retain(raw.flags.get()),
                command: Command::from_code(raw.command.get()),
                cookie: Cookie(raw.cookie.get()),
                offset: raw.offset.get(),
                length: raw.length.get().into(),
            };
            Ok(Some((head, CompactRequest::SIZE)))
        }
    }

    /// Writes the header to the front of `out` and returns its size.
    ///
    /// # Errors
    /// `out` is shorter than the header, or a compact header cannot hold the length.
    #[inline]
    pub fn encode(&self, out: &mut [u8], extended: bool) -> Result<usize, NoRoom> {
        if extended {
            let raw = ExtendedRequest {
                magic: wire::EXTENDED_REQUEST_MAGIC.into(),
                flags: self.flags.bits().into(),
                command: self.command.code().into(),
                cookie: self.cookie.0.into(),
                offset: self.offset.into(),
                length: self.length.into(),
            };
            raw.write_to_prefix(out).map_err(|_| NoRoom)?;
            Ok(ExtendedRequest::SIZE)
        } else {
            let raw = CompactRequest {
                magic: wire::REQUEST_MAGIC.into(),
                flags: self.flags.bits().into(),
                command: self.command.code().into(),
                cookie: self.cookie.0.into(),
                offset: self.offset.into(),
                length: u32::try_from(self.length).map_err(|_| NoRoom)?.into(),
            };
            raw.write_to_prefix(out).map_err(|_| NoRoom)?;
            Ok(CompactRequest::SIZE)
        }
    }

    /// Bytes of payload that follow the header. A caller closes the connection rather than skip more than it likes.
    ///
    /// A `WRITE` always carries its data, also from an extended client that forgot `PAYLOAD_LEN`.
    #[inline]
    #[must_use]
    pub fn payload_length(&self, extended: bool) -> u64 {
        let flagged = extended && self.flags.contains(CommandFlags::PAYLOAD_LEN);
        if flagged || self.command == Command::Write { self.length } else { 0 }
    }
}

/// Too few bytes: a wrong magic is told at once, or a client of the shorter form would be waited for in vain.
#[cold]
fn incomplete(input: &[u8], magic: u32) -> Result<Option<(RequestHead, usize)>, ProtocolError> {
    take_u32(input).map_or(Ok(None), |(found, _)| expect_magic(found, magic).map(|()| None))
}

#[inline]
fn expect_magic(found: u32, expected: u32) -> Result<(), ProtocolError> {
    if found == expected { Ok(()) } else { Err(ProtocolError::RequestMagic { found, expected }) }
}

/// What requests of one connection must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Size of the export in bytes.
    pub size: u64,
    /// Block size constraints told to the client.
    pub blocks: BlockSizes,
    /// Transmission flags told to the client.
    pub flags: TransmissionFlags,
    /// What was negotiated.
    pub form: ReplyForm,
    /// Whether any metadata context was selected.
    pub has_contexts: bool,
}

impl RequestLimits {
    /// Checks a request against these limits, in the order flags, permission, range. `Disconnect` always passes.
    /// A `BLOCK_STATUS` with a payload is checked here for its form; its range is checked with
    /// [`RequestLimits::check_status_range`] once the payload is read.
    ///
    /// # Errors
    /// The error number to answer with.
    #[inline]
    pub fn check(&self, head: &RequestHead) -> Result<(), WireError> {
        match head.command {
            Command::Disconnect => Ok(()),
            Command::Read => {
                self.check_flags(head, CommandFlags::DF, TransmissionFlags::empty())?;
                self.check_range(head, WireError::Invalid)?;
                if head.length > u64::from(self.blocks.maximum) {
                    return Err(WireError::Invalid);
                }
                if head.flags.contains(CommandFlags::DF) && head.length > u64::from(MAX_UNFRAGMENTED) {
                    return Err(WireError::Overflow);
                }
                Ok(())
            }
            Command::Write => {
                self.check_flags(head, CommandFlags::PAYLOAD_LEN, TransmissionFlags::empty())?;
                self.check_writable()?;
                if head.length > u64::from(self.blocks.maximum) {
                    return Err(WireError::Invalid);
                }
                self.check_range(head, WireError::NoSpace)
            }
            _ => self.check_rare(head),
        }
    }

    fn check_rare(&self, head: &RequestHead) -> Result<(), WireError> {
        match head.command {
            Command::Flush => {
                self.check_flags(head, CommandFlags::empty(), TransmissionFlags::SEND_FLUSH)?;
                if head.offset != 0 || head.length != 0 { Err(WireError::Invalid) } else { Ok(()) }
            }
            Command::Trim => {
                self.check_flags(head, CommandFlags::empty(), TransmissionFlags::SEND_TRIM)?;
                self.check_writable()?;
                self.check_range(head, WireError::Invalid)
            }
            Command::WriteZeroes => {
                let allowed = CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO;
                self.check_flags(head, allowed, TransmissionFlags::SEND_WRITE_ZEROES)?;
                self.check_writable()?;
                self.check_range(head, WireError::NoSpace)
            }
            Command::Cache => {
                self.check_flags(head, CommandFlags::empty(), TransmissionFlags::SEND_CACHE)?;
                self.check_range(head, WireError::Invalid)
            }
            Command::BlockStatus => {
                let allowed = CommandFlags::REQ_ONE | CommandFlags::PAYLOAD_LEN;
                self.check_flags(head, allowed, TransmissionFlags::empty())?;
                if !self.has_contexts {
                    return Err(WireError::Invalid);
                }
                if head.flags.contains(CommandFlags::PAYLOAD_LEN) {
                    return check_filter_length(head.length);
                }
                self.check_range(head, WireError::Invalid)
            }
            _ => Err(WireError::Invalid),
        }
    }

    /// Checks the range of a `BLOCK_STATUS` whose length came in its payload.
    ///
    /// # Errors
    /// The error number to answer with.
    pub fn check_status_range(&self, offset: u64, length: u64) -> Result<(), WireError> {
        self.check_bounds(offset, length, WireError::Invalid)
    }

    /// Flags the command may carry, given what was negotiated; and what the export must have offered.
    #[inline]
    fn check_flags(
        &self,
        head: &RequestHead,
        allowed: CommandFlags,
        offered: TransmissionFlags,
    ) -> Result<(), WireError> {
        if !self.flags.contains(offered) {
            return Err(WireError::Invalid);
        }
        if head.flags.is_empty() {
            return Ok(());
        }
        let mut allowed = allowed;
        // FUA is accepted on every command once offered, also where it means nothing.
        allowed.set(CommandFlags::FUA, self.flags.contains(TransmissionFlags::SEND_FUA));
        if self.form == ReplyForm::Simple {
            allowed.remove(CommandFlags::DF);
        }
        if !self.form.is_extended() {
            allowed.remove(CommandFlags::PAYLOAD_LEN);
        }
        if !self.flags.contains(TransmissionFlags::SEND_FAST_ZERO) {
            allowed.remove(CommandFlags::FAST_ZERO);
        }
        if head.flags.bits() & !allowed.bits() == 0 { Ok(()) } else { Err(WireError::Invalid) }
    }

    #[inline]
    fn check_writable(&self) -> Result<(), WireError> {
        if self.flags.contains(TransmissionFlags::READ_ONLY) { Err(WireError::NotPermitted) } else { Ok(()) }
    }

    #[inline]
    fn check_range(&self, head: &RequestHead, beyond: WireError) -> Result<(), WireError> {
        self.check_bounds(head.offset, head.length, beyond)
    }

    #[inline]
    fn check_bounds(&self, offset: u64, length: u64, beyond: WireError) -> Result<(), WireError> {
        let end = offset.checked_add(length).ok_or(beyond)?;
        if end > self.size {
            return Err(beyond);
        }
        // `minimum` is a power of two.
        let mask = u64::from(self.blocks.minimum).saturating_sub(1);
        if length == 0 || (offset | length) & mask != 0 {
            return Err(WireError::Invalid);
        }
        Ok(())
    }
}

fn check_filter_length(length: u64) -> Result<(), WireError> {
    let longest = u64::try_from(MAX_STATUS_FILTER).unwrap_or(0);
    if (8..=longest).contains(&length) && length.is_multiple_of(4) { Ok(()) } else { Err(WireError::Invalid) }
}

/// The payload of a `BLOCK_STATUS` with `PAYLOAD_LEN`: the range's length, and the contexts wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockStatusFilter<'a> {
    /// How much is asked about, in bytes.
    pub length: u64,
    ids: &'a [u8],
}

impl<'a> BlockStatusFilter<'a> {
    /// Parses a whole payload.
    ///
    /// # Errors
    /// The error number to answer with.
    pub fn parse(payload: &'a [u8]) -> Result<Self, WireError> {
        check_filter_length(u64::try_from(payload.len()).unwrap_or(u64::MAX))?;
        let (length, ids) = take::<U64>(payload).ok_or(WireError::Invalid)?;
        Ok(Self { length: length.get(), ids })
    }

    /// The contexts asked for, as sent: the caller answers an unknown or repeated one with `EINVAL`.
    pub fn contexts(&self) -> impl Iterator<Item = ContextId> + 'a {
        self.ids.chunks_exact(4).filter_map(|id| take_u32(id).map(|(id, _)| ContextId(id)))
    }

    /// Appends a payload for the client.
    pub fn encode(out: &mut Vec<u8>, length: u64, contexts: &[ContextId]) {
        out.extend_from_slice(&length.to_be_bytes());
        for context in contexts {
            out.extend_from_slice(&context.0.to_be_bytes());
        }
    }
}
