//! Changes as bytes, in the form of `docs/format/changes-raw.md`.

use bowline_api::{Changes, Extent};

use super::walk::{Sink, Totals};
use crate::cli::{Output, Result};

const MAGIC: [u8; 8] = *b"BWLCHG\x01\n";
const HEADER_BYTES: u64 = 64;
/// In place of an epoch: there is none.
const NO_EPOCH: u64 = u64::MAX;
/// Of a length: what it is the length of reads as zeroes. No device is so large that it were part of a length.
const ZERO: u64 = 1 << 63;

/// A header, pairs of numbers, and a pair that ends them.
pub(super) struct Bytes<'a, 'b> {
    output: &'a mut Output<'b>,
    pairs: u64,
}

impl<'a, 'b> Bytes<'a, 'b> {
    pub(super) fn new(output: &'a mut Output<'b>) -> Self {
        Bytes { output, pairs: 0 }
    }

    fn pair(&mut self, first: u64, second: u64) -> Result<()> {
        self.output.bytes(&[first.to_le_bytes(), second.to_le_bytes()].concat())
    }
}

impl Sink for Bytes<'_, '_> {
    fn begin(&mut self, head: &Changes) -> Result<()> {
        self.output.bytes(&MAGIC)?;
        self.output.bytes(&HEADER_BYTES.to_le_bytes())?;
        self.pair(head.size, head.granularity)?;
        self.output.bytes(head.generation.unwrap_or_default().as_bytes())?;
        self.pair(head.since_epoch.unwrap_or(NO_EPOCH), head.until_epoch.unwrap_or(NO_EPOCH))
    }

    fn piece(&mut self, piece: Extent, zero: bool) -> Result<()> {
        self.pairs += 1;
        self.pair(piece.offset, piece.length | if zero { ZERO } else { 0 })
    }

    /// Without it, what was read is not all there is.
    fn end(&mut self, _: &Changes, _: &Totals) -> Result<()> {
        self.pair(self.pairs, 0)
    }
}
