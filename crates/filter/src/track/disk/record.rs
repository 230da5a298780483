//! Records of epochs: which blocks changed in them.

use std::sync::Arc;

use bowline_block::Result;
use roaring::RoaringBitmap;
use uuid::Uuid;

use super::super::epochs::{NAME_BYTES_MAX, NAMES_MAX};
use super::bytes::{Reader, corrupt, put_text, seal};

const MAGIC: [u8; 4] = *b"BWTs";
/// Bytes before the names.
pub(crate) const HEAD_BYTES: usize = 56;
/// Bytes of a record at most: a dense set, all names there can be, and room.
pub(crate) const RECORD_BYTES_MAX: u64 = 80 << 20;

/// A record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) generation: Uuid,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) names: Vec<(u64, Arc<str>)>,
    pub(crate) set: Arc<RoaringBitmap>,
}

/// The length that the head of a record claims.
pub(crate) fn claimed_len(head: &[u8]) -> Result<u64> {
    let mut reader = Reader::new(head);
    if reader.array::<4>()? != MAGIC {
        return Err(corrupt("no record begins there"));
    }
    reader.take(4)?;
    let len = reader.u64()?;
    if len < HEAD_BYTES as u64 || len > RECORD_BYTES_MAX {
        return Err(corrupt(format!("a record claims {len} bytes")));
    }
    Ok(len)
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.set.serialized_size());
        out.extend(MAGIC);
        out.extend([0; 12]);
        out.extend(self.generation.as_bytes());
        out.extend(self.first.to_le_bytes());
        out.extend(self.last.to_le_bytes());
        out.extend(u32::try_from(self.names.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend([0; 4]);
        for (epoch, name) in &self.names {
            out.extend(epoch.to_le_bytes());
            put_text(&mut out, name);
        }
        // Writing to memory does not fail.
        let _ = self.set.serialize_into(&mut out);
        let len = out.len() as u64;
        if let Some(room) = out.get_mut(8..16) {
            room.copy_from_slice(&len.to_le_bytes());
        }
        seal(&mut out, 4);
        out
    }

    /// Reads a record of a device of so many blocks; `data` is the record and nothing else.
    pub(crate) fn decode(data: &[u8], blocks: u64) -> Result<Self> {
        let len = claimed_len(data)?;
        if len != data.len() as u64 {
            return Err(corrupt(format!("a record of {len} bytes has {}", data.len())));
        }
        let mut sealed = data.get(..8).unwrap_or_default().to_vec();
        let crc = super::bytes::crc32c(&[data.get(8..).unwrap_or_default()]);
        sealed.splice(4.., crc.to_le_bytes());
        if data.get(..8) != Some(&sealed) {
            return Err(corrupt("its checksum is wrong"));
        }
        let mut reader = Reader::new(data.get(16..).unwrap_or_default());
        let generation = reader.uuid()?;
        let (first, last) = (reader.u64()?, reader.u64()?);
        if first == 0 || last < first || last == u64::MAX {
            return Err(corrupt(format!("it is of epochs {first} to {last}")));
        }
        let count = reader.u32()? as usize;
        reader.take(4)?;
        if count > NAMES_MAX {
            return Err(corrupt(format!("it has {count} names")));
        }
        let mut names = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let epoch = reader.u64()?;
            let name = reader.text()?;
            if epoch < first || epoch > last || name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(corrupt(format!("a name of epoch {epoch} is in a record of {first} to {last}")));
            }
            names.push((epoch, Arc::from(name)));
        }
        let mut rest = reader.rest();
        let set = RoaringBitmap::deserialize_from(&mut rest)
            .map_err(|error| corrupt("its set cannot be read").source(error))?;
        if !rest.is_empty() {
            return Err(corrupt(format!("{} bytes follow its set", rest.len())));
        }
        if let Some(last) = set.max()
            && u64::from(last) >= blocks
        {
            return Err(corrupt(format!("block {last} changed on a device of {blocks}")));
        }
        Ok(Self { generation, first, last, names, set: Arc::new(set) })
    }
}
