//! Entry point for fuzzing: any bytes as a log (I8, I9).
//!
//! Design notes: assertions panic on purpose here; this module exists only for tests and fuzzing.
#![allow(clippy::panic)]

use bowline_block::{Error, ErrorKind, Result};
use bowline_state::StateFile;

use super::super::pending::ZoneBits;
use super::format::{HEADER_BYTES, Header, Parsed, RECORD_BYTES, ZONE_BYTES};
use crate::cow::{GRANULE_BYTES, WORD_GRANULES};
use crate::track::disk::bytes::crc32c;

/// A log in memory.
struct Bytes(Vec<u8>);

impl StateFile for Bytes {
    fn len(&self) -> Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let len = rest.len().min(data.len());
        data.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(len)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, "a log that is read"))
    }

    fn set_len(&self, _: u64) -> Result<()> {
        self.write_at(0, &[])
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Any bytes behind the first; with an odd first byte their checksums are put right, to get deeper.
///
/// What is read never panics, names no granule beyond the device, and is never less behind another boot.
pub fn rollback_log(data: &[u8]) {
    let Some((&first, log)) = data.split_first() else { return };
    let mut log = log.to_vec();
    if first & 1 == 1 {
        mend(&mut log);
    }
    let Ok(parsed) = Parsed::read(&Bytes(log)) else { return };
    let (Ok(same), Ok(other)) = (parsed.pending(true), parsed.pending(false)) else { return };
    assert!(count(&same) <= count(&other), "another boot believes more");
    let granules = parsed.header.size.div_ceil(GRANULE_BYTES);
    for (zone, bits) in &other {
        for (word, bits) in (zone * 64..).zip(bits.iter()).filter(|(_, bits)| **bits != 0) {
            let last = word * WORD_GRANULES + u64::from(63 - bits.leading_zeros());
            assert!(last < granules, "granule {last} is beyond {granules}");
        }
    }
}

fn count(zones: &ZoneBits) -> u64 {
    zones.values().flat_map(|bits| bits.iter()).map(|bits| u64::from(bits.count_ones())).sum()
}

fn mend(log: &mut [u8]) {
    seal(log, 0, HEADER_BYTES, &[]);
    let Ok(header) = Header::decode(log) else { return };
    let id = header.id;
    let mut at = HEADER_BYTES;
    for _ in 0..header.zones.min(log.len() as u64) {
        seal(log, at, ZONE_BYTES, &[id.as_bytes()]);
        at += ZONE_BYTES;
    }
    while at < log.len() {
        seal(log, at, RECORD_BYTES, &[id.as_bytes(), &(at as u64).to_le_bytes()]);
        at += RECORD_BYTES;
    }
}

fn seal(log: &mut [u8], at: usize, len: usize, before: &[&[u8]]) {
    let Some(whole) = log.get_mut(at..at + len) else { return };
    let Some((body, room)) = whole.split_at_mut_checked(len - 4) else { return };
    let mut parts = before.to_vec();
    parts.push(body);
    room.copy_from_slice(&crc32c(&parts).to_le_bytes());
}

/// An input that gets deep into it: a log of two zones with three records.
#[must_use]
pub fn sample() -> Vec<u8> {
    [&[0][..], include_bytes!("../tests/rollback-v1.log")].concat()
}
