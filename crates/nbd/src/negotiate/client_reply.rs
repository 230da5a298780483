//! Option replies as the client reads them, and what they tell of an export.
//!
//! Design notes: nothing is believed. A reply is bounded before it is waited for; names are bounded and must be UTF-8; sizes and
//! block sizes must make sense, because the caller computes with them.

use super::BlockSizes;
use super::client::printable;
use crate::error::ClientError;
use crate::options::{take, text};
use crate::wire::{
    self, BlockSizeHeader, ExportHeader, MAX_OPTION_DATA, MAX_STRING, OptionReplyHeader, TransmissionFlags,
    info, rep,
};
use zerocopy::byteorder::big_endian::U16;

/// One whole option reply.
#[derive(Debug)]
pub(super) struct ReplyFrame<'a> {
    pub(super) option: u32,
    pub(super) reply: u32,
    pub(super) data: &'a [u8],
    /// Bytes of header and data.
    pub(super) size: usize,
}

/// Takes the reply to `option` off the front of `input`; `Err` inside is the bytes needed in all.
pub(super) fn take_reply(option: u32, input: &[u8]) -> Result<Result<ReplyFrame<'_>, usize>, ClientError> {
    let Some((header, rest)) = take::<OptionReplyHeader>(input) else {
        return Ok(Err(OptionReplyHeader::SIZE));
    };
    if header.magic.get() != wire::OPTION_REPLY_MAGIC {
        return Err(ClientError::ReplyMagic(header.magic.get()));
    }
    if header.option.get() != option {
        return Err(ClientError::WrongOption { found: header.option.get(), expected: option });
    }
    let announced = header.length.get();
    let length = usize::try_from(announced).unwrap_or(usize::MAX);
    if length > MAX_OPTION_DATA {
        return Err(ClientError::ReplyTooLong { option, length: announced });
    }
    let size = OptionReplyHeader::SIZE + length;
    match rest.get(..length) {
        Some(data) => Ok(Ok(ReplyFrame { option, reply: header.reply.get(), data, size })),
        None => Ok(Err(size)),
    }
}

impl ReplyFrame<'_> {
    pub(super) fn bad(&self, what: &'static str) -> ClientError {
        ClientError::BadReply { option: self.option, what }
    }

    /// Whether this is an acknowledgement, which has no data.
    pub(super) fn is_ack(&self) -> Result<bool, ClientError> {
        if self.reply != rep::ACK {
            return Ok(false);
        }
        if self.data.is_empty() { Ok(true) } else { Err(self.bad("an acknowledgement with data")) }
    }

    pub(super) fn expect_error(&self) -> Result<(), ClientError> {
        if self.reply & rep::ERROR_BIT != 0 { Ok(()) } else { Err(self.bad("a reply of another type")) }
    }

    pub(super) fn message(&self) -> String {
        if self.data.is_empty() { reason(self.reply).to_owned() } else { printable(self.data) }
    }

    /// The error of a reply that is neither acknowledgement nor information.
    pub(super) fn refused(&self) -> ClientError {
        match self.expect_error() {
            Ok(()) => ClientError::Refused {
                option: self.option,
                reason: reason(self.reply),
                message: self.message(),
            },
            Err(other) => other,
        }
    }

    pub(super) fn refuse_if(&self, reply: u32) -> Result<(), ClientError> {
        if self.reply == reply { Err(self.refused()) } else { Ok(()) }
    }
}

fn reason(reply: u32) -> &'static str {
    match reply {
        rep::ERR_UNSUP => "unsupported",
        rep::ERR_POLICY => "forbidden by policy",
        rep::ERR_INVALID => "invalid",
        rep::ERR_PLATFORM => "not on this platform",
        rep::ERR_TLS_REQD => "TLS required",
        rep::ERR_UNKNOWN => "unknown export",
        rep::ERR_SHUTDOWN => "shutting down",
        rep::ERR_BLOCK_SIZE_REQD => "block sizes required",
        rep::ERR_TOO_BIG => "too big",
        rep::ERR_EXT_HEADER_REQD => "extended headers required",
        _ => "unknown error",
    }
}

/// What the information items told so far.
#[derive(Debug, Default)]
pub(super) struct ExportReplies {
    pub(super) export: Option<(u64, TransmissionFlags)>,
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) blocks: Option<BlockSizes>,
}

impl ExportReplies {
    /// Takes one information item; an unknown one is ignored, as the protocol asks.
    pub(super) fn accept(&mut self, frame: &ReplyFrame<'_>) -> Result<(), ClientError> {
        let (kind, data) = take::<U16>(frame.data).ok_or_else(|| frame.bad("information without a type"))?;
        let bad = |what| frame.bad(what);
        match kind.get() {
            info::EXPORT => {
                let header = whole::<ExportHeader>(data).ok_or_else(|| bad("size of wrong length"))?;
                self.export = Some(check_export(&header).map_err(bad)?);
            }
            info::BLOCK_SIZE => {
                let header =
                    whole::<BlockSizeHeader>(data).ok_or_else(|| bad("block sizes of wrong length"))?;
                self.blocks = Some(check_blocks(&header).map_err(bad)?);
            }
            info::NAME => self.name = Some(string(data).map_err(bad)?),
            info::DESCRIPTION => self.description = Some(string(data).map_err(bad)?),
            _ => {}
        }
        Ok(())
    }
}

fn whole<T: zerocopy::FromBytes>(data: &[u8]) -> Option<T> {
    take::<T>(data).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

fn string(data: &[u8]) -> Result<String, &'static str> {
    if data.len() > MAX_STRING {
        return Err("a string longer than 4096 bytes");
    }
    text(data).map(str::to_owned)
}

pub(super) fn check_export(header: &ExportHeader) -> Result<(u64, TransmissionFlags), &'static str> {
    let size = header.size.get();
    if i64::try_from(size).is_err() {
        return Err("a size beyond 2^63");
    }
    let flags = TransmissionFlags::from_bits_retain(header.flags.get());
    if !flags.contains(TransmissionFlags::HAS_FLAGS) {
        return Err("transmission flags without HAS_FLAGS");
    }
    Ok((size, flags))
}

fn check_blocks(header: &BlockSizeHeader) -> Result<BlockSizes, &'static str> {
    let (minimum, preferred, maximum) = (header.minimum.get(), header.preferred.get(), header.maximum.get());
    if !minimum.is_power_of_two() || minimum > 65536 {
        return Err("a minimum block size that is not a power of two up to 65536");
    }
    if !preferred.is_power_of_two() || preferred < minimum {
        return Err("a preferred block size that is not a power of two from the minimum on");
    }
    if maximum < minimum || (maximum != u32::MAX && !maximum.is_multiple_of(minimum)) {
        return Err("a maximum block size that is no multiple of the minimum");
    }
    Ok(BlockSizes { minimum, preferred, maximum })
}
