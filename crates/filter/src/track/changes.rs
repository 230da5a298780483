//! An answer: which bytes changed.

use std::sync::Arc;

use bowline_block::ByteRange;
use roaring::RoaringBitmap;
use uuid::Uuid;

use super::grain::{Grain, Run};

/// What changed in an interval: whole blocks, cut at the end of the device. Immutable, cheap to clone.
#[derive(Clone, Debug)]
pub struct ChangeSet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    set: RoaringBitmap,
    grain: Grain,
    size: u64,
    bytes: u64,
    generation: Uuid,
    since: u64,
    until: Option<u64>,
}

impl ChangeSet {
    pub(crate) fn new(
        set: RoaringBitmap,
        (grain, size): (Grain, u64),
        generation: Uuid,
        (since, until): (u64, Option<u64>),
    ) -> Self {
        // The last block may be short.
        let tail = grain.count(size).checked_sub(1).and_then(|last| u32::try_from(last).ok());
        let short = tail.map_or(0, |last| (u64::from(last) + 1).saturating_mul(grain.bytes()) - size);
        let beyond = if tail.is_some_and(|last| set.contains(last)) { short } else { 0 };
        let bytes = set.len().saturating_mul(grain.bytes()).saturating_sub(beyond);
        Self(Arc::new(Inner { set, grain, size, bytes, generation, since, until }))
    }

    /// Bytes that changed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.set.is_empty()
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

    /// Whether all of the range changed.
    #[must_use]
    pub fn contains(&self, range: ByteRange) -> bool {
        let run = self.0.grain.touched_by(range);
        match (u32::try_from(run.first), u32::try_from(run.end.saturating_sub(1))) {
            _ if run.is_empty() => true,
            (Ok(first), Ok(last)) => self.0.set.contains_range(first..=last),
            _ => false,
        }
    }

    /// Whether any of the range changed.
    #[must_use]
    pub fn overlaps(&self, range: ByteRange) -> bool {
        let run = self.0.grain.touched_by(range);
        let Ok(first) = u32::try_from(run.first) else { return false };
        let last = u32::try_from(run.end.saturating_sub(1)).unwrap_or(u32::MAX);
        !run.is_empty() && self.0.set.range_cardinality(first..=last) > 0
    }

    /// The ranges that changed and end behind the byte `from`, ascending, neighbours merged. The first one may begin
    /// before `from`'s block only where it is cut there.
    pub fn ranges(&self, from: u64) -> impl Iterator<Item = ByteRange> + '_ {
        let Inner { set, grain, size, .. } = &*self.0;
        let mut found = match u32::try_from(from / grain.bytes()) {
            Ok(block) if from < *size => Some(Runs::new(set.range(block..))),
            _ => None,
        };
        std::iter::from_fn(move || {
            let (first, last) = found.as_mut()?.next()?;
            let run = Run { first: u64::from(first), end: u64::from(last) + 1 };
            Some(grain.range_of(run, *size))
        })
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
        super::epochs::set_bytes(&self.0.set)
    }
}

/// Numbers looked at in one go.
const BATCH: usize = 256;
/// Runs of at least so many numbers, on average, are searched for one by one.
const LONG: usize = 6;
/// So many shorter ones in a row end that.
const SHORT_MAX: u32 = 8;

/// Runs of neighbouring numbers of a set. A search for each costs more than looking at all numbers of short runs, and
/// much less than at those of long ones: so it is done in whichever way the runs so far suggest.
struct Runs<'a> {
    numbers: roaring::bitmap::Iter<'a>,
    batch: [u32; BATCH],
    at: usize,
    len: usize,
    searching: bool,
    short: u32,
    /// What was found and may go on.
    open: Option<(u32, u32)>,
}

impl<'a> Runs<'a> {
    fn new(numbers: roaring::bitmap::Iter<'a>) -> Self {
        let (batch, searching) = ([0; BATCH], true);
        Self { numbers, batch, at: 0, len: 0, searching, short: 0, open: None }
    }

    /// Adds a run to the one that is open; if it is another one, the open one is complete.
    fn join(&mut self, first: u32, last: u32) -> Option<(u32, u32)> {
        match &mut self.open {
            Some((_, end)) if end.checked_add(1) == Some(first) => {
                *end = last;
                None
            }
            open => open.replace((first, last)),
        }
    }

    fn next(&mut self) -> Option<(u32, u32)> {
        loop {
            while let Some(number) = self.batch.get(self.at..self.len).and_then(<[u32]>::first).copied() {
                self.at += 1;
                if let Some(done) = self.join(number, number) {
                    return Some(done);
                }
            }
            if self.searching {
                let Some(range) = self.numbers.next_range() else { return self.open.take() };
                let (first, last) = (*range.start(), *range.end());
                self.short = if (last - first) as usize + 1 < LONG { self.short + 1 } else { 0 };
                self.searching = self.short < SHORT_MAX;
                if let Some(done) = self.join(first, last) {
                    return Some(done);
                }
                continue;
            }
            // One by one: `next_many` of roaring 0.12 overflows at the end of a run container.
            (self.at, self.len) = (0, 0);
            for (room, number) in self.batch.iter_mut().zip(&mut self.numbers) {
                *room = number;
                self.len += 1;
            }
            if self.len == 0 {
                return self.open.take();
            }
            let breaks = self
                .batch
                .windows(2)
                .filter(|pair| matches!(pair, [one, next] if one.wrapping_add(1) != *next));
            (self.searching, self.short) = (breaks.count() * LONG < BATCH, 0);
        }
    }
}
