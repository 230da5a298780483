//! Sectors that know what they are: whatever a disk or image answers can be judged without knowing its history.
//!
//! Each sector of 512 bytes: tag (8), CRC-32 (4), writer (4), sequence (8), its own number (8), time (8), body (472).
//! Numbers are little-endian; the checksum covers the sector with the checksum's own bytes zero.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const SECTOR: usize = 512;
const TAG: [u8; 8] = *b"sector!\n";
const CRC_AT: std::ops::Range<usize> = 8..12;
const BODY_AT: usize = 40;

/// What is written into a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) writer: u32,
    /// Counts up with each write of the writer, from 1.
    pub(crate) sequence: u64,
    /// The sector's own number on the disk.
    pub(crate) number: u64,
}

/// What a sound sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Zero,
    Written(Stamp),
}

/// What is wrong with a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// It is neither zero nor tagged.
    Tag,
    /// Some of it is not as it was written.
    Checksum,
    /// It belongs elsewhere.
    Number(u64),
}

/// Fills one sector.
pub(crate) fn fill(sector: &mut [u8], stamp: Stamp) {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let time = u64::try_from(time.as_nanos()).unwrap();
    sector[..8].copy_from_slice(&TAG);
    sector[CRC_AT].fill(0);
    sector[12..16].copy_from_slice(&stamp.writer.to_le_bytes());
    sector[16..24].copy_from_slice(&stamp.sequence.to_le_bytes());
    sector[24..32].copy_from_slice(&stamp.number.to_le_bytes());
    sector[32..40].copy_from_slice(&time.to_le_bytes());
    let seed = time ^ stamp.sequence.rotate_left(20) ^ stamp.number.rotate_left(40);
    sector[BODY_AT..].copy_from_slice(&super::tools::noise(seed, (SECTOR - BODY_AT) as u64));
    let crc = crc32(sector);
    sector[CRC_AT].copy_from_slice(&crc.to_le_bytes());
}

/// Sectors from `first` on, as one writer's write `sequence`.
pub(crate) fn filled(first: u64, count: u64, writer: u32, sequence: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(count).unwrap() * SECTOR];
    for (number, sector) in (first..).zip(bytes.chunks_mut(SECTOR)) {
        fill(sector, Stamp { writer, sequence, number });
    }
    bytes
}

/// Judges the sector that was read as `number`.
pub(crate) fn judge(sector: &[u8], number: u64) -> Result<Found, Damage> {
    if sector == [0; SECTOR] {
        return Ok(Found::Zero);
    }
    if sector[..8] != TAG {
        return Err(Damage::Tag);
    }
    let mut blank: [u8; SECTOR] = sector.try_into().unwrap();
    blank[CRC_AT].fill(0);
    if crc32(&blank).to_le_bytes() != sector[CRC_AT] {
        return Err(Damage::Checksum);
    }
    let own = le64(&sector[24..32]);
    if own != number {
        return Err(Damage::Number(own));
    }
    let writer = u32::from_le_bytes(sector[12..16].try_into().unwrap());
    Ok(Found::Written(Stamp { writer, sequence: le64(&sector[16..24]), number }))
}

/// Every sector of a disk that holds neither zeroes nor what some writer wrote there.
pub(crate) fn damaged(disk: &[u8]) -> Vec<(u64, Damage)> {
    let judged = (0..).zip(disk.chunks(SECTOR)).map(|(number, sector)| (number, judge(sector, number)));
    judged.filter_map(|(number, found)| found.err().map(|damage| (number, damage))).collect()
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Table `k` is for a byte with `k` bytes after it: eight bytes in one step. A test goes over disks, unoptimised.
const CRC_TABLES: [[u32; 256]; 8] = crc_tables();

const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let (mut byte, mut start) = (0, 0_u32);
    while byte < 256 {
        let (mut crc, mut bit) = (start, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
        start += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// CRC-32 as in IEEE 802.3.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0;
    let mut pieces = bytes.chunks_exact(8);
    for piece in &mut pieces {
        let word = le64(piece) ^ u64::from(crc);
        let byte = |k: u32| (word >> (8 * k) & 0xff) as usize;
        let t = &CRC_TABLES;
        crc = t[7][byte(0)] ^ t[6][byte(1)] ^ t[5][byte(2)] ^ t[4][byte(3)];
        crc ^= t[3][byte(4)] ^ t[2][byte(5)] ^ t[1][byte(6)] ^ t[0][byte(7)];
    }
    for &byte in pieces.remainder() {
        crc = crc >> 8 ^ CRC_TABLES[0][((crc ^ u32::from(byte)) & 0xff) as usize];
    }
    !crc
}
