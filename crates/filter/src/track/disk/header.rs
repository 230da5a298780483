//! The header: who and what the tracker is of.

use bowline_block::{ByteRange, Result};
use uuid::Uuid;

use super::super::current::Shape;
use super::super::fingerprint::Fingerprint;
use super::super::grain::Grain;
use super::super::identity::Identity;
use super::bytes::{Reader, corrupt, crc32c, seal};

const MAGIC: [u8; 8] = *b"BWTRACK1";
/// Bytes of the file at most.
pub(crate) const HEADER_BYTES_MAX: usize = 512 << 10;
/// Excluded ranges at most.
pub(crate) const EXCLUDED_MAX: usize = 8192;

/// Where the run stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// Writes may have come since: what is not in `sets` is in `intents`.
    Running,
    /// It was stopped in order: `sets` has this length, `live` this checksum, the device this fingerprint.
    Clean { sets_len: u64, live_crc: u32, fingerprint: Fingerprint },
}

/// The header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) identity: Identity,
    /// The generation's, which may be others than a new one would have.
    pub(crate) blocks: Grain,
    pub(crate) regions: Grain,
    pub(crate) generation: Uuid,
    pub(crate) session: Uuid,
    pub(crate) previous_session: Uuid,
    /// The epoch that was going on when this was written.
    pub(crate) epoch: u64,
    /// No epoch from this one on was ever given out.
    pub(crate) epoch_limit: u64,
    /// The epoch that `live` belongs to; 0 for none.
    pub(crate) live_epoch: u64,
    /// The sets of the epochs up to this one were durable when this was written.
    pub(crate) saved_epoch: u64,
    pub(crate) excluded: Vec<ByteRange>,
    pub(crate) state: State,
}

impl Header {
    pub(crate) fn shape(&self) -> Shape {
        Shape { size: self.identity.size, blocks: self.blocks, regions: self.regions }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend(MAGIC);
        out.extend([0; 8]);
        out.push(match self.state {
            State::Running => 1,
            State::Clean { .. } => 2,
        });
        out.push(u8::try_from(self.blocks.shift()).unwrap_or(0));
        out.push(u8::try_from(self.regions.shift()).unwrap_or(0));
        out.extend([0; 5]);
        out.extend(self.identity.size.to_le_bytes());
        for id in [self.generation, self.session, self.previous_session] {
            out.extend(id.as_bytes());
        }
        for number in [self.epoch, self.epoch_limit, self.live_epoch, self.saved_epoch] {
            out.extend(number.to_le_bytes());
        }
        self.identity.encode(&mut out);
        out.extend(u32::try_from(self.excluded.len()).unwrap_or(u32::MAX).to_le_bytes());
        for range in &self.excluded {
            out.extend(range.start().to_le_bytes());
            out.extend(range.len().to_le_bytes());
        }
        if let State::Clean { sets_len, live_crc, fingerprint } = &self.state {
            out.extend(sets_len.to_le_bytes());
            out.extend(live_crc.to_le_bytes());
            fingerprint.encode(&mut out);
        }
        let len = u32::try_from(out.len()).unwrap_or(u32::MAX).to_le_bytes();
        if let Some(room) = out.get_mut(12..16) {
            room.copy_from_slice(&len);
        }
        seal(&mut out, 8);
        out
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(data);
        if reader.array::<8>()? != MAGIC {
            return Err(corrupt("it is no header of a tracker, or of another version"));
        }
        let crc = reader.u32()?;
        if crc32c(&[reader.rest()]) != crc {
            return Err(corrupt("its checksum is wrong"));
        }
        let len = reader.u32()?;
        if len as usize != data.len() {
            return Err(corrupt(format!("it should have {len} bytes and has {}", data.len())));
        }
        let state = reader.u8()?;
        let (block_shift, region_shift) = (reader.u8()?, reader.u8()?);
        reader.take(5)?;
        let size = reader.u64()?;
        let (generation, session, previous_session) = (reader.uuid()?, reader.uuid()?, reader.uuid()?);
        let (epoch, epoch_limit) = (reader.u64()?, reader.u64()?);
        let (live_epoch, saved_epoch) = (reader.u64()?, reader.u64()?);
        if epoch_limit <= epoch || epoch_limit > u64::MAX / 2 || live_epoch > epoch || saved_epoch >= epoch {
            let why = format!("epochs {epoch}, {epoch_limit}, {live_epoch} and {saved_epoch} do not agree");
            return Err(corrupt(why));
        }
        let identity = Identity::decode(size, &mut reader)?;
        let grains = Grain::read(size, block_shift, region_shift);
        let (blocks, regions) = grains.ok_or_else(|| {
            corrupt(format!(
                "blocks of 2^{block_shift} and regions of 2^{region_shift} bytes do not fit its size"
            ))
        })?;
        let count = reader.u32()? as usize;
        if count > EXCLUDED_MAX {
            return Err(corrupt(format!("it excludes {count} ranges")));
        }
        let mut excluded = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let (start, len) = (reader.u64()?, reader.u64()?);
            let range =
                ByteRange::checked(start, len).ok_or_else(|| corrupt("an excluded range overflows"))?;
            excluded.push(range);
        }
        let state = match state {
            1 => State::Running,
            2 => State::Clean {
                sets_len: reader.u64()?,
                live_crc: reader.u32()?,
                fingerprint: Fingerprint::decode(&mut reader)?,
            },
            other => return Err(corrupt(format!("its state is {other}"))),
        };
        if !reader.rest().is_empty() {
            return Err(corrupt(format!("{} bytes follow its end", reader.rest().len())));
        }
        Ok(Self {
            identity,
            blocks,
            regions,
            generation,
            session,
            previous_session,
            epoch,
            epoch_limit,
            live_epoch,
            saved_epoch,
            excluded,
            state,
        })
    }
}
