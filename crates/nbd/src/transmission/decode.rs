//! Replies as the client reads them.
//!
//! Design notes: [`ReplyForm::decode`] has no state: it looks at the front of the input and yields one header event. Data and
//! extents are not in the event; they follow in the stream, and the event says how many bytes, so that the caller reads them
//! straight to where they belong. A simple reply cannot tell whether data follows: only the caller knows whether the cookie was
//! a read. What a reply claims about a read is held against the request by [`ReadProgress`].

use crate::error::{ProtocolError, WireError};
use crate::meta::ContextId;
use crate::negotiate::ReplyForm;
use crate::options::{take, take_u32};
use crate::wire::{
    self, Cookie, ErrorPayload, ExtendedReply, HolePayload, MAX_PAYLOAD, MAX_STRING, NarrowExtent,
    SimpleReply, StructuredReply, WideExtent, WideStatusPayload, chunk,
};
use zerocopy::byteorder::big_endian::U64;

/// Most extents' bytes in one block status chunk.
pub const MAX_STATUS_PAYLOAD: u64 = 64 << 20;
/// Most bytes [`ReplyForm::decode`] can ask to see at once.
pub const MAX_REPLY_NEEDED: usize = ExtendedReply::SIZE + ErrorPayload::SIZE + MAX_STRING + 8;

/// One extent of a block status reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub length: u64,
    /// The context's flags.
    pub flags: u64,
}

/// The front of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The request it answers.
    pub cookie: Cookie,
    /// No more chunks answer that request.
    pub last: bool,
    /// Offset of the request as the server saw it, in the extended form.
    pub request_offset: Option<u64>,
    /// What it says.
    pub body: ReplyBody<'a>,
}

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyBody<'a> {
    /// Success in the simple form. After a `READ`, all its data follows.
    Success,
    /// Failure. The message may hold anything; show it escaped.
    Failure {
        /// Error number.
        error: WireError,
        /// The server's text.
        message: &'a [u8],
        /// Where it happened, if told.
        offset: Option<u64>,
    },
    /// `length` bytes of data at `offset` follow.
    Data {
        /// Offset in the export.
        offset: u64,
        /// Bytes that follow.
        length: u32,
    },
    /// `length` zeroes at `offset`; nothing follows.
    Hole {
        /// Offset in the export.
        offset: u64,
        /// Number of zeroes.
        length: u32,
    },
    /// Nothing.
    None,
    /// Extents follow; read them through the [`ExtentDecoder`].
    BlockStatus {
        /// Context.
        context: ContextId,
        /// Decoder for what follows.
        extents: ExtentDecoder,
    },
}

struct ChunkHead {
    cookie: Cookie,
    last: bool,
    kind: u16,
    length: u64,
    request_offset: Option<u64>,
    size: usize,
}

impl ReplyForm {
    /// Decodes the reply at the front of `input`: the bytes used and the reply, or `None` with the bytes needed in all.
    ///
    /// # Errors
    /// The stream is lost.
    #[inline]
    pub fn decode(self, input: &[u8]) -> Result<(usize, Option<Reply<'_>>), ProtocolError> {
        let Some((magic, _)) = take_u32(input) else { return Ok((4, None)) };
        let head = match (self, magic) {
            (Self::Simple | Self::Structured, wire::SIMPLE_REPLY_MAGIC) => return Ok(decode_simple(input)),
            (Self::Structured, wire::STRUCTURED_REPLY_MAGIC) => {
                let Some((raw, _)) = take::<StructuredReply>(input) else {
                    return Ok((StructuredReply::SIZE, None));
                };
                ChunkHead {
                    cookie: Cookie(raw.cookie.get()),
                    last: raw.flags.get() & chunk::FLAG_DONE != 0,
                    kind: raw.kind.get(),
                    length: raw.length.get().into(),
                    request_offset: None,
                    size: StructuredReply::SIZE,
                }
            }
            (Self::Extended, wire::EXTENDED_REPLY_MAGIC) => {
                let Some((raw, _)) = take::<ExtendedReply>(input) else {
                    return Ok((ExtendedReply::SIZE, None));
                };
                ChunkHead {
                    cookie: Cookie(raw.cookie.get()),
                    last: raw.flags.get() & chunk::FLAG_DONE != 0,
                    kind: raw.kind.get(),
                    length: raw.length.get(),
                    request_offset: Some(raw.offset.get()),
                    size: ExtendedReply::SIZE,
                }
            }
            (_, other) => return Err(ProtocolError::ReplyMagic(other)),
        };
        let payload = input.get(head.size..).unwrap_or_default();
        decode_chunk(self, &head, payload)
    }
}

#[inline]
fn decode_simple(input: &[u8]) -> (usize, Option<Reply<'_>>) {
    let Some((raw, _)) = take::<SimpleReply>(input) else { return (SimpleReply::SIZE, None) };
    let body = match raw.error.get() {
        0 => ReplyBody::Success,
        code => ReplyBody::Failure { error: WireError::from_code(code), message: &[], offset: None },
    };
    let reply = Reply { cookie: Cookie(raw.cookie.get()), last: true, request_offset: None, body };
    (SimpleReply::SIZE, Some(reply))
}

#[inline]
fn decode_chunk<'a>(
    form: ReplyForm,
    head: &ChunkHead,
    payload: &'a [u8],
) -> Result<(usize, Option<Reply<'a>>), ProtocolError> {
    let bad_length = ProtocolError::ChunkLength { kind: head.kind, length: head.length };
    let (used, body) = match head.kind {
        chunk::NONE if head.length != 0 => return Err(bad_length),
        chunk::NONE if !head.last => return Err(ProtocolError::EmptyNotDone),
        chunk::NONE => (0, ReplyBody::None),
        chunk::OFFSET_DATA => {
            let length = head.length.checked_sub(8).and_then(|length| u32::try_from(length).ok());
            let length = length.filter(|length| (1..=MAX_PAYLOAD).contains(length)).ok_or(bad_length)?;
            let Some((offset, _)) = take::<U64>(payload) else { return Ok((head.size + 8, None)) };
            (8, ReplyBody::Data { offset: offset.get(), length })
        }
        chunk::OFFSET_HOLE => {
            if head.length != 12 {
                return Err(bad_length);
            }
            let Some((raw, _)) = take::<HolePayload>(payload) else { return Ok((head.size + 12, None)) };
            let length = raw.length.get();
            if length == 0 {
                return Err(ProtocolError::ReadRange { offset: raw.offset.get(), length: 0 });
            }
            (12, ReplyBody::Hole { offset: raw.offset.get(), length })
        }
        chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
            let Some((used, context, extents)) = decode_status(form, head, payload)? else {
                let fixed = if head.kind == chunk::BLOCK_STATUS { 4 } else { WideStatusPayload::SIZE };
                return Ok((head.size + fixed, None));
            };
            (used, ReplyBody::BlockStatus { context, extents })
        }
        kind if kind & chunk::ERROR_BIT != 0 => match decode_error(head, payload)? {
            (used, Some(body)) => (used, body),
            (needed, None) => return Ok((head.size + needed, None)),
        },
        kind => return Err(ProtocolError::ChunkType(kind)),
    };
    let reply = Reply { cookie: head.cookie, last: head.last, request_offset: head.request_offset, body };
    Ok((head.size + used, Some(reply)))
}

fn decode_status(
    form: ReplyForm,
    head: &ChunkHead,
    payload: &[u8],
) -> Result<Option<(usize, ContextId, ExtentDecoder)>, ProtocolError> {
    let bad_length = ProtocolError::ChunkLength { kind: head.kind, length: head.length };
    let wide = head.kind == chunk::BLOCK_STATUS_EXT;
    if wide && !form.is_extended() {
        return Err(ProtocolError::ChunkType(head.kind));
    }
    let (fixed, each) = if wide { (8_u64, 16_u64) } else { (4, 8) };
    let remaining = head.length.checked_sub(fixed).ok_or(bad_length)?;
    if remaining == 0 || !remaining.is_multiple_of(each) || remaining > MAX_STATUS_PAYLOAD {
        return Err(bad_length);
    }
    let (used, context) = if wide {
        let Some((raw, _)) = take::<WideStatusPayload>(payload) else { return Ok(None) };
        if u64::from(raw.count.get()) != remaining / each {
            return Err(bad_length);
        }
        (WideStatusPayload::SIZE, raw.context.get())
    } else {
        let Some((context, _)) = take_u32(payload) else { return Ok(None) };
        (4, context)
    };
    Ok(Some((used, ContextId(context), ExtentDecoder { wide, remaining, total: 0 })))
}

/// The bytes used and the body, or the bytes of payload needed.
fn decode_error<'a>(
    head: &ChunkHead,
    payload: &'a [u8],
) -> Result<(usize, Option<ReplyBody<'a>>), ProtocolError> {
    let bad_length = ProtocolError::ChunkLength { kind: head.kind, length: head.length };
    let total = usize::try_from(head.length).map_err(|_| bad_length)?;
    if !(ErrorPayload::SIZE..=ErrorPayload::SIZE + MAX_STRING + 8).contains(&total) {
        return Err(bad_length);
    }
    let Some(payload) = payload.get(..total) else { return Ok((total, None)) };
    let (raw, rest) = take::<ErrorPayload>(payload).ok_or(bad_length)?;
    if raw.error.get() == 0 {
        return Err(ProtocolError::ErrorZero);
    }
    let (message, tail) = rest.split_at_checked(raw.message_length.get().into()).ok_or(bad_length)?;
    let offset = take::<U64>(tail).map(|(offset, _)| offset.get());
    let fits = match head.kind {
        chunk::ERROR => tail.is_empty(),
        chunk::ERROR_OFFSET => tail.len() == 8,
        // An error type of the future: only its common prefix is known.
        _ => true,
    };
    if !fits {
        return Err(bad_length);
    }
    let offset = offset.filter(|_| head.kind == chunk::ERROR_OFFSET);
    let error = WireError::from_code(raw.error.get());
    Ok((total, Some(ReplyBody::Failure { error, message, offset })))
}

/// Decodes the extents of one block status chunk as their bytes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentDecoder {
    wide: bool,
    remaining: u64,
    total: u64,
}

impl ExtentDecoder {
    /// Bytes of extents still to come.
    #[inline]
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Decodes one extent at the front of `input`: the bytes used and the extent; `None` when there are too few bytes,
    /// or no extent is left.
    ///
    /// # Errors
    /// An extent is empty, or their lengths overflow.
    pub fn decode(&mut self, input: &[u8]) -> Result<Option<(usize, Extent)>, ProtocolError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let (size, extent) = if self.wide {
            let Some((raw, _)) = take::<WideExtent>(input) else { return Ok(None) };
            (WideExtent::SIZE, Extent { length: raw.length.get(), flags: raw.flags.get() })
        } else {
            let Some((raw, _)) = take::<NarrowExtent>(input) else { return Ok(None) };
            let extent = Extent { length: raw.length.get().into(), flags: raw.flags.get().into() };
            (NarrowExtent::SIZE, extent)
        };
        self.total = self.total.checked_add(extent.length).ok_or(ProtocolError::Extent)?;
        if extent.length == 0 {
            return Err(ProtocolError::Extent);
        }
        let used = if self.wide { 16 } else { 8 };
        self.remaining = self.remaining.saturating_sub(used);
        Ok(Some((size, extent)))
    }
}

/// One read under way at the client: where its chunks go in its buffer, and whether all have come.
///
/// It counts bytes and does not remember which: a server that sends one range twice and another never leaves that other
/// part of the buffer as it was, so a buffer must not hold another reader's data before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadProgress {
    offset: u64,
    length: u32,
    seen: u32,
}

impl ReadProgress {
    /// A read of `length` bytes at `offset`, nothing of it come yet.
    #[inline]
    #[must_use]
    pub const fn new(offset: u64, length: u32) -> Self {
        Self { offset, length, seen: 0 }
    }

    /// Takes a chunk of data or hole: its position in the buffer, in bytes.
    ///
    /// # Errors
    /// It is outside the read, or there was more than the read asked for.
    #[inline]
    pub fn accept(&mut self, offset: u64, length: u32) -> Result<u32, ProtocolError> {
        let outside = ProtocolError::ReadRange { offset, length: length.into() };
        let position = offset.checked_sub(self.offset).ok_or(outside)?;
        let position = u32::try_from(position).map_err(|_| outside)?;
        let end = position.checked_add(length).ok_or(outside)?;
        let seen = self.seen.checked_add(length).ok_or(outside)?;
        if end > self.length || seen > self.length {
            return Err(outside);
        }
        self.seen = seen;
        Ok(position)
    }

    /// Tells that the reply is complete and was no error.
    ///
    /// # Errors
    /// Bytes are missing.
    #[inline]
    pub fn finish(&self) -> Result<(), ProtocolError> {
        match self.length - self.seen {
            0 => Ok(()),
            missing => Err(ProtocolError::ReadShort { missing: missing.into() }),
        }
    }
}
