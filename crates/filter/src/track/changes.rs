//! An answer: which bytes changed.

use std::sync::Arc;

use bowline_block::ByteRange;
use uuid::Uuid;

use super::chunks::{CHUNK_BLOCKS, Chunk, Piece, Source, Union, collect_pieces};
use super::grain::{Grain, Run};

/// What changed in an interval: whole blocks, cut at the end of the device. Immutable, cheap to clone.
#[derive(Clone, Debug)]
pub struct ChangeSet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// From `first_chunk` on; blocks of others did not change, or were not asked about.
    chunks: Vec<Chunk>,
    first_chunk: u64,
    /// The bytes it knows of: all, or those that were asked about.
    covered: ByteRange,
    grain: Grain,
    size: u64,
    bytes: u64,
    memory_bytes: u64,
    generation: Uuid,
    since: u64,
    until: Option<u64>,
}

impl ChangeSet {
    /// The union of the sources within `range`: as far as that goes, or to where it has more than `runs_max` runs.
    pub(crate) fn of(
        sources: &[Source],
        (grain, size): (Grain, u64),
        (range, runs_max): (ByteRange, usize),
        generation: Uuid,
        (since, until): (u64, Option<u64>),
    ) -> Self {
        let asked = grain.touched_by(range.intersection(ByteRange::new(0, size)));
        let first_chunk = asked.first / CHUNK_BLOCKS;
        let mut union = Union::new(sources, first_chunk);
        let (mut chunks, mut blocks, mut runs) = (Vec::new(), 0, 0);
        let mut end = first_chunk * CHUNK_BLOCKS;
        while end < asked.end && runs <= runs_max {
            let (chunk, blocks_here, runs_here) = union.next_chunk();
            chunks.push(chunk);
            (blocks, runs) = (blocks + blocks_here, runs + runs_here);
            end += CHUNK_BLOCKS;
        }
        let covered = grain.range_of(Run { first: first_chunk * CHUNK_BLOCKS, end }, size);
        let memory_bytes = chunks.iter().map(Chunk::bytes).sum();
        let inner = Inner {
            chunks,
            first_chunk,
            covered,
            grain,
            size,
            bytes: 0,
            memory_bytes,
            generation,
            since,
            until,
        };
        // The last block may be short.
        let count = grain.count(size);
        let short = count.saturating_mul(grain.bytes()) - size;
        let last = Walk::new(&inner, count.saturating_sub(1)).next();
        let beyond = if last.is_some() { short } else { 0 };
        let bytes = blocks.saturating_mul(grain.bytes()).saturating_sub(beyond);
        Self(Arc::new(Inner { bytes, ..inner }))
    }

    /// Bytes that changed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.bytes == 0
    }

    /// Bytes of a block.
    #[must_use]
    pub fn granularity(&self) -> u64 {
        self.0.grain.bytes()
    }

    /// Bytes of the device.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The generation its epochs are of.
    #[must_use]
    pub fn generation(&self) -> Uuid {
        self.0.generation
    }

    /// The epoch with whose end the interval begins.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.0.since
    }

    /// The epoch with whose end the interval ends; `None` is the moment of the question.
    #[must_use]
    pub fn until(&self) -> Option<u64> {
        self.0.until
    }

    /// The bytes it knows of: the whole device, unless less was asked about. Others are told as not changed.
    #[must_use]
    pub fn covered(&self) -> ByteRange {
        self.0.covered
    }

    /// Whether all of the range changed.
    #[must_use]
    pub fn contains(&self, range: ByteRange) -> bool {
        let run = self.0.grain.touched_by(range);
        let found = Walk::new(&self.0, run.first).next();
        run.is_empty() || found.is_some_and(|found| found.first == run.first && found.end >= run.end)
    }

    /// Whether any of the range changed.
    #[must_use]
    pub fn overlaps(&self, range: ByteRange) -> bool {
        let run = self.0.grain.touched_by(range);
        !run.is_empty() && Walk::new(&self.0, run.first).next().is_some_and(|found| found.first < run.end)
    }

    /// The ranges that changed and end behind the byte `from`, ascending, neighbours merged. The first one may begin
    /// before `from`'s block only where it is cut there.
    pub fn ranges(&self, from: u64) -> impl Iterator<Item = ByteRange> + '_ {
        let Inner { grain, size, .. } = &*self.0;
        let mut walk = (from < *size).then(|| Walk::new(&self.0, from / grain.bytes()));
        std::iter::from_fn(move || Some(grain.range_of(walk.as_mut()?.next()?, *size)))
    }

    /// At most `max` of the ranges from the block of the byte `from` on, and where to go on.
    #[must_use]
    pub fn extents(&self, from: u64, max: usize) -> (Vec<ByteRange>, Option<u64>) {
        let mut ranges = self.ranges(from);
        let found: Vec<_> = ranges.by_ref().take(max).collect();
        let next = ranges.next().map(ByteRange::start);
        (found, next)
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes
    }
}

/// Runs of blocks from one block on, neighbours merged.
struct Walk<'a> {
    chunks: &'a [Chunk],
    /// The first block of `pieces`' chunk, and of the one behind it.
    base: u64,
    next_base: u64,
    pieces: std::slice::Iter<'a, Piece>,
    /// The runs of a chunk that is a map.
    unpacked: Vec<Piece>,
    at: usize,
    from: u64,
    open: Option<Run>,
}

impl<'a> Walk<'a> {
    fn new(set: &'a Inner, from: u64) -> Self {
        let skipped = (from / CHUNK_BLOCKS).saturating_sub(set.first_chunk);
        let chunks = usize::try_from(skipped).ok().and_then(|skipped| set.chunks.get(skipped..));
        let base = (set.first_chunk + skipped) * CHUNK_BLOCKS;
        let (chunks, pieces, unpacked) = (chunks.unwrap_or_default(), [].iter(), Vec::new());
        Self { chunks, base, next_base: base, pieces, unpacked, at: 0, from, open: None }
    }

    fn next(&mut self) -> Option<Run> {
        loop {
            if let Some(open) = self.open.take_if(|open| open.end % CHUNK_BLOCKS != 0) {
                return Some(open);
            }
            while let Some((first, last)) = self.next_piece() {
                let run = Run { first: self.base + u64::from(first), end: self.base + u64::from(last) + 1 };
                if run.end <= self.from {
                    continue;
                }
                let mut run = Run { first: run.first.max(self.from), ..run };
                // Only what reaches to the end of its chunk may go on in the next.
                if let Some(open) = self.open.take() {
                    if open.end != run.first {
                        self.open = Some(run);
                        return Some(open);
                    }
                    run.first = open.first;
                }
                if last < u16::MAX {
                    return Some(run);
                }
                self.open = Some(run);
            }
            let Some((chunk, rest)) = self.chunks.split_first() else { return self.open.take() };
            self.chunks = rest;
            (self.base, self.next_base) = (self.next_base, self.next_base + CHUNK_BLOCKS);
            (self.pieces, self.at) = ([].iter(), 0);
            self.unpacked.clear();
            match chunk {
                Chunk::Empty => {}
                Chunk::Runs(runs) => {
                    // Those before the beginning are not walked over.
                    let skip = self.from.saturating_sub(self.base);
                    let skip =
                        if skip == 0 { 0 } else { runs.partition_point(|(_, last)| u64::from(*last) < skip) };
                    self.pieces = runs.get(skip..).unwrap_or_default().iter();
                }
                Chunk::Map(words) => collect_pieces(words, &mut self.unpacked, usize::MAX),
            }
        }
    }

    #[inline]
    fn next_piece(&mut self) -> Option<Piece> {
        if let Some(piece) = self.pieces.next() {
            return Some(*piece);
        }
        let piece = self.unpacked.get(self.at).copied();
        self.at += usize::from(piece.is_some());
        piece
    }
}
