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
            Ok(block) if from < *size => Some(set.range(block..)),
            _ => None,
        };
        std::iter::from_fn(move || {
            let range = found.as_mut()?.next_range()?;
            let run = Run { first: u64::from(*range.start()), end: u64::from(*range.end()) + 1 };
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
