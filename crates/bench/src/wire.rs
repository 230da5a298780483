//! The NBD handshake and header layouts, as far as a load generator needs them.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Client flags: fixed newstyle, and no 124 bytes of zeroes.
const CLIENT_FLAGS: u32 = 0b11;
const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED_REPLY: u32 = 8;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR_BIT: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
/// No honest option reply is longer than this.
const OPTION_REPLY_BYTES_MAX: u32 = 64 * 1024;

/// First four bytes of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First four bytes of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First four bytes of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Length of a request header.
pub const REQUEST_BYTES: usize = 28;

/// What the server told about the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// Size of the device.
    pub size_bytes: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Whether replies come as chunks.
    pub structured: bool,
}

/// A request's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write zeroes: changes much without sending it.
    WriteZeroes,
}

/// One request header; the cookie is the slot's number.
#[must_use]
pub fn request(command: Command, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_BYTES] {
    let mut header = [0; REQUEST_BYTES];
    let code: u16 = match command {
        Command::Read => 0,
        Command::Write => 1,
        Command::WriteZeroes => 6,
    };
    let fields = REQUEST_MAGIC
        .to_be_bytes()
        .into_iter()
        .chain(0_u16.to_be_bytes())
        .chain(code.to_be_bytes())
        .chain(cookie.to_be_bytes())
        .chain(offset.to_be_bytes())
        .chain(length.to_be_bytes());
    for (byte, value) in header.iter_mut().zip(fields) {
        *byte = value;
    }
    header
}

/// Performs the handshake and enters transmission.
pub fn negotiate(stream: &mut (impl Read + Write), name: &str, structured: bool) -> Result<Export> {
    ensure!(read_u64(stream)? == MAGIC, "the peer is no NBD server");
    ensure!(read_u64(stream)? == OPTION_MAGIC, "the server is of the old style");
    read_u16(stream)?;
    stream.write_all(&CLIENT_FLAGS.to_be_bytes())?;

    let mut chunks = false;
    if structured {
        send_option(stream, OPTION_STRUCTURED_REPLY, &[])?;
        let (kind, _) = read_option_reply(stream)?;
        chunks = kind == REPLY_ACK;
    }

    let mut body = Vec::with_capacity(name.len() + 6);
    body.extend(u32::try_from(name.len()).context("export name too long")?.to_be_bytes());
    body.extend(name.as_bytes());
    body.extend(0_u16.to_be_bytes());
    send_option(stream, OPTION_GO, &body)?;
    let mut export = None;
    loop {
        let (kind, payload) = read_option_reply(stream)?;
        match kind {
            REPLY_ACK => break,
            REPLY_INFO => export = export.or(parse_info(&payload, chunks)),
            _ if kind & REPLY_ERROR_BIT != 0 => {
                bail!(
                    "the server refused export {name:?}: error {kind:#x} {}",
                    String::from_utf8_lossy(&payload)
                )
            }
            _ => {}
        }
    }
    export.context("the server sent no export information")
}

fn parse_info(payload: &[u8], structured: bool) -> Option<Export> {
    let (kind, rest) = payload.split_first_chunk::<2>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let (flags, _) = rest.split_first_chunk::<2>()?;
    (u16::from_be_bytes(*kind) == INFO_EXPORT).then_some(Export {
        size_bytes: u64::from_be_bytes(*size),
        flags: u16::from_be_bytes(*flags),
        structured,
    })
}

fn send_option(stream: &mut impl Write, option: u32, body: &[u8]) -> Result<()> {
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend(OPTION_MAGIC.to_be_bytes());
    message.extend(option.to_be_bytes());
    message.extend(u32::try_from(body.len()).context("option too long")?.to_be_bytes());
    message.extend(body);
    stream.write_all(&message).context("cannot send an option")
}

fn read_option_reply(stream: &mut impl Read) -> Result<(u32, Vec<u8>)> {
    ensure!(read_u64(stream)? == OPTION_REPLY_MAGIC, "bad magic number in an option reply");
    read_u32(stream)?;
    let kind = read_u32(stream)?;
    let length = read_u32(stream)?;
    ensure!(length <= OPTION_REPLY_BYTES_MAX, "an option reply of {length} bytes");
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    Ok((kind, payload))
}

fn read_array<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).context("the server hung up in the handshake")?;
    Ok(bytes)
}

fn read_u16(stream: &mut impl Read) -> Result<u16> {
    read_array(stream).map(u16::from_be_bytes)
}

fn read_u32(stream: &mut impl Read) -> Result<u32> {
    read_array(stream).map(u32::from_be_bytes)
}

fn read_u64(stream: &mut impl Read) -> Result<u64> {
    read_array(stream).map(u64::from_be_bytes)
}
