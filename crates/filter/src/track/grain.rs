//! Blocks, the unit of tracking, and regions, the unit of intents: how large they are on a device of some size.

use bowline_block::ByteRange;

/// Blocks of the largest map: its bits and the table of its leaves stay under 64 MiB together.
pub(crate) const BLOCKS_MAX: u64 = (1 << 29) / 128 * 127;
/// Blocks that files may speak of: earlier ones did not count the table.
const BLOCKS_READ_MAX: u64 = 1 << 29;
const BLOCK_SHIFT_MIN: u32 = 12;

/// Regions of the largest device: one bit each, half a MiB.
pub(crate) const REGIONS_MAX: u64 = 1 << 22;
/// A region is a thousandth of the device, within these.
const REGION_SHIFT_MIN: u32 = 16;
const REGION_SHIFT_USUAL: u32 = 22;
const REGIONS_WANTED_SHIFT: u32 = 10;

/// A power of two of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grain {
    shift: u32,
}

/// A run of blocks or regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    /// The one after the last.
    pub(crate) end: u64,
}

impl Run {
    pub(crate) const fn is_empty(self) -> bool {
        self.end <= self.first
    }

    pub(crate) fn cut_to(self, end: u64) -> Self {
        Self { first: self.first.min(end), end: self.end.min(end) }
    }
}

impl Grain {
    /// Blocks of a device: 4 KiB below 2 TiB, 64 KiB from 16 TiB on; on larger ones whatever keeps the map in its bound.
    pub(crate) const fn blocks_of(size: u64) -> Self {
        Self::fitting(size, BLOCK_SHIFT_MIN, BLOCKS_MAX)
    }

    /// Regions of a device: 64 KiB up to 64 MiB, 4 MiB from 2 GiB to 16 TiB.
    pub(crate) const fn regions_of(size: u64) -> Self {
        let mut shift = REGION_SHIFT_MIN;
        while shift < REGION_SHIFT_USUAL && size > 1 << (shift + REGIONS_WANTED_SHIFT) {
            shift += 1;
        }
        Self::fitting(size, shift, REGIONS_MAX)
    }

    /// Blocks and regions as a file tells them, if a device of that size can have such.
    pub(crate) fn read(size: u64, block_shift: u8, region_shift: u8) -> Option<(Self, Self)> {
        let (blocks, regions) = (Self { shift: block_shift.into() }, Self { shift: region_shift.into() });
        let sound = (BLOCK_SHIFT_MIN..u64::BITS).contains(&blocks.shift)
            && (REGION_SHIFT_MIN.max(blocks.shift)..u64::BITS).contains(&regions.shift);
        let fits = sound && blocks.count(size) <= BLOCKS_READ_MAX && regions.count(size) <= REGIONS_MAX;
        fits.then_some((blocks, regions))
    }

    const fn fitting(size: u64, shift_min: u32, count_max: u64) -> Self {
        let mut shift = shift_min;
        while (size >> shift) >= count_max && !(size >> shift == count_max && size & ((1 << shift) - 1) == 0)
        {
            shift += 1;
        }
        Self { shift }
    }

    pub(crate) const fn bytes(self) -> u64 {
        1 << self.shift
    }

    pub(crate) const fn shift(self) -> u32 {
        self.shift
    }

    /// How many a device of `size` bytes has.
    pub(crate) const fn count(self, size: u64) -> u64 {
        size.div_ceil(self.bytes())
    }

    /// All that share a byte with the range.
    #[inline]
    pub(crate) const fn touched_by(self, range: ByteRange) -> Run {
        let first = range.start() >> self.shift;
        if range.is_empty() {
            return Run { first, end: first };
        }
        Run { first, end: ((range.end() - 1) >> self.shift) + 1 }
    }

    /// The bytes of a run on a device of `size` bytes.
    pub(crate) fn range_of(self, run: Run, size: u64) -> ByteRange {
        let byte = |at: u64| at.saturating_mul(self.bytes()).min(size);
        ByteRange::between(byte(run.first), byte(run.end))
    }
}

/// The bits of word `word` that belong to `run`.
#[inline]
pub(crate) const fn mask_of(word: u64, run: Run) -> u64 {
    let base = word * 64;
    if run.end <= base || run.first >= base + 64 {
        return 0;
    }
    let low = run.first.saturating_sub(base);
    let high = if run.end - base < 64 { run.end - base } else { 64 };
    (u64::MAX << low) & (u64::MAX >> (64 - high))
}
