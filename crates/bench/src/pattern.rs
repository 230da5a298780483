//! What the blocks hold, so that a wrong answer is recognised.
//!
//! The first eight bytes of every 4 KiB block are a *stamp* that follows from the block's number alone. It holds in
//! every generation, so timed writers may write at random and timed readers can still check every block for the
//! price of one comparison. All other words also depend on a *generation*, for the full comparison of `verify`.

/// Size of a stamped block.
pub const BLOCK_BYTES: u64 = 4096;
const WORD_BYTES: u64 = 8;

/// Mixes a number into one that shares no pattern with its neighbours' (splitmix64).
#[must_use]
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The stamp of the block at this byte offset.
#[must_use]
pub fn stamp(block_offset: u64) -> u64 {
    mix(block_offset / BLOCK_BYTES)
}

fn word(offset: u64, generation: u64) -> u64 {
    if offset.is_multiple_of(BLOCK_BYTES) { stamp(offset) } else { mix(offset ^ (generation << 48)) }
}

/// Fills a buffer that starts at `offset` of the device (a multiple of eight) with one generation's content.
pub fn fill(buffer: &mut [u8], offset: u64, generation: u64) {
    let mut position = offset;
    for bytes in buffer.chunks_mut(8) {
        let expected = word(position, generation).to_le_bytes();
        for (byte, value) in bytes.iter_mut().zip(expected) {
            *byte = value;
        }
        position += WORD_BYTES;
    }
}

/// Writes only the stamps into a buffer that starts at `offset` of the device.
pub fn stamp_blocks(buffer: &mut [u8], offset: u64) {
    let mut position = offset;
    for block in buffer.chunks_mut(4096) {
        if let Some(head) = block.first_chunk_mut::<8>() {
            *head = stamp(position).to_le_bytes();
        }
        position += BLOCK_BYTES;
    }
}

/// Counts blocks with a wrong stamp in a piece of the device; stamps cut off by the piece's end are skipped.
#[must_use]
pub fn wrong_stamps(piece: &[u8], offset: u64) -> u64 {
    let first_block = offset.next_multiple_of(BLOCK_BYTES);
    let Ok(skipped) = usize::try_from(first_block - offset) else { return 0 };
    let mut wrong = 0;
    let mut position = first_block;
    for block in piece.get(skipped..).unwrap_or_default().chunks(4096) {
        if let Some(head) = block.first_chunk::<8>() {
            wrong += u64::from(u64::from_le_bytes(*head) != stamp(position));
        }
        position += BLOCK_BYTES;
    }
    wrong
}

/// Counts bytes that differ from one generation's content, at any alignment.
#[must_use]
pub fn wrong_bytes(piece: &[u8], offset: u64, generation: u64) -> u64 {
    let mut wrong = 0;
    let mut expected = word(offset & !7, generation).to_le_bytes();
    for (position, byte) in (offset..).zip(piece) {
        if position.is_multiple_of(WORD_BYTES) {
            expected = word(position, generation).to_le_bytes();
        }
        let index = usize::try_from(position % WORD_BYTES).unwrap_or_default();
        wrong += u64::from(expected.get(index) != Some(byte));
    }
    wrong
}

/// A small, fast random generator (xorshift64*): drawing an offset must cost nothing beside the request.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that always yields the same sequence for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (drawn * bound) >> 32
    }

    /// All numbers below `count` in random order.
    pub fn permutation(&mut self, count: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count).collect();
        for last in (1..order.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap_or_default();
            order.swap(last, other);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checker_notices_one_flipped_bit_wherever_it_is() {
        let mut buffer = vec![0; 3 * 4096];
        fill(&mut buffer, 8 * 4096, 3);
        assert_eq!(wrong_bytes(&buffer, 8 * 4096, 3), 0);
        assert_eq!(wrong_stamps(&buffer, 8 * 4096), 0);
        for position in [0, 1, 7, 8, 4095, 4096, 9000, 3 * 4096 - 1] {
            buffer[position] ^= 1;
            assert_eq!(wrong_bytes(&buffer, 8 * 4096, 3), 1, "at {position}");
            buffer[position] ^= 1;
        }
    }

    #[test]
    fn generations_differ_but_share_the_stamp() {
        let mut buffer = vec![0; 4096];
        fill(&mut buffer, 4096, 1);
        assert!(wrong_bytes(&buffer, 4096, 2) > 4000);
        assert_eq!(wrong_stamps(&buffer, 4096), 0);
        assert_eq!(wrong_stamps(&buffer, 8192), 1, "a block in the wrong place is noticed");
    }

    #[test]
    fn pieces_of_any_alignment_are_checked_alike() {
        let mut buffer = vec![0; 2 * 4096];
        fill(&mut buffer, 0, 5);
        for start in [0, 1, 5, 8, 4090, 4096, 4097] {
            assert_eq!(wrong_bytes(&buffer[start..], start as u64, 5), 0, "from {start}");
            assert_eq!(wrong_stamps(&buffer[start..], start as u64), 0, "from {start}");
        }
    }

    #[test]
    fn a_permutation_has_every_number_once() {
        let mut order = Random::new(7).permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}
