//! A journal as a file: its header, its mark of failure, and frames of records one after another.
//!
//! A frame is written in one piece and synced before the next one is written. So at most the last frame may be
//! damaged by a crash, and nothing in it was ever acknowledged: it is cut off. A frame that is damaged with a good one
//! behind it was damaged later, and the journal says so instead of being read.

use bowline_block::{Error, ErrorKind, Result};
use bowline_state::StateFile;
use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::layout::{
    ALIGN, FAILED_AT, FAILED_MAGIC, FRAME_BYTES, FRAME_MAGIC, FRAMES_AT, FailedBytes, FrameBytes,
    HeaderBytes, MAGIC, NAME_MAX, PAYLOAD_MAX, REASON_MAX, SECTOR, VERSION, crc, frame_crc,
};
use super::record::{Record, cut};

/// Bytes read at once when looking for a good frame behind a bad one.
const WINDOW: usize = 1 << 20;

/// What a journal is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The history's, under which epochs are comparable.
    pub(crate) generation: Uuid,
    /// The origin.
    pub(crate) device: String,
    /// Bytes of the origin when the journal was begun.
    pub(crate) size: u64,
    /// Bytes of its logical block.
    pub(crate) block_bytes: u32,
}

impl Header {
    /// Sectors 0 and 1.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = HeaderBytes::new_zeroed();
        bytes.magic = MAGIC;
        bytes.version = VERSION.into();
        bytes.block_bytes = self.block_bytes.into();
        bytes.generation = self.generation.into_bytes();
        bytes.size = self.size.into();
        let name = cut(&self.device, NAME_MAX).as_bytes();
        bytes.name_bytes = u32::try_from(name.len()).unwrap_or(0).into();
        if let Some(room) = bytes.name.get_mut(..name.len()) {
            room.copy_from_slice(name);
        }
        let sum = crc(bytes.as_bytes().get(..SECTOR - 4).unwrap_or_default());
        bytes.crc = sum.into();
        [bytes.as_bytes(), &[0; SECTOR]].concat()
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let (head, _) = HeaderBytes::ref_from_prefix(bytes).map_err(|_| "it is too short to be one")?;
        if head.magic != MAGIC {
            return Err("it is none: its first bytes are others".to_owned());
        }
        if head.version.get() != VERSION {
            return Err(format!("it has version {}, and {VERSION} is known", head.version.get()));
        }
        if crc(head.as_bytes().get(..SECTOR - 4).unwrap_or_default()) != head.crc.get() {
            return Err("its header is damaged".to_owned());
        }
        let len = usize::try_from(head.name_bytes.get()).ok().filter(|&len| len <= NAME_MAX);
        let name = len.and_then(|len| head.name.get(..len));
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        Ok(Self {
            generation: Uuid::from_bytes(head.generation),
            device: name.ok_or("its device's name is no text")?.to_owned(),
            size: head.size.get(),
            block_bytes: head.block_bytes.get(),
        })
    }
}

/// Sector 1 of a journal that failed.
pub(super) fn failed_sector(reason: &str) -> Vec<u8> {
    let mut bytes = FailedBytes::new_zeroed();
    bytes.magic = FAILED_MAGIC;
    let reason = cut(reason, REASON_MAX).as_bytes();
    bytes.reason_bytes = u32::try_from(reason.len()).unwrap_or(0).into();
    if let Some(room) = bytes.reason.get_mut(..reason.len()) {
        room.copy_from_slice(reason);
    }
    let sum = crc(bytes.as_bytes().get(..SECTOR - 4).unwrap_or_default());
    bytes.crc = sum.into();
    bytes.as_bytes().to_vec()
}

/// Why the journal failed, if it has.
fn failure(sector: &[u8]) -> Option<String> {
    let (bytes, _) = FailedBytes::ref_from_prefix(sector).ok()?;
    if bytes.as_bytes().iter().all(|&byte| byte == 0) {
        return None;
    }
    let sound = bytes.magic == FAILED_MAGIC
        && crc(bytes.as_bytes().get(..SECTOR - 4).unwrap_or_default()) == bytes.crc.get();
    let reason = usize::try_from(bytes.reason_bytes.get()).ok().and_then(|len| bytes.reason.get(..len));
    let reason = reason.filter(|_| sound).map(|reason| String::from_utf8_lossy(reason).into_owned());
    Some(reason.unwrap_or_else(|| "its mark of failure is damaged".to_owned()))
}

/// Records on their way into one frame.
#[derive(Default)]
pub(super) struct FrameBuilder {
    bytes: Vec<u8>,
    records: u32,
}

impl FrameBuilder {
    /// Adds a record; `false` when it does not fit any more.
    pub(super) fn push(&mut self, record: &Record) -> bool {
        if self.bytes.is_empty() {
            self.bytes.resize(FRAME_BYTES, 0);
        }
        if self.bytes.len() - FRAME_BYTES + record.encoded_bytes() > PAYLOAD_MAX {
            return false;
        }
        record.encode(&mut self.bytes);
        self.records += 1;
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The frame; the builder is empty again.
    pub(super) fn finish(&mut self, generation: Uuid, sequence: u64) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let payload = bytes.get(FRAME_BYTES..).unwrap_or_default();
        let mut head = FrameBytes {
            magic: FRAME_MAGIC,
            payload_bytes: u32::try_from(payload.len()).unwrap_or(0).into(),
            sequence: sequence.into(),
            records: std::mem::take(&mut self.records).into(),
            crc: 0.into(),
        };
        head.crc = frame_crc(generation.as_bytes(), &head, payload).into();
        if let Some(room) = bytes.get_mut(..FRAME_BYTES) {
            room.copy_from_slice(head.as_bytes());
        }
        bytes
    }
}

/// A journal that was read.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) header: Header,
    /// Why it failed, if it has.
    pub(crate) failed: Option<String>,
    /// Where the next frame goes.
    pub(crate) end: u64,
    /// Its number.
    pub(crate) next_sequence: u64,
    /// Bytes behind the end that are something: a frame that was being written.
    pub(crate) torn: bool,
}

fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the snapshots' journal cannot be used: {why}"))
}

fn read(file: &dyn StateFile, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let got = file.read_at(at, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// A frame's payload, and where the next one begins; what is wrong otherwise.
fn frame_at(
    file: &dyn StateFile,
    header: &Header,
    at: u64,
    sequence: Option<u64>,
) -> Result<std::result::Result<(FrameBytes, Vec<u8>), String>> {
    let head = read(file, at, FRAME_BYTES)?;
    let Ok(head) = FrameBytes::read_from_bytes(&head) else { return Ok(Err("it ends there".to_owned())) };
    if head.magic != FRAME_MAGIC {
        return Ok(Err("no frame begins there".to_owned()));
    }
    let len = usize::try_from(head.payload_bytes.get()).unwrap_or(usize::MAX);
    if len > PAYLOAD_MAX || len % ALIGN != 0 {
        return Ok(Err(format!("the frame says that it has {len} bytes")));
    }
    let payload = read(file, at + FRAME_BYTES as u64, len)?;
    if payload.len() < len || frame_crc(header.generation.as_bytes(), &head, &payload) != head.crc.get() {
        return Ok(Err("the frame's checksum is wrong".to_owned()));
    }
    match sequence {
        Some(wanted) if head.sequence.get() != wanted => {
            Ok(Err(format!("the frame has number {}, not {wanted}", head.sequence.get())))
        }
        _ => Ok(Ok((head, payload))),
    }
}

/// The header and the mark of failure alone.
pub(super) fn read_header(file: &dyn StateFile) -> Result<(Header, Option<String>)> {
    let first = read(file, 0, 2 * SECTOR)?;
    let header = Header::decode(&first).map_err(corrupt)?;
    let sector = read(file, FAILED_AT, SECTOR)?;
    if sector.len() < SECTOR {
        return Err(corrupt("it is too short to be one"));
    }
    Ok((header, failure(&sector)))
}

/// Reads a journal from its beginning to its end, or to `until`.
///
/// # Errors
/// *Corrupt* with the place and the reason; what reading it or `each` says.
pub(crate) fn scan(
    file: &dyn StateFile,
    until: Option<u64>,
    mut each: impl FnMut(Record) -> std::result::Result<(), String>,
) -> Result<Scan> {
    let (header, failed) = read_header(file)?;
    let len = file.len()?;
    let (mut end, mut next_sequence) = (FRAMES_AT, 1);
    let wrong = loop {
        if end >= until.unwrap_or(u64::MAX).min(len) {
            break None;
        }
        // The first frame of a journal that was compacted has the number that came next.
        let wanted = (end > FRAMES_AT).then_some(next_sequence);
        match frame_at(file, &header, end, wanted)? {
            Err(wrong) => break Some(wrong),
            Ok((head, payload)) => {
                let mut rest = payload.as_slice();
                for _ in 0..head.records.get() {
                    let (record, after) =
                        Record::decode(rest).map_err(|why| corrupt(format!("at byte {end}: {why}")))?;
                    each(record).map_err(|why| corrupt(format!("at byte {end}: {why}")))?;
                    rest = after;
                }
                if !rest.is_empty() {
                    return Err(corrupt(format!("at byte {end}: {} bytes are of no record", rest.len())));
                }
                end += (FRAME_BYTES + payload.len()) as u64;
                next_sequence = head.sequence.get().saturating_add(1);
            }
        }
    };
    let mut torn = false;
    if let Some(wrong) = wrong {
        let behind = look_behind(file, &header, end, next_sequence)?;
        if let Some(good) = behind.good {
            return Err(corrupt(format!("at byte {end}, {wrong}; a good frame follows at byte {good}")));
        }
        torn = behind.something;
    }
    Ok(Scan { header, failed, end, next_sequence, torn })
}

struct Behind {
    /// Where a good frame begins.
    good: Option<u64>,
    /// Whether there is anything but zeroes.
    something: bool,
}

/// What there is behind a frame that is not good.
fn look_behind(file: &dyn StateFile, header: &Header, bad: u64, sequence: u64) -> Result<Behind> {
    let len = file.len()?;
    // What looks like a frame costs a checksum; no file may make that more than a few times its size.
    let mut budget = len.saturating_mul(4);
    let mut something = false;
    let mut at = bad;
    while at < len {
        let bytes = read(file, at, WINDOW)?;
        if bytes.is_empty() {
            break;
        }
        for (word, place) in bytes.chunks(ALIGN).zip((at..).step_by(ALIGN)) {
            something |= word.iter().any(|&byte| byte != 0);
            if place == bad || !word.starts_with(&FRAME_MAGIC) {
                continue;
            }
            let claimed = word.get(4..8).and_then(|len| len.try_into().ok()).map_or(0, u32::from_le_bytes);
            budget = budget
                .checked_sub(u64::from(claimed).min(PAYLOAD_MAX as u64))
                .ok_or_else(|| corrupt("it is full of what looks like frames and is none"))?;
            if let Ok((head, _)) = frame_at(file, header, place, None)?
                && head.sequence.get() >= sequence
            {
                return Ok(Behind { good: Some(place), something });
            }
        }
        at += bytes.len() as u64;
    }
    Ok(Behind { good: None, something })
}

/// Puts checksums and numbers right, for fuzzing.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn repair(bytes: &mut [u8]) {
    let put = |bytes: &mut [u8], at: usize, value: &[u8]| {
        if let Some(room) = bytes.get_mut(at..at + value.len()) {
            room.copy_from_slice(value);
        }
    };
    put(bytes, 0, &MAGIC);
    put(bytes, 8, &VERSION.to_le_bytes());
    let sum = crc(bytes.get(..SECTOR - 4).unwrap_or_default());
    put(bytes, SECTOR - 4, &sum.to_le_bytes());
    let Some(Ok(generation)) = bytes.get(16..32).map(<[u8; 16]>::try_from) else { return };
    let mut at = 2 * SECTOR;
    for sequence in 1u64.. {
        let Some(Ok(mut head)) = bytes.get(at..at + FRAME_BYTES).map(FrameBytes::read_from_bytes) else {
            return;
        };
        head.magic = FRAME_MAGIC;
        head.sequence = sequence.into();
        let len = usize::try_from(head.payload_bytes.get()).unwrap_or(usize::MAX);
        let Some(payload) = bytes.get(at + FRAME_BYTES..).and_then(|rest| rest.get(..len)) else { return };
        head.crc = frame_crc(&generation, &head, payload).into();
        put(bytes, at, head.as_bytes());
        at += FRAME_BYTES + len.next_multiple_of(ALIGN);
    }
}
