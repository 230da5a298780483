//! What the disk must hold, and the proof that it does.
//!
//! Design notes: writes are numbered from 1 and each is acknowledged before the next is sent, so every instant of the
//! disk's life is the original plus the writes 1..n for one n. The proof finds n as the highest number in the image, and
//! from there trusts nothing but bytes: every block of the image must be that of the last write up to n that went there,
//! made anew, or else the original's. So a missing write, a later one, and a single wrong byte anywhere all show.

use std::collections::HashMap;
use std::fmt;

use super::image::{Block, BlockIndex, Image};
use super::tag::{Tag, TagKind};

/// The number of a write; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WriteNumber(pub(super) u64);

impl fmt::Display for WriteNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The contents of write `number`, which goes to `block`.
pub(super) fn content(number: WriteNumber, block: BlockIndex) -> Block {
    Tag { kind: TagKind::Write, number: number.0, place: block.0 }.fill()
}

/// The original disk and where each write went, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model<'a> {
    pub(super) original: &'a Image,
    pub(super) writes: &'a [BlockIndex],
}

/// Where and how a disk is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("it has {found} bytes and not {expected}")]
    Size { expected: u64, found: u64 },
    #[error(
        "it ends with write {found}, but {acknowledged} were acknowledged before and {sent} were sent after the instant"
    )]
    Instant { found: WriteNumber, acknowledged: WriteNumber, sent: WriteNumber },
    #[error("byte {byte} (in block {}) is not that of {}", .block.0, Origin(*.expected))]
    Contents { block: BlockIndex, byte: u64, expected: Option<WriteNumber> },
}

/// Whose contents a block must hold.
struct Origin(Option<WriteNumber>);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "write {number}"),
            None => f.write_str("the original disk"),
        }
    }
}

impl Model<'_> {
    /// The number of the last write.
    pub(super) fn last(&self) -> WriteNumber {
        WriteNumber(u64::try_from(self.writes.len()).unwrap_or(u64::MAX))
    }

    /// Proves that `image` is the disk at one instant, when at least `acknowledged` and at most `sent` writes had been
    /// made; returns the number of the last write in it.
    pub(super) fn prove_instant(
        &self,
        image: &Image,
        acknowledged: WriteNumber,
        sent: WriteNumber,
    ) -> Result<WriteNumber, Damage> {
        let found = highest(image);
        if found < acknowledged || found > sent || found > self.last() {
            return Err(Damage::Instant { found, acknowledged, sent: sent.min(self.last()) });
        }
        self.prove(image, found)?;
        Ok(found)
    }

    /// Proves that `image` is the original disk plus exactly the writes up to `last`.
    pub(super) fn prove(&self, image: &Image, last: WriteNumber) -> Result<(), Damage> {
        if image.len() != self.original.len() {
            return Err(Damage::Size { expected: self.original.size(), found: image.size() });
        }
        let numbers = (1..=last.0).map(WriteNumber);
        let newest: HashMap<BlockIndex, WriteNumber> = self.writes.iter().copied().zip(numbers).collect();
        for ((block, original), (_, found)) in self.original.iter().zip(image.iter()) {
            let expected = newest.get(&block).copied();
            let differs = match expected {
                Some(number) => first_difference(&content(number, block), found),
                None => first_difference(original, found),
            };
            if let Some(byte) = differs {
                return Err(Damage::Contents { block, byte: block.offset().saturating_add(byte), expected });
            }
        }
        Ok(())
    }
}

/// The highest number of a write that `image` holds whole; 0 without any.
fn highest(image: &Image) -> WriteNumber {
    let numbers = image.iter().filter_map(|(block, bytes)| {
        Tag::read(TagKind::Write, bytes).filter(|tag| tag.place == block.0).map(|tag| tag.number)
    });
    WriteNumber(numbers.max().unwrap_or(0))
}

fn first_difference(expected: &Block, found: &Block) -> Option<u64> {
    if expected == found {
        return None;
    }
    (0..)
        .zip(expected.iter().zip(found))
        .find(|(_, (expected, found))| expected != found)
        .map(|(byte, _)| byte)
}

#[cfg(test)]
mod tests;
