//! What an image looks through for a granule, first to last: what was written to it, its own interval, each later one.

use bowline_block::ByteRange;

use super::chain::{Member, Stretch};
use super::granule::{Granules, WORD_GRANULES, find};
use super::interval::Interval;
use super::segment::SEGMENT_SLOTS;
use super::zone::{SlotId, ZONE_GRANULES};

/// Granules looked up at once.
const LOOKED_UP: usize = 64;

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct Layers<'a> {
    /// What was written to the image, if anything.
    pub(crate) overlay: Option<&'a Interval>,
    pub(crate) members: &'a [Member],
}

impl<'a> Layers<'a> {
    #[inline]
    fn intervals(self) -> impl Iterator<Item = &'a Interval> {
        self.overlay.into_iter().chain(self.members.iter().map(|member| &*member.interval))
    }

    /// Which of 64 granules are in one of them.
    #[inline]
    pub(crate) fn word(self, word: u64) -> u64 {
        self.intervals().fold(0, |bits, interval| bits | interval.word(word))
    }

    /// The first granule of `from..to` that is in one of them (`set`) or in none, or `to`.
    pub(crate) fn find(self, from: u64, to: u64, set: bool) -> u64 {
        let mut at = from;
        while at < to {
            // Where no interval has a zone there is nothing preserved, however far that is.
            let absent = self.intervals().map(|interval| interval.absent_until(at)).min().unwrap_or(to);
            if absent > at {
                if !set {
                    return at;
                }
                at = absent;
                continue;
            }
            let border = ((at / WORD_GRANULES + 1) * WORD_GRANULES).min(to);
            let found = find(at, border, set, |word| self.word(word));
            if found < border {
                return found;
            }
            at = border;
        }
        to
    }

    /// The bytes of all granules before `end` that are in one of them, on a device of `size` bytes, neighbours merged.
    pub(crate) fn ranges(self, end: u64, size: u64) -> Vec<ByteRange> {
        let mut found = Vec::new();
        let mut at = self.find(0, end, true);
        while at < end {
            let border = self.find(at, end, false);
            found.push(Granules { first: at, end: border }.bytes(size));
            at = self.find(border, end, true);
        }
        found
    }

    /// Where `granule`, which is in one of them, is, and how many after it, up to `end`, lie next to it.
    pub(crate) fn stretch(self, granule: u64, end: u64) -> Option<Stretch> {
        let holder = self.intervals().position(|interval| interval.has(granule))?;
        let zone = self.intervals().nth(holder)?.zone(granule / ZONE_GRANULES)?;
        let mut slots = [SlotId::ZERO; LOOKED_UP];
        let count = zone.slots(granule % ZONE_GRANULES, &mut slots);
        let mut slots = slots.iter().take(count);
        let slot = *slots.next()?;
        let mut granules = 1;
        for &next in slots {
            let beside = match slot {
                SlotId::ZERO => next == SlotId::ZERO,
                // Neighbouring slots are of one segment only up to its end.
                SlotId(first) => {
                    u64::from(next.0) == u64::from(first) + granules
                        && next.0 / SEGMENT_SLOTS == first / SEGMENT_SLOTS
                }
            };
            let hidden = self.intervals().take(holder).any(|interval| interval.has(granule + granules));
            if !beside || hidden || granule + granules >= end {
                break;
            }
            granules += 1;
        }
        Some(Stretch { slot, granules })
    }
}
