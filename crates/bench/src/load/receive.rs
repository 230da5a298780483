//! Takes whatever has arrived in one receive and checks it on the way; payloads are never gathered.

use std::io::Read;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail, ensure};

use super::connection::Slot;
use super::{Content, Workload};
use crate::pattern;
use crate::wire::{CHUNK_MAGIC, Command, SIMPLE_REPLY_MAGIC};

/// Holds all answers of a 4 KiB queue of depth 32, and stays in the second-level cache.
const BUFFER_BYTES: usize = 256 * 1024;
const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_OFFSET_HOLE: u16 = 2;
const CHUNK_ERROR_BIT: u16 = 1 << 15;

/// What one receive brought.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Slots whose request is finished.
    pub(super) slots: Vec<usize>,
    /// Blocks or bytes with wrong contents.
    pub(super) wrong: u64,
}

/// Data of an answer that has not fully arrived.
#[derive(Clone, Copy, Debug)]
struct Payload {
    slot: usize,
    offset: u64,
    left: usize,
    finishes: bool,
}

/// Parser of the answers of one connection.
#[derive(Debug)]
pub(super) struct Receiver {
    buffer: Vec<u8>,
    /// Bytes of an incomplete header at the start of the buffer.
    kept: usize,
    payload: Option<Payload>,
    structured: bool,
    command: Command,
    content: Content,
    /// How much data the answer to a read carries.
    read_bytes: usize,
}

impl Receiver {
    pub(super) fn new(structured: bool, workload: &Workload) -> Self {
        let buffer = vec![0; BUFFER_BYTES];
        let Workload { command, content, .. } = *workload;
        let read_bytes = workload.request_bytes as usize;
        Self { buffer, kept: 0, payload: None, structured, command, content, read_bytes }
    }

    /// One receive; appends the finished slots to `answered`.
    pub(super) fn receive(
        &mut self,
        stream: &mut UnixStream,
        slots: &[Slot],
        answered: &mut Answered,
    ) -> Result<()> {
        let space = self.buffer.get_mut(self.kept..).unwrap_or_default();
        let received = stream.read(space).context("no answer from the server")?;
        ensure!(received > 0, "the server closed the connection");
        let filled = self.kept + received;

        let buffer = std::mem::take(&mut self.buffer);
        let left = self.parse(buffer.get(..filled).unwrap_or_default(), slots, answered);
        self.buffer = buffer;
        self.kept = left?;
        self.buffer.copy_within(filled - self.kept..filled, 0);
        Ok(())
    }

    /// Parses all that is there; answers how many bytes at the end must be kept.
    fn parse(&mut self, mut input: &[u8], slots: &[Slot], answered: &mut Answered) -> Result<usize> {
        loop {
            if let Some(payload) = self.payload {
                let (piece, rest) = input.split_at(payload.left.min(input.len()));
                input = rest;
                answered.wrong += self.check(piece, payload.offset);
                if piece.len() < payload.left {
                    let offset = payload.offset + piece.len() as u64;
                    self.payload = Some(Payload { offset, left: payload.left - piece.len(), ..payload });
                    return Ok(0);
                }
                self.payload = None;
                if payload.finishes {
                    answered.slots.push(payload.slot);
                }
            }
            let before = input.len();
            input = if self.structured && input.starts_with(&CHUNK_MAGIC.to_be_bytes()) {
                self.chunk(input, slots, answered)?
            } else {
                self.simple(input, slots, answered)?
            };
            if input.len() == before {
                return Ok(before);
            }
        }
    }

    fn simple<'a>(&mut self, input: &'a [u8], slots: &[Slot], answered: &mut Answered) -> Result<&'a [u8]> {
        let Some((header, rest)) = input.split_first_chunk::<16>() else { return Ok(input) };
        let [m0, m1, m2, m3, e0, e1, e2, e3, cookie @ ..] = *header;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        ensure!(magic == SIMPLE_REPLY_MAGIC, "bad magic number {magic:#x} in an answer");
        let error = u32::from_be_bytes([e0, e1, e2, e3]);
        ensure!(error == 0, "the server answered with error {error}");
        let index = cookie_to_slot(cookie)?;
        let slot = slots.get(index).context("answer to an unknown request")?;
        if self.command == Command::Read {
            let left = self.read_bytes;
            self.payload = Some(Payload { slot: index, offset: slot.offset, left, finishes: true });
        } else {
            answered.slots.push(index);
        }
        Ok(rest)
    }

    fn chunk<'a>(&mut self, input: &'a [u8], slots: &[Slot], answered: &mut Answered) -> Result<&'a [u8]> {
        let Some((header, rest)) = input.split_first_chunk::<20>() else { return Ok(input) };
        let [_, _, _, _, f0, f1, k0, k1, c0, c1, c2, c3, c4, c5, c6, c7, length @ ..] = *header;
        let done = u16::from_be_bytes([f0, f1]) & CHUNK_DONE != 0;
        let kind = u16::from_be_bytes([k0, k1]);
        let length = u32::from_be_bytes(length) as usize;
        let index = cookie_to_slot([c0, c1, c2, c3, c4, c5, c6, c7])?;
        slots.get(index).context("answer to an unknown request")?;
        match kind {
            CHUNK_NONE => {
                if done {
                    answered.slots.push(index);
                }
                Ok(rest)
            }
            CHUNK_OFFSET_DATA => {
                let Some((offset, rest)) = rest.split_first_chunk::<8>() else { return Ok(input) };
                let left = length.checked_sub(8).context("a data chunk without an offset")?;
                let offset = u64::from_be_bytes(*offset);
                self.payload = Some(Payload { slot: index, offset, left, finishes: done });
                Ok(rest)
            }
            CHUNK_OFFSET_HOLE => {
                let Some((_, rest)) = rest.split_first_chunk::<12>() else { return Ok(input) };
                // Nothing we wrote is a hole.
                answered.wrong += u64::from(self.content != Content::Anything);
                if done {
                    answered.slots.push(index);
                }
                Ok(rest)
            }
            _ if kind & CHUNK_ERROR_BIT != 0 => bail!("the server answered with error chunk {kind:#x}"),
            _ => bail!("an answer of unknown type {kind}"),
        }
    }

    fn check(&self, piece: &[u8], offset: u64) -> u64 {
        match self.content {
            Content::Stamps => pattern::wrong_stamps(piece, offset),
            Content::Generation(generation) => pattern::wrong_bytes(piece, offset, generation),
            Content::Anything => 0,
        }
    }
}

fn cookie_to_slot(cookie: [u8; 8]) -> Result<usize> {
    usize::try_from(u64::from_be_bytes(cookie)).context("answer to an unknown request")
}
