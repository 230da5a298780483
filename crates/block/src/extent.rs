//! Which parts of a store hold data.

use crate::ByteRange;

/// What a range is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Anything; always a safe answer.
    Data,
    /// Nothing is stored; reads as zeroes.
    Hole,
    /// Space is allocated; reads as zeroes.
    Zero,
}

impl ExtentKind {
    /// Whether the range is known to read as zeroes.
    #[must_use]
    pub const fn reads_zero(self) -> bool {
        !matches!(self, Self::Data)
    }
}

/// A range and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The bytes.
    pub range: ByteRange,
    /// What they hold.
    pub kind: ExtentKind,
}

/// Extents in ascending order without gaps, neighbours of one kind merged, bounded in number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentList {
    items: Vec<Extent>,
    max: usize,
}

impl ExtentList {
    /// An empty list that takes at most `max` extents.
    #[must_use]
    pub fn with_max(max: usize) -> Self {
        Self { items: Vec::new(), max }
    }

    /// Appends a range, which begins where the last one ended. `false` when the list is full and it was not taken.
    pub fn push(&mut self, range: ByteRange, kind: ExtentKind) -> bool {
        if range.is_empty() {
            return true;
        }
        if let Some(last) = self.items.last_mut()
            && last.kind == kind
            && last.range.end() == range.start()
        {
            last.range = ByteRange::between(last.range.start(), range.end());
            return true;
        }
        if self.items.len() >= self.max {
            return false;
        }
        self.items.push(Extent { range, kind });
        true
    }

    /// How many more extents fit, apart from merging with the last.
    #[must_use]
    pub fn room(&self) -> usize {
        self.max - self.items.len()
    }

    /// The extents.
    #[must_use]
    pub fn as_slice(&self) -> &[Extent] {
        &self.items
    }

    /// Forgets the extents, keeps the memory.
    pub fn clear(&mut self) {
        self.items.clear();
    }
}
