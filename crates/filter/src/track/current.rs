//! The epoch that is going on: everything a request needs to know, behind one pointer.

use bowline_block::ByteRange;
use uuid::Uuid;

use super::grain::{Grain, Run};
use super::intents::IntentMap;
use super::map::LiveMap;

/// The shape of a tracked device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) size: u64,
    pub(crate) blocks: Grain,
    pub(crate) regions: Grain,
}

impl Shape {
    pub(crate) fn of(size: u64) -> Self {
        Self { size, blocks: Grain::blocks_of(size), regions: Grain::regions_of(size) }
    }

    pub(crate) fn block_count(&self) -> u64 {
        self.blocks.count(self.size)
    }

    pub(crate) fn region_count(&self) -> u64 {
        self.regions.count(self.size)
    }
}

/// Regions that are made durable ahead of a sequential writer at most, and their bytes.
const AHEAD_MAX: u64 = 16;
const AHEAD_BYTES_MAX: u64 = 64 << 20;
/// On a small device no more than this part of it.
const AHEAD_PART: u64 = 64;

/// An epoch's number, generation and live map. It is replaced as a whole by a take, which happens frozen, and by a
/// new generation, which does not.
pub(crate) struct Current {
    pub(crate) generation: Uuid,
    pub(crate) epoch: u64,
    pub(crate) shape: Shape,
    pub(crate) map: LiveMap,
    /// `None` in memory only.
    pub(crate) intents: Option<IntentMap>,
}

impl Current {
    pub(crate) fn new(generation: Uuid, epoch: u64, shape: Shape, intents: Option<IntentMap>) -> Self {
        Self { generation, epoch, shape, map: LiveMap::new(shape.block_count()), intents }
    }

    /// The epoch after this one, empty.
    pub(crate) fn next(&self) -> Self {
        let settled = |intents: &IntentMap| {
            IntentMap::new(self.shape.region_count(), self.epoch + 1, intents.is_settled())
        };
        Self::new(self.generation, self.epoch + 1, self.shape, self.intents.as_ref().map(settled))
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.map.bytes() + self.intents.as_ref().map_or(0, IntentMap::bytes)
    }

    /// Whether the range may be changed: what a crash would need is durable.
    pub(crate) fn allows(&self, range: ByteRange) -> bool {
        self.intents.as_ref().is_none_or(|intents| intents.allows(self.shape.regions.touched_by(range)))
    }

    /// How many regions to make durable ahead of a writer who is at the beginning of `region`: about as many as he has
    /// come through, so that what counts after a crash is at most twice what was written. Who jumps about comes through
    /// none.
    pub(crate) fn reach(&self, region: u64) -> u64 {
        let Shape { size, blocks, regions } = self.shape;
        let most =
            AHEAD_MAX.min(self.shape.region_count() / AHEAD_PART).min(AHEAD_BYTES_MAX / regions.bytes());
        let passed = |back: &u64| {
            let Some(first) = region.checked_sub(*back) else { return false };
            let whole = regions.range_of(Run { first, end: first + 1 }, size);
            let latter = whole.split_at(whole.start() + regions.bytes() / 2).1;
            !latter.is_empty() && self.is_marked(blocks.touched_by(latter))
        };
        let passed = (1..=most).take_while(passed).count();
        passed.checked_ilog2().map_or(0, |power| 1 << power)
    }

    /// Whether all of the run is set.
    #[inline]
    pub(crate) fn is_marked(&self, blocks: Run) -> bool {
        self.map.is_set(blocks)
    }
}
