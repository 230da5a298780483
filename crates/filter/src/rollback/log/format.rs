//! The bytes of a progress log: see `docs/format/rollback.md`.

use bowline_block::{Error, ErrorKind, Result};
use bowline_state::StateFile;
use uuid::Uuid;

use super::super::pending::{ZONE_WORDS, ZoneBits};
use crate::cow::{GRANULE_BYTES, Granules, ZONE_GRANULES, mask_of};
use crate::track::disk::bytes::{Reader, corrupt, crc32c};

pub(crate) const MAGIC: [u8; 8] = *b"BOWLROLL";
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 96;
pub(crate) const ZONE_BYTES: usize = 8 + ZONE_WORDS * 8 + 4;
pub(crate) const RECORD_BYTES: usize = 32;
/// Bytes of records read at once.
const PIECE_BYTES: usize = 4096 * RECORD_BYTES;

const CLEARED: u32 = 1;
const CONFIRMED: u32 = 2;

/// What a log is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// This log, for ever.
    pub(crate) id: Uuid,
    pub(crate) snapshot: Uuid,
    /// The boot in which it was written to; nil where that is not known.
    pub(crate) boot: Uuid,
    /// Bytes of the device.
    pub(crate) size: u64,
    pub(crate) zones: u64,
}

/// A line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// These are the origin's; their contents were written in that phase, or before.
    Cleared { phase: u64, granules: Granules },
    /// What was written in that phase, and before, is durable.
    Confirmed { phase: u64 },
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend(self.id.as_bytes());
        out.extend(self.snapshot.as_bytes());
        out.extend(self.boot.as_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.zones.to_le_bytes());
        out.resize(HEADER_BYTES - 4, 0);
        let crc = crc32c(&[&out]);
        out.extend(crc.to_le_bytes());
        let mut bytes = [0; HEADER_BYTES];
        bytes.iter_mut().zip(out).for_each(|(to, from)| *to = from);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let (Some(body), Some(crc)) =
            (bytes.get(..HEADER_BYTES - 4), bytes.get(HEADER_BYTES - 4..HEADER_BYTES))
        else {
            return Err(corrupt("the log of a rollback is shorter than its header"));
        };
        let mut reader = Reader::new(body);
        if reader.array()? != MAGIC {
            return Err(corrupt("this is not the log of a rollback"));
        }
        let version = reader.u32()?;
        if version != VERSION {
            let why = format!("the log of a rollback has version {version}; version {VERSION} is understood");
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        if crc != crc32c(&[body]).to_le_bytes() {
            return Err(corrupt("the header of a rollback's log has a wrong checksum"));
        }
        reader.u32()?;
        let header = Self {
            id: reader.uuid()?,
            snapshot: reader.uuid()?,
            boot: reader.uuid()?,
            size: reader.u64()?,
            zones: reader.u64()?,
        };
        let most = header.size.div_ceil(GRANULE_BYTES).div_ceil(ZONE_GRANULES);
        if header.zones > most {
            let why = format!("{} zones of a device that has {most}", header.zones);
            return Err(corrupt(why));
        }
        Ok(header)
    }

    /// Where the records begin.
    pub(crate) fn records_at(&self) -> u64 {
        HEADER_BYTES as u64 + self.zones * ZONE_BYTES as u64
    }
}

/// A header and its zones.
pub(crate) fn encode(header: &Header, zones: &ZoneBits) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + zones.len() * ZONE_BYTES);
    out.extend(header.encode());
    for (number, bits) in zones {
        let from = out.len();
        out.extend(number.to_le_bytes());
        bits.iter().for_each(|word| out.extend(word.to_le_bytes()));
        let crc = crc32c(&[header.id.as_bytes(), out.get(from..).unwrap_or_default()]);
        out.extend(crc.to_le_bytes());
    }
    out
}

impl Record {
    /// The record as it stands at `offset` of the log `id`.
    pub(crate) fn encode(&self, id: Uuid, offset: u64) -> [u8; RECORD_BYTES] {
        let (kind, phase, granules) = match *self {
            Self::Cleared { phase, granules } => (CLEARED, phase, granules),
            Self::Confirmed { phase } => (CONFIRMED, phase, Granules { first: 0, end: 0 }),
        };
        let mut out = Vec::with_capacity(RECORD_BYTES);
        out.extend(kind.to_le_bytes());
        out.extend(u32::try_from(granules.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(phase.to_le_bytes());
        out.extend(granules.first.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        let crc = crc32c(&[id.as_bytes(), &offset.to_le_bytes(), &out]);
        out.extend(crc.to_le_bytes());
        let mut bytes = [0; RECORD_BYTES];
        bytes.iter_mut().zip(out).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The record, or `None` where there is none: the log ends here.
    pub(crate) fn decode(id: Uuid, offset: u64, bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.get(..RECORD_BYTES)?.split_at_checked(RECORD_BYTES - 4)?;
        if crc != crc32c(&[id.as_bytes(), &offset.to_le_bytes(), body]).to_le_bytes() {
            return None;
        }
        let mut reader = Reader::new(body);
        let (kind, count) = (reader.u32().ok()?, reader.u32().ok()?);
        let (phase, first) = (reader.u64().ok()?, reader.u64().ok()?);
        match kind {
            CLEARED => {
                let end = first.checked_add(u64::from(count))?;
                Some(Self::Cleared { phase, granules: Granules { first, end } })
            }
            CONFIRMED => Some(Self::Confirmed { phase }),
            _ => None,
        }
    }
}

/// All that a log says.
pub(crate) struct Parsed {
    pub(crate) header: Header,
    pub(crate) zones: ZoneBits,
    pub(crate) records: Vec<Record>,
    /// Bytes behind the last record that counts for nothing.
    pub(crate) trailing_bytes: u64,
}

impl Parsed {
    /// Reads a log.
    ///
    /// # Errors
    /// *Corrupt* when the header or a zone is damaged; *unsupported* for another version.
    pub(crate) fn read(file: &dyn StateFile) -> Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        let len = file.read_at(0, &mut bytes)?;
        let header = Header::decode(bytes.get(..len).unwrap_or_default())?;
        let mut zones = ZoneBits::new();
        let mut newest = None;
        for at in 0..header.zones {
            let (number, bits) = read_zone(file, &header, at)?;
            if newest.is_some_and(|newest| number <= newest) {
                return Err(corrupt("the zones of a rollback's log are not in order"));
            }
            newest = Some(number);
            zones.insert(number, bits);
        }
        let mut this = Self { header, zones, records: Vec::new(), trailing_bytes: 0 };
        this.read_records(file)?;
        Ok(this)
    }

    fn read_records(&mut self, file: &dyn StateFile) -> Result<()> {
        let mut offset = self.header.records_at();
        let mut piece = vec![0; PIECE_BYTES];
        'pieces: loop {
            let len = file.read_at(offset, &mut piece)?;
            for bytes in piece.get(..len).unwrap_or_default().chunks_exact(RECORD_BYTES) {
                let Some(record) = Record::decode(self.header.id, offset, bytes) else { break 'pieces };
                offset += RECORD_BYTES as u64;
                self.records.push(record);
            }
            if len < PIECE_BYTES {
                break;
            }
        }
        self.trailing_bytes = file.len()?.saturating_sub(offset);
        Ok(())
    }

    /// What is still to be put back. After another boot only what a confirmed phase cleared counts as cleared.
    pub(crate) fn pending(&self, same_boot: bool) -> Result<ZoneBits> {
        let confirmed = self.records.iter().filter_map(|record| match record {
            Record::Confirmed { phase } => Some(*phase),
            Record::Cleared { .. } => None,
        });
        let confirmed = confirmed.max();
        let mut pending = self.zones.clone();
        for record in &self.records {
            let Record::Cleared { phase, granules } = *record else { continue };
            let counts = same_boot || confirmed.is_some_and(|confirmed| phase <= confirmed);
            if granules.end > self.header.size.div_ceil(GRANULE_BYTES) || granules.len() == 0 {
                return Err(corrupt("a record of a rollback's log is beyond the device"));
            }
            if counts {
                forget(&mut pending, granules);
            }
        }
        pending.retain(|_, bits| bits.iter().any(|&bits| bits != 0));
        Ok(pending)
    }
}

fn forget(pending: &mut ZoneBits, granules: Granules) {
    let zones = granules.first / ZONE_GRANULES..=(granules.end - 1) / ZONE_GRANULES;
    for (zone, bits) in pending.range_mut(zones) {
        for (word, bits) in (zone * ZONE_WORDS as u64..).zip(bits.iter_mut()) {
            *bits &= !mask_of(word, granules.first, granules.end);
        }
    }
}

fn read_zone(file: &dyn StateFile, header: &Header, at: u64) -> Result<(u64, Box<[u64; ZONE_WORDS]>)> {
    let mut bytes = [0; ZONE_BYTES];
    let len = file.read_at(HEADER_BYTES as u64 + at * ZONE_BYTES as u64, &mut bytes)?;
    let damaged = || corrupt(format!("zone entry {at} of a rollback's log is damaged"));
    let (body, crc) = bytes.split_at_checked(ZONE_BYTES - 4).ok_or_else(damaged)?;
    if len < ZONE_BYTES || crc != crc32c(&[header.id.as_bytes(), body]).to_le_bytes() {
        return Err(damaged());
    }
    let mut reader = Reader::new(body);
    let number = reader.u64()?;
    let mut bits = Box::new([0; ZONE_WORDS]);
    for word in bits.iter_mut() {
        *word = reader.u64()?;
    }
    let granules = header.size.div_ceil(GRANULE_BYTES);
    let is_inside = |(word, bits): (u64, &u64)| bits & !mask_of(word, 0, granules) == 0;
    if number >= granules.div_ceil(ZONE_GRANULES)
        || !(number * ZONE_WORDS as u64..).zip(bits.iter()).all(is_inside)
    {
        return Err(corrupt(format!("zone entry {at} of a rollback's log is beyond the device")));
    }
    Ok((number, bits))
}
