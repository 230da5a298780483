//! The contents of a disk in memory: blocks of 4 KiB, those of zeroes not kept.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes of one block.
pub(super) const BLOCK_BYTES: usize = 4096;
/// The same where positions are computed.
pub(super) const BLOCK_SIZE: u64 = 4096;
/// Bytes read or sent at a time.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// One block.
pub(super) type Block = [u8; BLOCK_BYTES];

static ZEROES: Block = [0; BLOCK_BYTES];

/// The number of a block on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BlockIndex(pub(super) u64);

impl BlockIndex {
    /// Its first byte on the disk.
    pub(super) fn offset(self) -> u64 {
        self.0.saturating_mul(BLOCK_SIZE)
    }
}

/// What a disk holds.
#[derive(Debug, Clone)]
pub(super) struct Image {
    blocks: Vec<Option<Box<Block>>>,
}

impl Image {
    /// `blocks` blocks of zeroes.
    pub(super) fn zeroes(blocks: usize) -> Self {
        Image { blocks: vec![None; blocks] }
    }

    /// Reads `blocks` blocks through `read_at`, which fills a buffer from an offset.
    pub(super) fn read(
        blocks: usize,
        mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut image = Image { blocks: Vec::with_capacity(blocks) };
        let mut buffer = vec![0; CHUNK_BYTES];
        while image.blocks.len() < blocks {
            let offset = image.size();
            let missing = (blocks - image.blocks.len()).saturating_mul(BLOCK_BYTES);
            let chunk = buffer.get_mut(..missing.min(CHUNK_BYTES)).unwrap_or_default();
            read_at(offset, chunk)?;
            image.blocks.extend(chunk.as_chunks::<BLOCK_BYTES>().0.iter().map(kept));
        }
        Ok(image)
    }

    /// Reads a file of whole blocks.
    pub(super) fn read_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        Image::read(size / BLOCK_BYTES, |_, chunk| file.read_exact(chunk))
    }

    /// Writes a sparse file.
    pub(super) fn write_file(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size())?;
        for (index, block) in self.iter() {
            if block != &ZEROES {
                file.write_all_at(block, index.offset())?;
            }
        }
        Ok(())
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.blocks.len()).unwrap_or(u64::MAX).saturating_mul(BLOCK_SIZE)
    }

    /// All blocks in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockIndex, &Block)> {
        (0..).map(BlockIndex).zip(self.blocks.iter().map(|block| block.as_deref().unwrap_or(&ZEROES)))
    }

    /// One block; beyond the end, zeroes.
    pub(super) fn block(&self, index: BlockIndex) -> &Block {
        let slot = usize::try_from(index.0).ok().and_then(|index| self.blocks.get(index));
        slot.and_then(|block| block.as_deref()).unwrap_or(&ZEROES)
    }

    /// Replaces one block; beyond the end, nothing.
    pub(super) fn set(&mut self, index: BlockIndex, block: &Block) {
        if let Some(slot) = usize::try_from(index.0).ok().and_then(|index| self.blocks.get_mut(index)) {
            *slot = kept(block);
        }
    }

    /// The blocks in which this one and `other` differ.
    pub(super) fn differing<'a>(&'a self, other: &'a Image) -> impl Iterator<Item = BlockIndex> + 'a {
        let pairs = self.iter().zip(other.iter());
        pairs.filter(|((_, ours), (_, theirs))| ours != theirs).map(|((index, _), _)| index)
    }
}

fn kept(block: &Block) -> Option<Box<Block>> {
    (block != &ZEROES).then(|| Box::new(*block))
}
