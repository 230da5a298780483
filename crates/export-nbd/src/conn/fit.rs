//! Extents as the wire wants them: whole blocks, within the range asked about, neighbours that are alike merged.

use bowline_block::ByteRange;
use bowline_nbd::Extent;

/// Makes at most `max` extents of whole blocks of `unit` bytes from `pieces` (length, flags), which begin at the start of
/// `range`. Flags of pieces that share a block are put together by `combine`; what is not known of a block is `safe`.
pub(super) fn fit(
    range: ByteRange,
    unit: u64,
    max: usize,
    pieces: impl Iterator<Item = (u64, u64)>,
    combine: fn(u64, u64) -> u64,
    safe: u64,
) -> Vec<Extent> {
    let unit = unit.max(1);
    let mut fitted = Fitted { extents: Vec::new(), max, full: false };
    // Offsets from the start of the range, which is that of a block.
    let (mut done, mut at) = (0, 0_u64);
    let mut partial: Option<u64> = None;
    for (length, flags) in pieces {
        let end = at.saturating_add(length).min(range.len());
        if end == at || fitted.full {
            continue;
        }
        at = end;
        if let Some(before) = partial.take() {
            let both = combine(before, flags);
            if end < done + unit {
                partial = Some(both);
                continue;
            }
            fitted.push(unit, both);
            done += unit;
        }
        let whole = end - end % unit;
        fitted.push(whole - done, flags);
        done = whole;
        partial = (end > whole).then_some(flags);
    }
    if let Some(flags) = partial {
        let length = unit.min(range.len() - done);
        let known_whole = at == done + length;
        fitted.push(length, if known_whole { flags } else { combine(flags, safe) });
    }
    fitted.extents
}

struct Fitted {
    extents: Vec<Extent>,
    max: usize,
    /// Something was left out: what follows would be out of place.
    full: bool,
}

impl Fitted {
    fn push(&mut self, length: u64, flags: u64) {
        if length == 0 || self.full {
            return;
        }
        self.full = self.extents.len() >= self.max;
        match self.extents.last_mut() {
            Some(last) if last.flags == flags => (last.length, self.full) = (last.length + length, false),
            _ if self.full => {}
            _ => self.extents.push(Extent { length, flags }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirty(range: ByteRange, unit: u64, max: usize, pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let fitted = fit(range, unit, max, pieces.iter().copied(), |one, other| one | other, 1);
        fitted.iter().map(|extent| (extent.length, extent.flags)).collect()
    }

    #[test]
    fn pieces_are_merged_cut_to_the_range_and_bounded() {
        let range = ByteRange::new(8192, 4096);
        assert_eq!(
            dirty(range, 512, 9, &[(512, 1), (0, 0), (512, 1), (u64::MAX, 0)]),
            [(1024, 1), (3072, 0)]
        );
        assert_eq!(dirty(range, 512, 1, &[(512, 1), (512, 1), (512, 0), (512, 1)]), [(1024, 1)]);
        assert_eq!(dirty(range, 512, 2, &[(512, 1), (512, 0), (512, 1), (512, 0)]), [(512, 1), (512, 0)]);
        assert_eq!(dirty(range, 512, 9, &[]), []);
    }

    #[test]
    fn a_block_that_is_dirty_in_part_is_dirty() {
        let range = ByteRange::new(0, 16384);
        let pieces = [(1, 0), (1, 1), (4094, 0), (4096, 0), (4000, 0), (4192, 1)];
        assert_eq!(dirty(range, 4096, 9, &pieces), [(4096, 1), (4096, 0), (8192, 1)]);
        // What is not told of a block is dirty, what was told of all of it is not.
        assert_eq!(dirty(range, 4096, 9, &[(4100, 0)]), [(4096, 0), (4096, 1)]);
        assert_eq!(dirty(ByteRange::new(0, 4608), 4096, 9, &[(4608, 0)]), [(4608, 0)]);
    }

    /// Against a judge that looks at every byte.
    #[test]
    fn every_block_has_what_its_bytes_have() {
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let unit = 1 << random(5);
            let range = ByteRange::new(unit * random(9), unit * (1 + random(20)));
            let pieces: Vec<(u64, u64)> = (0..random(12)).map(|_| (random(40), random(2))).collect();
            let mut bytes: Vec<u64> = Vec::new();
            for &(length, flags) in &pieces {
                bytes.extend((0..length).map(|_| flags));
            }
            bytes.truncate(usize::try_from(range.len()).unwrap());
            let blocks = bytes
                .chunks(usize::try_from(unit).unwrap())
                .map(|block| u64::from(block.contains(&1) || (block.len() as u64) < unit));
            let expected: Vec<u64> = blocks.collect();
            let fitted = dirty(range, unit, 1000, &pieces);
            let found: Vec<u64> = fitted
                .iter()
                .flat_map(|&(length, flags)| {
                    assert!(length > 0 && length % unit == 0);
                    std::iter::repeat_n(flags, usize::try_from(length / unit).unwrap())
                })
                .collect();
            assert_eq!(found, expected, "{unit} {range} {pieces:?}");
            assert!(fitted.windows(2).all(|pair| pair[0].1 != pair[1].1), "not merged: {fitted:?}");
        }
    }
}
