//! How much of each piece of a device changed: what pictures are drawn from. As large as the picture, however much
//! changed.

use bowline_api::{Changes, Extent};

use super::walk::{Sink, Totals};
use crate::cli::Result;

/// A piece is untouched (0), or touched in one of eight degrees.
pub(super) const DEGREES: u64 = 8;

/// The changed bytes of every piece.
#[derive(Debug)]
pub(super) struct Density {
    /// The most pieces there may be.
    pieces_max: u64,
    /// Bytes of a piece: a whole number of tracked blocks.
    pub(super) piece: u64,
    pub(super) summary: String,
    size: u64,
    changed: Vec<u64>,
}

impl Density {
    /// For a picture with room for so many pieces.
    pub(super) fn new(pieces_max: usize) -> Self {
        let pieces_max = u64::try_from(pieces_max).unwrap_or(u64::MAX).max(1);
        Density { pieces_max, piece: 1, summary: String::new(), size: 0, changed: Vec::new() }
    }

    /// For a PNG file.
    pub(super) fn for_picture() -> Self {
        Density::new(super::picture::PIECES_MAX)
    }

    /// The degree of every piece. A single changed byte shows: the lowest degree is kept for "nothing".
    pub(super) fn degrees(&self) -> Vec<u8> {
        self.changed.iter().map(|&bytes| degree(bytes, self.piece)).collect()
    }

    pub(super) fn begin_with(&mut self, head: &Changes) {
        let granularity = head.granularity.max(1);
        let least = head.size.div_ceil(self.pieces_max).max(1);
        self.piece = least.div_ceil(granularity).saturating_mul(granularity);
        self.size = head.size;
        let pieces = usize::try_from(head.size.div_ceil(self.piece)).unwrap_or(0);
        self.changed = vec![0; pieces];
    }

    pub(super) fn add(&mut self, extent: Extent) {
        let end = extent.offset.saturating_add(extent.length).min(self.size);
        let mut at = extent.offset;
        while at < end {
            let index = at / self.piece;
            let stop = (index + 1).saturating_mul(self.piece).min(end);
            if let Some(bytes) = usize::try_from(index).ok().and_then(|index| self.changed.get_mut(index)) {
                *bytes = bytes.saturating_add(stop - at);
            }
            at = stop;
        }
    }
}

fn degree(changed: u64, piece: u64) -> u8 {
    let scaled = u128::from(changed) * u128::from(DEGREES);
    u8::try_from(scaled.div_ceil(u128::from(piece.max(1))).min(DEGREES.into())).unwrap_or(0)
}

impl Sink for Density {
    fn begin(&mut self, head: &Changes) -> Result<()> {
        self.begin_with(head);
        Ok(())
    }

    fn extent(&mut self, extent: Extent) -> Result<()> {
        self.add(extent);
        Ok(())
    }

    fn end(&mut self, head: &Changes, totals: &Totals) -> Result<()> {
        self.summary = super::summary(head, totals);
        Ok(())
    }
}
