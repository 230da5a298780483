//! Replies: what the server writes in front of, or instead of, data.
//!
//! Design notes: [`ReplyWriter`] knows the negotiated form and the request, so that the caller says *what* it
//! answers and never how it is framed. Every method writes to the front of the caller's buffer and returns the number of
//! bytes; [`MAX_HEADER`] is room enough for any header, [`MAX_ERROR`] for any error with its text.

use super::decode::Extent;
use super::request::RequestHead;
use crate::error::WireError;
use crate::meta::ContextId;
use crate::negotiate::ReplyForm;
use crate::options::cut;
use crate::wire::{
    self, Command, Cookie, ErrorPayload, ExtendedReply, HolePayload, NarrowExtent, SimpleReply,
    StructuredReply, WideExtent, WideStatusPayload, chunk,
};
use thiserror::Error;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

/// Size of a simple reply.
pub const SIMPLE_HEADER: usize = SimpleReply::SIZE;
/// Size of a structured chunk header.
pub const STRUCTURED_HEADER: usize = StructuredReply::SIZE;
/// Size of an extended chunk header.
pub const EXTENDED_HEADER: usize = ExtendedReply::SIZE;
/// Room for the header of any chunk with its fixed payload: data offset, or hole offset and length.
pub const MAX_HEADER: usize = EXTENDED_HEADER + HolePayload::SIZE;
/// Longest error text that is sent, in bytes.
pub const MAX_ERROR_TEXT: usize = 256;
/// Room for any error chunk with its text.
pub const MAX_ERROR: usize = EXTENDED_HEADER + ErrorPayload::SIZE + MAX_ERROR_TEXT + 8;
/// Longest length a 32-bit extent is given, a multiple of every block size offered.
pub const MAX_NARROW_EXTENT: u32 = u32::MAX - 65535;

/// The caller's buffer is too short, or a value does not fit the negotiated header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no room for an NBD header")]
pub struct NoRoom;

/// Writes replies to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyWriter {
    form: ReplyForm,
    command: Command,
    cookie: Cookie,
    offset: u64,
}

impl ReplyWriter {
    /// A writer for the replies to `head`.
    #[inline]
    #[must_use]
    pub const fn new(form: ReplyForm, head: &RequestHead) -> Self {
        Self { form, command: head.command, cookie: head.cookie, offset: head.offset }
    }

    /// The whole reply to a request that succeeded and has no data: anything but `READ` and `BLOCK_STATUS`.
    ///
    /// # Errors
    /// No room.
    #[inline]
    pub fn done(&self, out: &mut [u8]) -> Result<usize, NoRoom> {
        if self.form.is_extended() { self.none(out) } else { self.simple(out, 0) }
    }

    /// The header in front of `length` bytes of read data that begin at `offset` of the export. In the simple form
    /// there is one for the whole read and `offset` and `last` do not count.
    ///
    /// # Errors
    /// No room.
    #[inline]
    pub fn data(&self, out: &mut [u8], offset: u64, length: u32, last: bool) -> Result<usize, NoRoom> {
        if self.form == ReplyForm::Simple {
            return self.simple(out, 0);
        }
        let at = self.chunk(out, chunk::OFFSET_DATA, 8 + u64::from(length), last)?;
        put(out, at, &U64::new(offset))
    }

    /// A chunk that says that `length` bytes at `offset` are zeroes. Not in the simple form.
    ///
    /// # Errors
    /// No room, or the simple form.
    #[inline]
    pub fn hole(&self, out: &mut [u8], offset: u64, length: u32, last: bool) -> Result<usize, NoRoom> {
        let at = self.chunk(out, chunk::OFFSET_HOLE, 12, last)?;
        put(out, at, &HolePayload { offset: offset.into(), length: length.into() })
    }

    /// The empty chunk that ends a reply. Not in the simple form.
    ///
    /// # Errors
    /// No room, or the simple form.
    #[inline]
    pub fn none(&self, out: &mut [u8]) -> Result<usize, NoRoom> {
        self.chunk(out, chunk::NONE, 0, true)
    }

    /// The last reply to a request that failed, with text for a human, cut to [`MAX_ERROR_TEXT`].
    ///
    /// # Errors
    /// No room.
    pub fn error(&self, out: &mut [u8], error: WireError, text: &str) -> Result<usize, NoRoom> {
        if self.form == ReplyForm::Simple {
            return self.simple(out, error.code());
        }
        self.error_chunk(out, chunk::ERROR, error, text, None)
    }

    /// The last reply to a read that failed at `offset` of the export. In the simple form the offset is lost.
    ///
    /// # Errors
    /// No room.
    pub fn error_at(
        &self,
        out: &mut [u8],
        error: WireError,
        text: &str,
        offset: u64,
    ) -> Result<usize, NoRoom> {
        if self.form == ReplyForm::Simple {
            return self.simple(out, error.code());
        }
        // The protocol has offsets in errors of reads and the like only.
        let has_offset = !matches!(self.command, Command::Flush | Command::Other(_));
        let kind = if has_offset { chunk::ERROR_OFFSET } else { chunk::ERROR };
        self.error_chunk(out, kind, error, text, has_offset.then_some(offset))
    }

    /// A chunk with the first extents of `context`: 32-bit or 64-bit as negotiated. Returns the bytes written and the
    /// number of extents used, which is fewer than given when the buffer is full or when an extent had to be cut to fit
    /// 32 bits (what follows it would be out of place). Not in the simple form.
    ///
    /// # Errors
    /// No room for even one extent, no extent given, or the simple form.
    pub fn block_status(
        &self,
        out: &mut [u8],
        context: ContextId,
        extents: &[Extent],
        last: bool,
    ) -> Result<(usize, usize), NoRoom> {
        let wide = self.form.is_extended();
        let room = out.len().saturating_sub(block_status_size(self.form, 0));
        let count = extents.len().min(room / extent_size(self.form));
        let cut_after = |extents: &[Extent]| {
            extents.iter().position(|extent| extent.length > u64::from(MAX_NARROW_EXTENT)).map(|at| at + 1)
        };
        let extents = extents.get(..count).ok_or(NoRoom)?;
        let used = if wide { count } else { cut_after(extents).unwrap_or(count) };
        let extents = extents.get(..used).filter(|extents| !extents.is_empty()).ok_or(NoRoom)?;
        let size = block_status_size(self.form, used);
        let payload = u64::try_from(size - self.chunk_header_size()).map_err(|_| NoRoom)?;
        let kind = if wide { chunk::BLOCK_STATUS_EXT } else { chunk::BLOCK_STATUS };
        let mut at = self.chunk(out, kind, payload, last)?;
        if wide {
            let count = u32::try_from(used).map_err(|_| NoRoom)?;
            at = put(out, at, &WideStatusPayload { context: context.0.into(), count: count.into() })?;
            for extent in extents {
                let raw = WideExtent { length: extent.length.into(), flags: extent.flags.into() };
                at = put(out, at, &raw)?;
            }
        } else {
            at = put(out, at, &U32::new(context.0))?;
            for extent in extents {
                let length = u32::try_from(extent.length).unwrap_or(u32::MAX).min(MAX_NARROW_EXTENT);
                let flags = u32::try_from(extent.flags).map_err(|_| NoRoom)?;
                at = put(out, at, &NarrowExtent { length: length.into(), flags: flags.into() })?;
            }
        }
        Ok((at, used))
    }

    #[inline]
    const fn chunk_header_size(&self) -> usize {
        if self.form.is_extended() { EXTENDED_HEADER } else { STRUCTURED_HEADER }
    }

    #[inline]
    fn simple(&self, out: &mut [u8], error: u32) -> Result<usize, NoRoom> {
        let reply = SimpleReply {
            magic: wire::SIMPLE_REPLY_MAGIC.into(),
            error: error.into(),
            cookie: self.cookie.0.into(),
        };
        put(out, 0, &reply)
    }

    #[inline]
    fn chunk(&self, out: &mut [u8], kind: u16, length: u64, last: bool) -> Result<usize, NoRoom> {
        let flags = if last { chunk::FLAG_DONE } else { 0 };
        match self.form {
            ReplyForm::Simple => Err(NoRoom),
            ReplyForm::Structured => {
                let header = StructuredReply {
                    magic: wire::STRUCTURED_REPLY_MAGIC.into(),
                    flags: flags.into(),
                    kind: kind.into(),
                    cookie: self.cookie.0.into(),
                    length: u32::try_from(length).map_err(|_| NoRoom)?.into(),
                };
                put(out, 0, &header)
            }
            ReplyForm::Extended => {
                let header = ExtendedReply {
                    magic: wire::EXTENDED_REPLY_MAGIC.into(),
                    flags: flags.into(),
                    kind: kind.into(),
                    cookie: self.cookie.0.into(),
                    offset: self.offset.into(),
                    length: length.into(),
                };
                put(out, 0, &header)
            }
        }
    }

    fn error_chunk(
        &self,
        out: &mut [u8],
        kind: u16,
        error: WireError,
        text: &str,
        offset: Option<u64>,
    ) -> Result<usize, NoRoom> {
        let text = cut(text, MAX_ERROR_TEXT).as_bytes();
        let message_length = u16::try_from(text.len()).map_err(|_| NoRoom)?;
        let tail = if offset.is_some() { 8 } else { 0 };
        let at = self.chunk(out, kind, 6 + u64::from(message_length) + tail, true)?;
        let payload = ErrorPayload { error: error.code().into(), message_length: message_length.into() };
        let at = put(out, at, &payload)?;
        let at = put(out, at, text)?;
        offset.map_or(Ok(at), |offset| put(out, at, &U64::new(offset)))
    }
}

/// Writes `value` at `at` and returns the position after it.
#[inline]
fn put<T: IntoBytes + Immutable + ?Sized>(out: &mut [u8], at: usize, value: &T) -> Result<usize, NoRoom> {
    let room = out.get_mut(at..).ok_or(NoRoom)?;
    value.write_to_prefix(room).map_err(|_| NoRoom)?;
    Ok(at + size_of_val(value))
}

/// Bytes of one extent.
#[inline]
#[must_use]
pub const fn extent_size(form: ReplyForm) -> usize {
    if form.is_extended() { WideExtent::SIZE } else { NarrowExtent::SIZE }
}

/// Bytes of a block status chunk with `extents` extents.
#[inline]
#[must_use]
pub const fn block_status_size(form: ReplyForm, extents: usize) -> usize {
    let header =
        if form.is_extended() { EXTENDED_HEADER + WideStatusPayload::SIZE } else { STRUCTURED_HEADER + 4 };
    header.saturating_add(extents.saturating_mul(extent_size(form)))
}
