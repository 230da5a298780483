//! Blocks that say what they are: a mark, a number, a place, a checksum, and noise made of them.

use super::image::{BLOCK_BYTES, Block};

/// What a tagged block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagKind {
    /// A block of the scratch file as it was made: number is the block's in the file, place is 0.
    Scratch,
    /// A write: number is the write's, place the block's on the disk.
    Write,
}

impl TagKind {
    fn mark(self) -> u64 {
        u64::from_le_bytes(match self {
            TagKind::Scratch => *b"blTourSc",
            TagKind::Write => *b"blTourWr",
        })
    }
}

/// What a tagged block says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) kind: TagKind,
    pub(super) number: u64,
    pub(super) place: u64,
}

/// Words before the noise: mark, number, place, checksum.
const HEAD_WORDS: usize = 4;

impl Tag {
    /// The whole block.
    pub(super) fn fill(self) -> Block {
        let mut block = [0; BLOCK_BYTES];
        let mut noise = Noise::new(self.kind.mark() ^ self.number.rotate_left(32) ^ self.place);
        let (words, _) = block.as_chunks_mut::<8>();
        let mut sum = Checksum::of(self);
        for word in words.iter_mut().skip(HEAD_WORDS) {
            let value = noise.next();
            sum.add(value);
            *word = value.to_le_bytes();
        }
        let head = [self.kind.mark(), self.number, self.place, sum.0];
        for (word, value) in words.iter_mut().zip(head) {
            *word = value.to_le_bytes();
        }
        block
    }

    /// The tag of a block of this kind whose checksum is right.
    pub(super) fn read(kind: TagKind, block: &Block) -> Option<Tag> {
        let mut words = block.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        if words.next()? != kind.mark() {
            return None;
        }
        let tag = Tag { kind, number: words.next()?, place: words.next()? };
        let expected = words.next()?;
        let mut sum = Checksum::of(tag);
        words.for_each(|word| sum.add(word));
        (sum.0 == expected).then_some(tag)
    }
}

/// FNV-1a over words: for accidents, not for enemies.
struct Checksum(u64);

impl Checksum {
    fn of(tag: Tag) -> Self {
        let mut sum = Checksum(0xcbf2_9ce4_8422_2325);
        [tag.kind.mark(), tag.number, tag.place].into_iter().for_each(|word| sum.add(word));
        sum
    }

    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

/// Numbers without a pattern (SplitMix64), the same for the same seed.
#[derive(Debug)]
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Noise(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, near enough to evenly spread.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
