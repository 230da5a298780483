//! What has been acknowledged to us and not been flushed: what a lost connection may have lost with it.

/// Counts changes that were acknowledged, and how many of them a flush has covered.
#[derive(Debug, Default)]
pub(super) struct Durability {
    acknowledged: u64,
    flushed: u64,
    lost: bool,
}

impl Durability {
    /// A change was acknowledged, not under FUA.
    pub(super) fn change_acknowledged(&mut self) {
        self.acknowledged += 1;
    }

    /// What a flush sent now will cover.
    pub(super) fn covered_now(&self) -> u64 {
        self.acknowledged
    }

    /// A flush was acknowledged.
    pub(super) fn flushed(&mut self, covered: u64) {
        self.flushed = self.flushed.max(covered);
    }

    /// The connection is gone, and with it perhaps what was not flushed.
    pub(super) fn connection_lost(&mut self) {
        self.lost |= self.acknowledged > self.flushed;
        self.flushed = self.acknowledged;
    }

    /// Whether the next flush has to fail; asking answers it.
    pub(super) fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }
}
