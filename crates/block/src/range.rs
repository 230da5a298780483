//! Byte ranges: the one way offsets and lengths travel through a stack.

use std::fmt;

/// A range of bytes of a device, `start..start + len`. Its end never overflows: see [`ByteRange::checked`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    start: u64,
    len: u64,
}

impl ByteRange {
    /// The range of `len` bytes from `start`. A length that would pass the end of the number space is cut there.
    #[inline]
    #[must_use]
    pub const fn new(start: u64, len: u64) -> Self {
        let room = u64::MAX - start;
        Self { start, len: if len < room { len } else { room } }
    }

    /// The range, or `None` where its end would overflow. For numbers that come from outside.
    #[inline]
    #[must_use]
    pub const fn checked(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(_) => Some(Self { start, len }),
            None => None,
        }
    }

    /// The range `start..end`; empty where `end` lies before `start`.
    #[inline]
    #[must_use]
    pub const fn between(start: u64, end: u64) -> Self {
        Self { start, len: end.saturating_sub(start) }
    }

    /// First byte.
    #[inline]
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Number of bytes.
    #[inline]
    #[must_use]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// The byte after the last one.
    #[inline]
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.len
    }

    /// Whether the range holds no byte.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Whether all of `other` lies inside.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether the two share a byte.
    #[inline]
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end() && self.len > 0 && other.len > 0
    }

    /// What the two share; empty where they share nothing.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }

    /// The smallest range of whole `unit`s that covers this one. `unit` is a power of two.
    #[must_use]
    pub const fn widened_to(self, unit: u64) -> Self {
        let start = self.start & !(unit - 1);
        let end = match self.end().checked_add(unit - 1) {
            Some(end) => end & !(unit - 1),
            None => u64::MAX,
        };
        Self { start, len: end - start }
    }

    /// Whether start and length are multiples of `unit`, a power of two.
    #[inline]
    #[must_use]
    pub const fn is_aligned_to(self, unit: u64) -> bool {
        (self.start | self.len) & (unit - 1) == 0
    }

    /// The range moved so that its first byte is `start`.
    #[must_use]
    pub const fn moved_to(self, start: u64) -> Self {
        Self::new(start, self.len)
    }

    /// The range cut into pieces that end at multiples of `unit`, a power of two, in ascending order.
    pub fn pieces(self, unit: u64) -> impl Iterator<Item = Self> {
        let mut at = self.start;
        std::iter::from_fn(move || {
            (at < self.end()).then(|| {
                let border = (at & !(unit - 1)).saturating_add(unit);
                let piece = Self::between(at, border.min(self.end()));
                at = piece.end();
                piece
            })
        })
    }

    /// The part before `offset` and the part from it on.
    #[must_use]
    pub fn split_at(self, offset: u64) -> (Self, Self) {
        let middle = offset.clamp(self.start, self.end());
        (Self::between(self.start, middle), Self::between(middle, self.end()))
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.len)
    }
}
