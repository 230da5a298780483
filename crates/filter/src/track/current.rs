//! The epoch that is going on: everything a request needs to know, behind one pointer.

use uuid::Uuid;

use super::grain::{Grain, Run};
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

/// An epoch's number, generation and live map. It is replaced as a whole by a take, which happens frozen, and by a
/// new generation, which does not.
pub(crate) struct Current {
    pub(crate) generation: Uuid,
    pub(crate) epoch: u64,
    pub(crate) shape: Shape,
    pub(crate) map: LiveMap,
}

impl Current {
    pub(crate) fn new(generation: Uuid, epoch: u64, shape: Shape) -> Self {
        Self { generation, epoch, shape, map: LiveMap::new(shape.block_count()) }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.map.bytes()
    }

    /// Whether all of the run is set.
    #[inline]
    pub(crate) fn is_marked(&self, blocks: Run) -> bool {
        self.map.is_set(blocks)
    }
}
