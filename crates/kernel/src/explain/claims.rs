//! Bytes that nobody has claimed yet.

use std::collections::BTreeMap;

use bowline_block::ByteRange;

/// Disjoint pieces, from their start to their end, in bytes of the file system's device.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<u64, u64>);

impl Claims {
    /// What lies within the device of `size` bytes that begins at `offset`; and bytes and pieces of what does not.
    pub(super) fn new(extents: &[ByteRange], offset: u64, size: u64) -> (Self, (u64, u64)) {
        let mut sorted: Vec<ByteRange> = extents.iter().copied().filter(|range| !range.is_empty()).collect();
        sorted.sort_by_key(|range| range.start());
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some((_, end)) if *end >= range.start() => *end = (*end).max(range.end()),
                _ => merged.push((range.start(), range.end())),
            }
        }
        let (first, end) = (offset, offset.saturating_add(size));
        let mut claims = Self::default();
        let mut outside = (0, 0);
        for range in merged {
            let parts = [(range.0, range.1.min(first)), (range.0.max(end), range.1)];
            for (start, end) in parts {
                if start < end {
                    outside = (outside.0 + end - start, outside.1 + 1);
                }
            }
            let (start, end) = (range.0.max(first), range.1.min(end));
            if start < end {
                claims.0.insert(start - offset, end - offset);
            }
        }
        (claims, outside)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn pieces(&self) -> usize {
        self.0.len()
    }

    /// From the first to the last of what is left.
    pub(super) fn span(&self) -> Option<ByteRange> {
        let (first, _) = self.0.first_key_value()?;
        let (_, end) = self.0.last_key_value()?;
        Some(ByteRange::between(*first, *end))
    }

    /// Claims what is left of a range: bytes and pieces.
    pub(super) fn take(&mut self, range: ByteRange) -> (u64, u64) {
        let (mut bytes, mut pieces) = (0, 0);
        if range.is_empty() {
            return (0, 0);
        }
        while let Some((&start, &end)) = self.0.range(..range.end()).next_back() {
            if end <= range.start() {
                break;
            }
            self.0.remove(&start);
            if end > range.end() {
                self.0.insert(range.end(), end);
            }
            if start < range.start() {
                self.0.insert(start, range.start());
            }
            bytes += end.min(range.end()) - start.max(range.start());
            pieces += 1;
        }
        (bytes, pieces)
    }

    /// Claims everything.
    pub(super) fn take_all(&mut self) -> (u64, u64) {
        let all = std::mem::take(&mut self.0);
        all.iter().fold((0, 0), |sum, (start, end)| (sum.0 + end - start, sum.1 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a judge that has a flag per byte.
        #[test]
        fn every_byte_is_claimed_once(
            asked in prop::collection::vec((0_u64..200, 0_u64..40), 0..12),
            offset in 0_u64..60,
            size in 0_u64..200,
            takes in prop::collection::vec((0_u64..200, 0_u64..60), 0..20),
        ) {
            let ranges: Vec<ByteRange> = asked.iter().map(|&(start, len)| ByteRange::new(start, len)).collect();
            let is_asked = |byte: u64| ranges.iter().any(|range| range.start() <= byte && byte < range.end());
            let (mut claims, outside) = Claims::new(&ranges, offset, size);
            let total = (0..300).filter(|&byte| is_asked(byte)).count() as u64;
            let mut left: Vec<bool> =
                (0..size).map(|byte| is_asked(byte + offset)).collect();
            prop_assert_eq!(outside.0 + left.iter().filter(|left| **left).count() as u64, total);
            let mut sum = outside.0;
            for (start, len) in takes {
                let range = ByteRange::new(start, len);
                let expected = (range.start()..range.end())
                    .filter_map(|byte| left.get_mut(usize::try_from(byte).unwrap()).map(std::mem::take))
                    .filter(|was| *was)
                    .count() as u64;
                let (bytes, pieces) = claims.take(range);
                prop_assert_eq!(bytes, expected);
                prop_assert_eq!(pieces == 0, bytes == 0);
                sum += bytes;
            }
            sum += claims.take_all().0;
            prop_assert_eq!(sum, total);
        }
    }
}
