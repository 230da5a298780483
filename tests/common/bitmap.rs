//! Block status over NBD, from the protocol text alone: structured replies, metadata contexts, and what a context says of
//! a range.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const GO: u32 = 7;
const ACK: u32 = 1;
const REP_META_CONTEXT: u32 = 4;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const BLOCK_STATUS: u16 = 7;
const REQ_ONE: u16 = 1 << 3;
const CHUNK_DONE: u16 = 1;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15;

/// What a context says of a run of bytes: its length and its flags.
pub(crate) type Status = (u64, u32);

/// A connection with one metadata context.
pub(crate) struct Meta {
    stream: UnixStream,
    cookie: u64,
}

impl Meta {
    /// `None` where the server does not have the context.
    pub(crate) fn connect(socket: &Path, export: &str, context: &str) -> io::Result<Option<Self>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        stream.write_all(&3_u32.to_be_bytes())?;
        option(&mut stream, STRUCTURED_REPLY, &[])?;
        reply(&mut stream)?;
        let mut query = text(export);
        query.extend_from_slice(&1_u32.to_be_bytes());
        query.extend(text(context));
        option(&mut stream, SET_META_CONTEXT, &query)?;
        let mut found = false;
        while reply(&mut stream)? == REP_META_CONTEXT {
            found = true;
        }
        let mut go = text(export);
        go.extend_from_slice(&0_u16.to_be_bytes());
        option(&mut stream, GO, &go)?;
        while reply(&mut stream)? != ACK {}
        Ok(found.then_some(Meta { stream, cookie: 0 }))
    }

    /// What is said of the range, as it comes; or the error's number.
    pub(crate) fn status(
        &mut self,
        offset: u64,
        length: u32,
        one: bool,
    ) -> io::Result<Result<Vec<Status>, u32>> {
        self.cookie += 1;
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend_from_slice(&(if one { REQ_ONE } else { 0 }).to_be_bytes());
        request.extend_from_slice(&BLOCK_STATUS.to_be_bytes());
        request.extend_from_slice(&self.cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&length.to_be_bytes());
        self.stream.write_all(&request)?;
        let mut answer = Ok(Vec::new());
        loop {
            let mut head = [0; 20];
            self.stream.read_exact(&mut head)?;
            if be32(&head[..4]) != STRUCTURED_MAGIC || head[8..16] != self.cookie.to_be_bytes() {
                return Err(io::Error::other(format!("wrong chunk {head:x?}")));
            }
            let (flags, kind) = (be16(&head[4..6]), be16(&head[6..8]));
            let mut body = vec![0; be32(&head[16..20]) as usize];
            self.stream.read_exact(&mut body)?;
            match kind {
                CHUNK_BLOCK_STATUS => {
                    let pairs = body[4..].chunks(8);
                    let pairs = pairs.map(|pair| (u64::from(be32(&pair[..4])), be32(&pair[4..])));
                    if let Ok(list) = &mut answer {
                        list.extend(pairs);
                    }
                }
                error if error & CHUNK_ERROR != 0 => answer = Err(be32(&body[..4])),
                _ => {}
            }
            if flags & CHUNK_DONE != 0 {
                return Ok(answer);
            }
        }
    }

    /// Goes over a range in as many questions as it takes; gives the runs with flag bit 0, merged.
    pub(crate) fn set(&mut self, from: u64, end: u64, at_once: u32) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut at = from;
        while at < end {
            let length = u32::try_from((end - at).min(u64::from(at_once))).unwrap();
            let list = self.status(at, length, false).unwrap().unwrap();
            assert!(list.iter().map(|(length, _)| length).sum::<u64>() > 0, "no progress at {at}");
            for (length, flags) in list {
                let length = length.min(end - at);
                match runs.last_mut() {
                    Some((first, run)) if flags & 1 == 1 && *first + *run == at => *run += length,
                    _ if flags & 1 == 1 => runs.push((at, length)),
                    _ => {}
                }
                at += length;
            }
        }
        runs
    }
}

fn option(stream: &mut UnixStream, option: u32, data: &[u8]) -> io::Result<()> {
    let mut message = OPTION_MAGIC.to_vec();
    message.extend_from_slice(&option.to_be_bytes());
    message.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
    message.extend_from_slice(data);
    stream.write_all(&message)
}

/// The kind of the next reply to an option; an error ends the connection.
fn reply(stream: &mut UnixStream) -> io::Result<u32> {
    let mut head = [0; 20];
    stream.read_exact(&mut head)?;
    let kind = be32(&head[12..16]);
    let mut body = vec![0; be32(&head[16..20]) as usize];
    stream.read_exact(&mut body)?;
    if kind & (1 << 31) != 0 {
        return Err(io::Error::other(format!("refused: {kind:#x}: {}", String::from_utf8_lossy(&body))));
    }
    Ok(kind)
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes(bytes.try_into().unwrap())
}
