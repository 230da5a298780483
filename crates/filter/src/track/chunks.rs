//! The union of sets and maps, chunk by chunk: how an answer is made.
//!
//! A chunk is 65536 blocks. What each source says of it is laid over each other as a map of 8 KiB, which is read word by
//! word: no set is made between the sources and the answer. A chunk is kept as its runs, or as that map where these are
//! too many. So an answer is at most as large as a live map, and much smaller where little changed.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::current::Current;
use super::grain::Run;
use super::map::LiveMap;

/// Words of a chunk's map.
pub(crate) const CHUNK_WORDS: usize = 1024;
pub(crate) const CHUNK_BLOCKS: u64 = CHUNK_WORDS as u64 * 64;
/// More runs than this need more room than the map.
const RUNS_MAX: usize = CHUNK_WORDS * 2;

/// A chunk as a map.
pub(crate) type Words = [u64; CHUNK_WORDS];

/// First and last block of a run, within its chunk.
pub(crate) type Piece = (u16, u16);

/// What changed in a chunk.
#[derive(Debug)]
pub(crate) enum Chunk {
    Empty,
    Runs(Box<[Piece]>),
    Map(Box<[u64]>),
}

impl Chunk {
    pub(crate) fn bytes(&self) -> u64 {
        let own = match self {
            Self::Empty => 0,
            Self::Runs(runs) => size_of_val::<[Piece]>(runs),
            Self::Map(words) => size_of_val::<[u64]>(words),
        };
        (own + size_of::<Self>()) as u64
    }
}

/// Puts the runs of a map into `found`, until there are more than `max`.
pub(crate) fn collect_pieces(words: &[u64], found: &mut Vec<Piece>, max: usize) {
    let mut open: Option<u32> = None;
    let mut close = |first: u32, end: u32| found.push(piece(first, end));
    let mut pushed = 0;
    for (base, &word) in (0_u32..).step_by(64).zip(words) {
        let mut rest = word;
        if let Some(first) = open {
            let ones = rest.trailing_ones();
            if ones == u64::BITS {
                continue;
            }
            close(first, base + ones);
            open = None;
            pushed += 1;
            rest &= u64::MAX << ones;
        }
        while rest != 0 {
            let first = rest.trailing_zeros();
            let end = (rest | ((1 << first) - 1)).trailing_ones();
            if end == u64::BITS {
                open = Some(base + first);
                break;
            }
            close(base + first, base + end);
            pushed += 1;
            rest &= u64::MAX << end;
        }
        if pushed > max {
            return;
        }
    }
    if let Some(first) = open {
        close(first, u32::try_from(words.len() * 64).unwrap_or(u32::MAX));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "blocks of a chunk have 16 bits")]
const fn piece(first: u32, end: u32) -> Piece {
    (first as u16, (end - 1) as u16)
}

/// A part of what changed: a closed set, or a map.
pub(crate) enum Source {
    Packed(Arc<RoaringBitmap>),
    Map(Arc<Current>),
}

/// The chunks of a device, from one on, as long as they are asked for.
pub(crate) struct Union<'a> {
    feeders: Vec<Feeder<'a>>,
    maps: Vec<&'a LiveMap>,
    chunk: u64,
    words: Box<Words>,
    room: Vec<Piece>,
}

impl<'a> Union<'a> {
    pub(crate) fn new(sources: &'a [Source], chunk: u64) -> Self {
        let first = u32::try_from(chunk.saturating_mul(CHUNK_BLOCKS)).ok();
        let packed = sources.iter().filter_map(|source| match source {
            Source::Packed(set) => first.map(|first| Feeder::new(set.range(first..))),
            Source::Map(_) => None,
        });
        let maps = sources.iter().filter_map(|source| match source {
            Source::Map(current) => Some(&current.map),
            Source::Packed(_) => None,
        });
        let (feeders, maps) = (packed.collect(), maps.collect());
        Self {
            feeders,
            maps,
            chunk,
            words: Box::new([0; CHUNK_WORDS]),
            room: Vec::with_capacity(RUNS_MAX + 64),
        }
    }

    /// The next chunk, its changed blocks and runs.
    pub(crate) fn next_chunk(&mut self) -> (Chunk, u64, usize) {
        let mut touched = false;
        for feeder in &mut self.feeders {
            touched |= feeder.feed(self.chunk * CHUNK_BLOCKS, &mut self.words);
        }
        for map in &self.maps {
            touched |= map.read(self.chunk * CHUNK_BLOCKS, &mut self.words);
        }
        self.chunk += 1;
        if !touched {
            return (Chunk::Empty, 0, 0);
        }
        self.room.clear();
        collect_pieces(&*self.words, &mut self.room, RUNS_MAX);
        let runs = self.room.len();
        let (chunk, blocks) = match runs {
            0 => (Chunk::Empty, 0),
            1..=RUNS_MAX => {
                let blocks = self.room.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
                (Chunk::Runs(self.room.as_slice().into()), blocks)
            }
            _ => {
                let blocks = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
                (Chunk::Map(self.words.as_slice().into()), blocks)
            }
        };
        self.words.fill(0);
        (chunk, blocks, runs)
    }
}

/// Sets a run in a chunk's map.
fn set_run(words: &mut Words, run: Run) {
    for word in run.first / 64..run.end.div_ceil(64) {
        if let Some(slot) = usize::try_from(word).ok().and_then(|word| words.get_mut(word)) {
            *slot |= super::grain::mask_of(word, run);
        }
    }
}

/// Numbers looked at in one go.
const BATCH: usize = 256;
/// Runs of at least so many numbers, on average, are searched for one by one.
const LONG: usize = 6;
/// So many shorter ones in a row end that.
const SHORT_MAX: u32 = 8;

/// Reads a set. A search for each run costs more than looking at all numbers of short runs, and much less than at those
/// of long ones: so it is done in whichever way the runs so far suggest.
struct Feeder<'a> {
    numbers: roaring::bitmap::Iter<'a>,
    batch: [u32; BATCH],
    at: usize,
    len: usize,
    searching: bool,
    short: u32,
    /// What was found and goes on behind the chunk.
    open: Option<Run>,
    done: bool,
}

impl<'a> Feeder<'a> {
    fn new(numbers: roaring::bitmap::Iter<'a>) -> Self {
        let (batch, searching, done) = ([0; BATCH], true, false);
        Self { numbers, batch, at: 0, len: 0, searching, short: 0, open: None, done }
    }

    /// Adds what the set says of the chunk that begins with block `base`; whether that is anything.
    fn feed(&mut self, base: u64, words: &mut Words) -> bool {
        let end = base + CHUNK_BLOCKS;
        let mut touched = false;
        loop {
            if let Some(run) = self.open {
                if run.first >= end {
                    return touched;
                }
                touched = true;
                set_run(words, Run { first: run.first - base, end: run.end.min(end) - base });
                self.open = (run.end > end).then_some(Run { first: end, end: run.end });
                if self.open.is_some() {
                    return touched;
                }
            }
            for number in self.batch.get(self.at..self.len).unwrap_or_default() {
                let block = u64::from(*number);
                if block >= end {
                    return touched;
                }
                let place = usize::try_from((block - base) / 64).unwrap_or(usize::MAX);
                if let Some(word) = words.get_mut(place) {
                    *word |= 1 << (block % 64);
                }
                touched = true;
                self.at += 1;
            }
            if self.done || !self.read() {
                self.done = true;
                return touched;
            }
        }
    }

    /// Reads on; `false` at the end.
    fn read(&mut self) -> bool {
        if self.searching {
            let Some(range) = self.numbers.next_range() else { return false };
            let run = Run { first: u64::from(*range.start()), end: u64::from(*range.end()) + 1 };
            self.short = if run.end - run.first < LONG as u64 { self.short + 1 } else { 0 };
            self.searching = self.short < SHORT_MAX;
            self.open = Some(run);
            return true;
        }
        // One by one: `next_many` of roaring 0.12 overflows at the end of a run container.
        (self.at, self.len) = (0, 0);
        for (room, number) in self.batch.iter_mut().zip(&mut self.numbers) {
            *room = number;
            self.len += 1;
        }
        let batch = self.batch.get(..self.len).unwrap_or_default();
        let breaks =
            batch.windows(2).filter(|pair| matches!(pair, [one, next] if one.wrapping_add(1) != *next));
        (self.searching, self.short) = (breaks.count() * LONG < BATCH, 0);
        self.len > 0
    }
}
