//! Sectors of intent bits.
//!
//! The file is two halves, one for even epochs and one for odd ones; a half is an array of sectors of 512 bytes, each
//! with the bits of 3840 regions. A sector that belongs to another epoch or generation says nothing: so nothing has to
//! be cleared at a take.

use uuid::Uuid;

use super::bytes::{Reader, corrupt, seal};
use bowline_block::Result;

pub(crate) const SECTOR_BYTES: usize = 512;
const HEAD_BYTES: usize = 32;
pub(crate) const SECTOR_WORDS: u64 = (SECTOR_BYTES as u64 - HEAD_BYTES as u64) / 8;
/// Regions of a sector.
pub(crate) const SECTOR_REGIONS: u64 = SECTOR_WORDS * 64;
const MAGIC: [u8; 4] = *b"BWTi";

/// Sectors of one half for so many regions.
pub(crate) const fn sectors_of(regions: u64) -> u64 {
    let sectors = regions.div_ceil(SECTOR_REGIONS);
    if sectors == 0 { 1 } else { sectors }
}

/// Bytes of the file for so many regions.
pub(crate) const fn file_bytes(regions: u64) -> u64 {
    2 * sectors_of(regions) * SECTOR_BYTES as u64
}

/// Where a sector of an epoch is.
pub(crate) const fn offset_of(epoch: u64, sector: u64, regions: u64) -> u64 {
    (epoch % 2 * sectors_of(regions) + sector) * SECTOR_BYTES as u64
}

/// The part of a generation that a sector carries.
pub(crate) fn generation_part(generation: Uuid) -> [u8; 8] {
    let bytes = generation.as_bytes();
    std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0))
}

/// What a sector says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sector {
    pub(crate) epoch: u64,
    pub(crate) generation: [u8; 8],
    /// Which one of its half.
    pub(crate) index: u32,
    pub(crate) words: Vec<u64>,
}

impl Sector {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SECTOR_BYTES);
        out.extend(MAGIC);
        out.extend([0; 4]);
        out.extend(self.epoch.to_le_bytes());
        out.extend(self.generation);
        out.extend(self.index.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        out.resize(SECTOR_BYTES, 0);
        seal(&mut out, 4);
        out
    }

    pub(crate) fn decode(data: &[u8], index: u32) -> Result<Self> {
        let mut sealed = data.get(..SECTOR_BYTES).ok_or_else(|| corrupt("the sector is short"))?.to_vec();
        seal(&mut sealed, 4);
        let mut reader = Reader::new(data);
        if reader.array::<4>()? != MAGIC {
            return Err(corrupt("it is no sector of intents"));
        }
        if sealed.get(4..8) != data.get(4..8) {
            return Err(corrupt("its checksum is wrong"));
        }
        reader.take(4)?;
        let epoch = reader.u64()?;
        let generation = reader.array()?;
        let found = reader.u32()?;
        if found != index {
            return Err(corrupt(format!("it is sector {found}, not {index}")));
        }
        reader.take(4)?;
        let words = (0..SECTOR_WORDS).map(|_| reader.u64()).collect::<Result<_>>()?;
        Ok(Self { epoch, generation, index, words })
    }
}
