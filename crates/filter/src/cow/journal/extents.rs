//! Which blocks are where: runs of blocks in slots, or of zeroes.

use std::collections::BTreeMap;

use super::record::{Place, Slots, Zero};

/// Consecutive blocks, in consecutive slots of one segment or all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// `None` for zeroes.
    pub(crate) at: Option<Place>,
}

impl Piece {
    pub(crate) fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// What of it lies in `from..to`.
    fn part(&self, from: u64, to: u64) -> Option<Self> {
        let (first, end) = (self.first.max(from), self.end().min(to));
        let skipped = first.saturating_sub(self.first);
        (first < end).then(|| Self { first, count: end - first, at: self.at.map(|at| at.plus(skipped)) })
    }
}

impl From<&Slots> for Piece {
    fn from(slots: &Slots) -> Self {
        Self { first: slots.first, count: slots.crcs.len() as u64, at: Some(slots.at) }
    }
}

impl From<&Zero> for Piece {
    fn from(zero: &Zero) -> Self {
        Self { first: zero.first, count: zero.count, at: None }
    }
}

/// Pieces that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extents(BTreeMap<u64, (u64, Option<Place>)>);

impl Extents {
    /// Puts a piece in, over whatever was there.
    pub(crate) fn put(&mut self, piece: Piece) {
        let mut overlapping: Vec<Piece> = Vec::new();
        if let Some(before) = self.range_before(piece.first) {
            overlapping.push(before);
        }
        let inside = self.0.range(piece.first..piece.end());
        overlapping.extend(inside.map(|(&first, &(count, at))| Piece { first, count, at }));
        for old in overlapping {
            self.0.remove(&old.first);
            for kept in [old.part(0, piece.first), old.part(piece.end(), u64::MAX)].into_iter().flatten() {
                self.0.insert(kept.first, (kept.count, kept.at));
            }
        }
        self.0.insert(piece.first, (piece.count, piece.at));
    }

    /// The piece that begins before `at` and reaches beyond it.
    fn range_before(&self, at: u64) -> Option<Piece> {
        let (&first, &(count, place)) = self.0.range(..at).next_back()?;
        Some(Piece { first, count, at: place }).filter(|piece| piece.end() > at)
    }

    /// All pieces, in the order of the blocks.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.0.iter().map(|(&first, &(count, at))| Piece { first, count, at })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
