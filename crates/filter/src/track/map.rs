//! The live map: one bit per block, set by whoever changes the block.
//!
//! Bits are kept in leaves of 8 KiB (65536 blocks, one container of a compressed set), each made when the first of its
//! bits is set. A leaf all of which changed at once, as by a discard of the whole device, is one bit of `full`.

use std::sync::OnceLock;

use roaring::RoaringBitmap;

use super::chunks::{CHUNK_BLOCKS, Words};
use super::grain::{Run, mask_of};
use super::sync::{AtomicU64, Ordering};

#[cfg(not(feature = "shuttle"))]
const LEAF_WORDS: usize = 1024;
/// Each word is a place where another thread may go on.
#[cfg(feature = "shuttle")]
const LEAF_WORDS: usize = 1;
const LEAF_BLOCKS: u64 = LEAF_WORDS as u64 * 64;

type Leaf = Box<[AtomicU64]>;

pub(crate) struct LiveMap {
    blocks: u64,
    leaves: Box<[OnceLock<Leaf>]>,
    full: Box<[AtomicU64]>,
}

fn zeroes(words: usize) -> Box<[AtomicU64]> {
    std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect()
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

impl LiveMap {
    pub(crate) fn new(blocks: u64) -> Self {
        let leaves = index(blocks.div_ceil(LEAF_BLOCKS));
        Self {
            blocks,
            leaves: std::iter::repeat_with(OnceLock::new).take(leaves).collect(),
            full: zeroes(leaves.div_ceil(64)),
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        let made = self.leaves.iter().filter(|leaf| leaf.get().is_some()).count();
        let leaves = made * LEAF_WORDS * 8 + self.leaves.len() * size_of::<OnceLock<Leaf>>();
        (leaves + self.full.len() * 8) as u64
    }

    #[inline]
    fn is_full(&self, leaf: u64) -> bool {
        let word = self.full.get(index(leaf / 64));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (leaf % 64) & 1 == 1)
    }

    #[inline]
    fn word(&self, word: u64) -> u64 {
        let leaf = self.leaves.get(index(word / LEAF_WORDS as u64)).and_then(OnceLock::get);
        let word = leaf.and_then(|leaf| leaf.get(index(word % LEAF_WORDS as u64)));
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Whether all blocks of the run are set. None beyond the end is.
    #[inline]
    pub(crate) fn is_set(&self, run: Run) -> bool {
        let word = run.first / 64;
        if run.end > word * 64 && run.end - word * 64 <= 64 && run.end <= self.blocks {
            let mask = mask_of(word, run);
            return self.word(word) & mask == mask || self.is_full(run.first / LEAF_BLOCKS);
        }
        run.end <= self.blocks && self.all_set(run)
    }

    fn all_set(&self, run: Run) -> bool {
        let mut at = run.first;
        while at < run.end {
            let leaf = at / LEAF_BLOCKS;
            let end = run.end.min((leaf + 1) * LEAF_BLOCKS);
            if !self.is_full(leaf) {
                for word in at / 64..end.div_ceil(64) {
                    let mask = mask_of(word, Run { first: at, end });
                    if self.word(word) & mask != mask {
                        return false;
                    }
                }
            }
            at = end;
        }
        true
    }

    /// Sets all blocks of the run that exist. Bits that are set already are only looked at.
    pub(crate) fn set(&self, run: Run) {
        let run = run.cut_to(self.blocks);
        let mut at = run.first;
        while at < run.end {
            let leaf = at / LEAF_BLOCKS;
            let border = ((leaf + 1) * LEAF_BLOCKS).min(self.blocks);
            let end = run.end.min(border);
            if self.is_full(leaf) {
                at = end;
                continue;
            }
            if at == leaf * LEAF_BLOCKS && end == border {
                if let Some(word) = self.full.get(index(leaf / 64)) {
                    word.fetch_or(1 << (leaf % 64), Ordering::Relaxed);
                }
            } else if let Some(slot) = self.leaves.get(index(leaf)) {
                Self::set_in(slot.get_or_init(|| zeroes(LEAF_WORDS)), leaf, Run { first: at, end });
            }
            at = end;
        }
    }

    fn set_in(words: &Leaf, leaf: u64, run: Run) {
        let base = leaf * LEAF_WORDS as u64;
        for number in run.first / 64..run.end.div_ceil(64) {
            let mask = mask_of(number, run);
            if let Some(word) = words.get(index(number - base))
                && word.load(Ordering::Relaxed) & mask != mask
            {
                word.fetch_or(mask, Ordering::Relaxed);
            }
        }
    }

    /// Adds what is set in the chunk that begins with block `base`; whether anything is.
    pub(crate) fn read(&self, base: u64, words: &mut Words) -> bool {
        let mut touched = false;
        let leaves = (base..base.saturating_add(CHUNK_BLOCKS)).step_by(LEAF_WORDS * 64);
        for (first, room) in leaves.zip(words.chunks_exact_mut(LEAF_WORDS)) {
            let leaf = first / LEAF_BLOCKS;
            if self.is_full(leaf) {
                let all = Run { first: 0, end: self.blocks.saturating_sub(first).min(LEAF_BLOCKS) };
                room.iter_mut().zip(0..).for_each(|(room, word)| *room |= mask_of(word, all));
                touched = true;
            } else if let Some(words) = self.leaves.get(index(leaf)).and_then(OnceLock::get) {
                room.iter_mut().zip(words).for_each(|(room, word)| *room |= word.load(Ordering::Relaxed));
                touched = true;
            }
        }
        touched
    }

    /// The set of all blocks that are set, not yet packed.
    pub(crate) fn to_set(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        let mut bytes = vec![0; LEAF_WORDS * 8];
        for (leaf, slot) in self.leaves.iter().enumerate() {
            let first = leaf as u64 * LEAF_BLOCKS;
            if self.is_full(leaf as u64) {
                let end = (first + LEAF_BLOCKS).min(self.blocks);
                insert(&mut all, Run { first, end });
            } else if let (Some(words), Ok(offset)) = (slot.get(), u32::try_from(first)) {
                for (room, word) in bytes.chunks_exact_mut(8).zip(words) {
                    room.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
                }
                all |= RoaringBitmap::from_lsb0_bytes(offset, &bytes);
            }
        }
        all
    }

    /// Sets what a set holds.
    pub(crate) fn set_all(&self, set: &RoaringBitmap) {
        let mut found = set.iter();
        while let Some(range) = found.next_range() {
            self.set(Run { first: u64::from(*range.start()), end: u64::from(*range.end()) + 1 });
        }
    }
}

/// Adds a run to a set.
pub(crate) fn insert(set: &mut RoaringBitmap, run: Run) {
    if let (Ok(first), Some(Ok(last))) = (u32::try_from(run.first), run.end.checked_sub(1).map(u32::try_from))
        && first <= last
    {
        set.insert_range(first..=last);
    }
}
