//! The order in which a connection visits the device.

use super::Access;
use crate::pattern::{self, BLOCK_BYTES, Random};

/// Blocks that [`Access::Spread`] draws from.
const SPREAD_BLOCKS: u64 = 8192;

/// Yields byte offsets.
#[derive(Debug)]
pub struct Order {
    kind: Kind,
    unit_bytes: u64,
}

#[derive(Debug)]
enum Kind {
    Random { random: Random, units: u64 },
    Once { order: std::vec::IntoIter<u32> },
    Sequential { first: u64, next: u64, end: u64, again: bool },
    Spread { random: Random, stride_bytes: u64 },
    OneOf { next: u64, every: u64, step: u64, units: u64 },
}

impl Order {
    /// The order for one of `connections` connections to a device of `size_bytes`.
    #[must_use]
    pub fn new(
        access: Access,
        size_bytes: u64,
        unit_bytes: u64,
        index: usize,
        connections: usize,
        seed: u64,
    ) -> Self {
        let units = (size_bytes / unit_bytes).max(1);
        let connections = connections.max(1) as u64;
        let index = index as u64;
        let first = units * index / connections;
        let end = units * (index + 1) / connections;
        let own_random = Random::new(seed.wrapping_mul(1009).wrapping_add(index));
        let kind = match access {
            Access::Random => Kind::Random { random: own_random, units },
            Access::RandomOnce => {
                // One permutation for all connections, dealt out in turns: no block twice, no block left out.
                let all = Random::new(seed).permutation(u32::try_from(units).unwrap_or(u32::MAX));
                let mine: Vec<u32> = all
                    .into_iter()
                    .zip((0..connections).cycle())
                    .filter_map(|(unit, owner)| (owner == index).then_some(unit))
                    .collect();
                Kind::Once { order: mine.into_iter() }
            }
            Access::Sequential => Kind::Sequential { first, next: first, end, again: true },
            Access::SequentialOnce => Kind::Sequential { first, next: first, end, again: false },
            Access::Spread => {
                let stride = (size_bytes / SPREAD_BLOCKS / BLOCK_BYTES).max(1) * BLOCK_BYTES;
                Kind::Spread { random: own_random, stride_bytes: stride }
            }
            Access::OneOf(every) => {
                Kind::OneOf { next: index, every: every.max(1), step: connections, units }
            }
        };
        Self { kind, unit_bytes }
    }

    /// The next offset, or `None` when all was visited.
    pub fn next_offset(&mut self) -> Option<u64> {
        match &mut self.kind {
            Kind::Random { random, units } => Some(random.below(*units) * self.unit_bytes),
            Kind::Once { order } => order.next().map(|unit| u64::from(unit) * self.unit_bytes),
            Kind::Sequential { first, next, end, again } => {
                if next >= end {
                    if !*again || first >= end {
                        return None;
                    }
                    *next = *first;
                }
                let unit = *next;
                *next += 1;
                Some(unit * self.unit_bytes)
            }
            Kind::OneOf { next, every, step, units } => {
                let group = *next;
                *next += *step;
                let unit = group * *every + pattern::mix(group) % *every;
                (unit < *units).then_some(unit * self.unit_bytes)
            }
            Kind::Spread { random, stride_bytes } => Some(random.below(SPREAD_BLOCKS) * *stride_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_a_permutation_without_overlap_or_gap() {
        let mut seen: Vec<u64> = Vec::new();
        for index in 0..3 {
            let mut order = Order::new(Access::RandomOnce, 100 * 4096, 4096, index, 3, 42);
            seen.extend(std::iter::from_fn(|| order.next_offset()));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..100).map(|unit| unit * 4096).collect::<Vec<_>>());
    }

    #[test]
    fn sequential_parts_cover_the_device_and_once_means_once() {
        let mut seen: Vec<u64> = Vec::new();
        for index in 0..4 {
            let mut order = Order::new(Access::SequentialOnce, 10 << 20, 1 << 20, index, 4, 0);
            seen.extend(std::iter::from_fn(|| order.next_offset()));
        }
        assert_eq!(seen, (0..10).map(|unit| unit << 20).collect::<Vec<_>>());
        let mut again = Order::new(Access::Sequential, 2 << 20, 1 << 20, 0, 1, 0);
        let offsets: Vec<u64> = std::iter::from_fn(|| again.next_offset()).take(5).collect();
        assert_eq!(offsets, [0, 1 << 20, 0, 1 << 20, 0]);
    }

    #[test]
    fn one_block_of_each_group_is_visited_by_one_connection() {
        let mut seen: Vec<u64> = Vec::new();
        for index in 0..3 {
            let mut order = Order::new(Access::OneOf(10), 1000 * 4096, 4096, index, 3, 1);
            seen.extend(std::iter::from_fn(|| order.next_offset()).map(|offset| offset / 4096));
        }
        seen.sort_unstable();
        let groups: Vec<u64> = seen.iter().map(|unit| unit / 10).collect();
        assert_eq!(groups, (0..100).collect::<Vec<_>>());
        assert!(seen.iter().any(|unit| unit % 10 != seen[0] % 10), "not a comb");
        let mut all = Order::new(Access::OneOf(1), 5 * 4096, 4096, 0, 1, 1);
        assert_eq!(std::iter::from_fn(|| all.next_offset()).count(), 5);
    }

    #[test]
    fn spread_stays_inside_a_huge_device() {
        let size = 64_u64 << 40;
        let mut order = Order::new(Access::Spread, size, 4096, 1, 8, 3);
        let offsets: Vec<u64> = std::iter::from_fn(|| order.next_offset()).take(1000).collect();
        assert!(offsets.iter().all(|offset| offset + 4096 <= size && offset % 4096 == 0));
        assert!(offsets.iter().any(|offset| *offset > size / 2));
    }
}
