//! The data of options and option replies, encoded and decoded.
//!
//! Design notes: decoders borrow from the input and refuse anything left over; encoders append to a `Vec` whose
//! growth is bounded by what our own side puts in. Errors are texts fit for the error reply.

use crate::meta::ContextId;
use crate::wire::{self, MAX_STRING, OptionHeader, OptionReplyHeader, info, rep};
use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

/// Takes a fixed-size structure off the front of `input`.
#[inline]
pub(crate) fn take<T: FromBytes>(input: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(input).ok()
}

fn take_u16(input: &[u8]) -> Option<(u16, &[u8])> {
    take::<U16>(input).map(|(value, rest)| (value.get(), rest))
}

pub(crate) fn take_u32(input: &[u8]) -> Option<(u32, &[u8])> {
    take::<U32>(input).map(|(value, rest)| (value.get(), rest))
}

/// Takes a string with a 32-bit length in front.
fn take_string(input: &[u8]) -> Result<(&str, &[u8]), &'static str> {
    let (length, rest) = take_u32(input).ok_or("option data ends inside a length")?;
    let length = usize::try_from(length).map_err(|_| "string length out of range")?;
    if length > MAX_STRING {
        return Err("string is longer than 4096 bytes");
    }
    let (bytes, rest) = rest.split_at_checked(length).ok_or("option data ends inside a string")?;
    Ok((text(bytes)?, rest))
}

/// `bytes` as a name: UTF-8 without NUL.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "string is not UTF-8")?;
    if text.contains('\0') { Err("string holds a NUL") } else { Ok(text) }
}

/// The longest prefix of `text` that the wire may carry.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

/// The data of `INFO` and `GO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// Export asked for.
    pub name: &'a str,
    /// The client wants the canonical name.
    pub wants_name: bool,
    /// The client wants the description.
    pub wants_description: bool,
    /// The client knows block sizes.
    pub wants_block_size: bool,
}

impl<'a> InfoRequest<'a> {
    /// Decodes option data.
    ///
    /// # Errors
    /// What is malformed.
    pub fn parse(data: &'a [u8]) -> Result<Self, &'static str> {
        let (name, rest) = take_string(data)?;
        let (count, mut rest) = take_u16(rest).ok_or("option data ends before the information count")?;
        if rest.len() != usize::from(count) * 2 {
            return Err("information count does not match the option data");
        }
        let mut request = Self { name, wants_name: false, wants_description: false, wants_block_size: false };
        while let Some((item, tail)) = take_u16(rest) {
            match item {
                info::NAME => request.wants_name = true,
                info::DESCRIPTION => request.wants_description = true,
                info::BLOCK_SIZE => request.wants_block_size = true,
                // EXPORT is always sent; an unknown item is ignored, as the protocol asks.
                _ => {}
            }
            rest = tail;
        }
        Ok(request)
    }

    /// Appends the option data for `name` and the information items `items`.
    pub fn encode(out: &mut Vec<u8>, name: &str, items: &[u16]) {
        push_string(out, name);
        out.extend_from_slice(&u16::try_from(items.len()).unwrap_or(0).to_be_bytes());
        for item in items {
            out.extend_from_slice(&item.to_be_bytes());
        }
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, Clone, Copy)]
pub struct MetaRequest<'a> {
    /// Export asked about.
    pub name: &'a str,
    /// Queries.
    pub queries: MetaQueries<'a>,
}

impl<'a> MetaRequest<'a> {
    /// Decodes option data, including every query.
    ///
    /// # Errors
    /// What is malformed.
    pub fn parse(data: &'a [u8]) -> Result<Self, &'static str> {
        let (name, rest) = take_string(data)?;
        let (count, rest) = take_u32(rest).ok_or("option data ends before the query count")?;
        let mut tail = rest;
        for _ in 0..count {
            // Each query takes at least its length field, so the data bounds this loop whatever the count says.
            let (_, after) = take_string(tail)?;
            tail = after;
        }
        if !tail.is_empty() {
            return Err("option data goes on after the last query");
        }
        Ok(Self { name, queries: MetaQueries { rest } })
    }

    /// Appends the option data.
    pub fn encode(out: &mut Vec<u8>, name: &str, queries: &[String]) {
        push_string(out, name);
        out.extend_from_slice(&u32::try_from(queries.len()).unwrap_or(0).to_be_bytes());
        for query in queries {
            push_string(out, query);
        }
    }
}

/// The queries of a [`MetaRequest`], already checked.
#[derive(Debug, Clone, Copy)]
pub struct MetaQueries<'a> {
    rest: &'a [u8],
}

impl<'a> MetaQueries<'a> {
    /// Whether there is none left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for MetaQueries<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (query, rest) = take_string(self.rest).ok()?;
        self.rest = rest;
        Some(query)
    }
}

/// One decoded reply of `LIST`: name and description.
///
/// # Errors
/// What is malformed.
pub fn parse_server_reply(data: &[u8]) -> Result<(&str, &str), &'static str> {
    let (name, rest) = take_string(data)?;
    if rest.len() > MAX_STRING {
        return Err("description is longer than 4096 bytes");
    }
    Ok((name, text(rest)?))
}

/// One decoded reply of `LIST_META_CONTEXT` or `SET_META_CONTEXT`.
///
/// # Errors
/// What is malformed.
pub fn parse_meta_reply(data: &[u8]) -> Result<(ContextId, &str), &'static str> {
    let (id, rest) = take_u32(data).ok_or("context reply is shorter than 4 bytes")?;
    if rest.len() > MAX_STRING {
        return Err("context name is longer than 4096 bytes");
    }
    Ok((ContextId(id), text(rest)?))
}

/// Appends a string with its 32-bit length in front.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, MAX_STRING);
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends an option whose data `fill` appends.
pub(crate) fn push_option(out: &mut Vec<u8>, option: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let header =
        OptionHeader { magic: wire::OPTION_MAGIC.into(), option: option.into(), length: U32::new(0) };
    out.extend_from_slice(header.as_bytes());
    fill(out);
    patch_length(out, start + OptionHeader::SIZE);
}

/// Appends an option reply whose data `fill` appends.
pub(crate) fn push_reply(out: &mut Vec<u8>, option: u32, reply: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let header = OptionReplyHeader {
        magic: wire::OPTION_REPLY_MAGIC.into(),
        option: option.into(),
        reply: reply.into(),
        length: U32::new(0),
    };
    out.extend_from_slice(header.as_bytes());
    fill(out);
    patch_length(out, start + OptionReplyHeader::SIZE);
}

/// Appends an `ACK`.
pub(crate) fn push_ack(out: &mut Vec<u8>, option: u32) {
    push_reply(out, option, rep::ACK, |_| {});
}

/// Appends an error reply with text for a human.
pub(crate) fn push_error(out: &mut Vec<u8>, option: u32, reply: u32, text: &str) {
    push_reply(out, option, reply, |out| out.extend_from_slice(cut(text, MAX_STRING).as_bytes()));
}

/// Writes the length of the data that begins at `data` into the four bytes before it.
fn patch_length(out: &mut [u8], data: usize) {
    let length = u32::try_from(out.len().saturating_sub(data)).unwrap_or(0);
    if let Some(field) = data.checked_sub(4).and_then(|start| out.get_mut(start..data)) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}
