//! Granules, the unit of copying, and words of their bits.

use bowline_block::ByteRange;

/// Bytes of a granule, whatever the logical block size. The last one of a device may be short.
pub const GRANULE_BYTES: u64 = 4096;

/// Granules whose bits share a word.
pub(crate) const WORD_GRANULES: u64 = 64;

/// A run of granules of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granules {
    pub(crate) first: u64,
    /// The one after the last.
    pub(crate) end: u64,
}

impl Granules {
    /// All granules that share a byte with the range.
    pub(crate) const fn touched_by(range: ByteRange) -> Self {
        let first = range.start() / GRANULE_BYTES;
        let end = if range.is_empty() { first } else { range.end().div_ceil(GRANULE_BYTES) };
        Self { first, end }
    }

    /// All granules that lie wholly inside the range; a short one at the end of a device of `size` bytes counts.
    pub(crate) const fn inside(range: ByteRange, size: u64) -> Self {
        let first = range.start().div_ceil(GRANULE_BYTES);
        let last =
            if range.end() >= size { size.div_ceil(GRANULE_BYTES) } else { range.end() / GRANULE_BYTES };
        Self { first, end: if last > first { last } else { first } }
    }

    pub(crate) const fn len(self) -> u64 {
        self.end.saturating_sub(self.first)
    }

    /// Their bytes on a device of `size` bytes.
    pub(crate) fn bytes(self, size: u64) -> ByteRange {
        ByteRange::between(
            self.first.saturating_mul(GRANULE_BYTES).min(size),
            self.end.saturating_mul(GRANULE_BYTES).min(size),
        )
    }

    /// Those that are in both.
    pub(crate) fn intersection(self, other: Self) -> Self {
        let first = self.first.max(other.first);
        Self { first, end: self.end.min(other.end).max(first) }
    }
}

/// The bits of word `word` that belong to granules of `from..to`.
pub(crate) const fn mask_of(word: u64, from: u64, to: u64) -> u64 {
    let base = word * WORD_GRANULES;
    if to <= base || from >= base + WORD_GRANULES {
        return 0;
    }
    let low = from.saturating_sub(base);
    let high = if to - base < WORD_GRANULES { to - base } else { WORD_GRANULES };
    let above = u64::MAX << low;
    let below = u64::MAX >> (WORD_GRANULES - high);
    above & below
}

/// The first granule of `from..to` whose bit is `set`, or `to`.
pub(crate) fn find(from: u64, to: u64, set: bool, word_at: impl Fn(u64) -> u64) -> u64 {
    let mut at = from;
    while at < to {
        let word = at / WORD_GRANULES;
        let bits = word_at(word);
        let hits = if set { bits } else { !bits } & mask_of(word, at, to);
        if hits != 0 {
            return word * WORD_GRANULES + u64::from(hits.trailing_zeros());
        }
        at = (word + 1) * WORD_GRANULES;
    }
    to
}
