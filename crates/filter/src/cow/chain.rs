//! The chain: the intervals of a device from the oldest snapshot to now.
//!
//! ```text
//!   snapshots      monday       tuesday      wednesday
//!   intervals      [ i0 ]─────► [ i1 ]─────► [ i2 ]─────► origin
//!                                            current: copies go here
//! ```
//!
//! An image looks for a granule in its own interval, then in each later one, then at the origin. A chain does not
//! change: takes and removals put another one in its place while the device is frozen. A member whose snapshot was
//! removed is an *orphan* until its contents are merged into the member before it.

use std::sync::Arc;
use std::time::Duration;

use super::events::Cause;
use super::granule::{Granules, WORD_GRANULES, find, mask_of};
use super::interval::Interval;
use super::shared::Shared;
use super::store::Trouble;
use super::zone::SlotId;

/// An interval and the snapshot whose take began it.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) interval: Arc<Interval>,
    /// `None` for an orphan.
    pub(crate) snapshot: Option<Arc<Shared>>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Chain {
    pub(crate) members: Vec<Member>,
    /// The last member with a snapshot; what follows are orphans that are being merged.
    current: usize,
    /// How long a write may be held.
    pub(crate) hold_limit: Duration,
}

/// The slots of consecutive granules that are next to each other, or all zero.
pub(crate) struct Stretch {
    pub(crate) slot: SlotId,
    pub(crate) granules: u64,
}

/// Granules looked up at once.
const LOOKED_UP: usize = 64;

impl Chain {
    pub(crate) fn new(members: Vec<Member>, hold_limit: Duration) -> Self {
        let current = members.iter().rposition(|member| member.snapshot.is_some()).unwrap_or(0);
        Self { members, current, hold_limit }
    }

    /// Where copies go; `None` when there is no snapshot.
    #[inline]
    pub(crate) fn current(&self) -> Option<&Interval> {
        self.members.get(self.current).map(|member| &*member.interval)
    }

    /// The same, to keep.
    pub(crate) fn current_interval(&self) -> Option<Arc<Interval>> {
        self.members.get(self.current).map(|member| member.interval.clone())
    }

    /// The snapshots that need copies, newest first: the first one's storage is charged.
    #[inline]
    pub(crate) fn active(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.members.iter().rev().filter_map(|member| member.snapshot.as_ref()).filter(|one| one.is_active())
    }

    /// Whether anything has to be copied.
    #[inline]
    pub(crate) fn is_copying(&self) -> bool {
        self.active().next().is_some()
    }

    /// All snapshots, older ones first.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.members.iter().filter_map(|member| member.snapshot.as_ref())
    }

    /// All snapshots of this device fail.
    pub(crate) fn fail_all(&self, reason: &str) {
        self.snapshots().for_each(|one| one.fail(reason.to_owned()));
    }

    /// The same, with what was behind it.
    pub(crate) fn fail_all_for(&self, trouble: &Trouble) {
        self.snapshots().for_each(|one| one.fail_for(trouble.clone()));
    }

    /// All snapshots are told that the device is not there any more.
    pub(crate) fn tell_gone(&self, device: &str, cause: Option<Cause>) {
        self.snapshots().for_each(|one| one.device_gone(device, cause));
    }

    /// Which of 64 granules are in the current interval or in an orphan behind it.
    #[inline]
    pub(crate) fn copied_word(&self, word: u64) -> u64 {
        self.word_from(self.current, word)
    }

    /// The same without the current interval: almost always nothing.
    pub(crate) fn orphaned_word(&self, word: u64) -> u64 {
        self.word_from(self.current + 1, word)
    }

    #[inline]
    fn word_from(&self, member: usize, word: u64) -> u64 {
        let later = self.members.get(member..).unwrap_or_default();
        later.iter().fold(0, |bits, member| bits | member.interval.word(word))
    }

    /// Whether all of these are copied.
    #[inline]
    pub(crate) fn all_copied(&self, granules: Granules) -> bool {
        let Granules { first, end } = granules;
        (first / WORD_GRANULES..end.div_ceil(WORD_GRANULES)).all(|word| {
            let mask = mask_of(word, first, end);
            self.copied_word(word) & mask == mask
        })
    }

    /// The place of a snapshot's member.
    pub(crate) fn position(&self, epoch: u64) -> Option<usize> {
        self.members.iter().position(|member| member.interval.epoch == epoch && member.snapshot.is_some())
    }

    /// The first granule of `from..to` that an image of member `own` finds preserved (`set`) or not, or `to`.
    pub(crate) fn find_from(&self, own: usize, from: u64, to: u64, set: bool) -> u64 {
        let later = self.members.get(own..).unwrap_or_default();
        let mut at = from;
        while at < to {
            // Where no interval has a zone there is nothing preserved, however far that is.
            let absent = later.iter().map(|member| member.interval.absent_until(at)).min().unwrap_or(to);
            if absent > at {
                if !set {
                    return at;
                }
                at = absent;
                continue;
            }
            let border = ((at / WORD_GRANULES + 1) * WORD_GRANULES).min(to);
            let found = find(at, border, set, |word| self.word_from(own, word));
            if found < border {
                return found;
            }
            at = border;
        }
        to
    }

    /// Where member `own` finds `granule`, which is preserved, and how many after it, up to `end`, lie next to it.
    pub(crate) fn stretch(&self, own: usize, granule: u64, end: u64) -> Option<Stretch> {
        let later = self.members.get(own..)?;
        let at = later.iter().position(|member| member.interval.has(granule))?;
        let (earlier, rest) = later.split_at(at);
        let zone = rest.first()?.interval.zone(granule / super::zone::ZONE_GRANULES)?;
        let mut slots = [SlotId::ZERO; LOOKED_UP];
        let count = zone.slots(granule % super::zone::ZONE_GRANULES, &mut slots);
        let mut slots = slots.iter().take(count);
        let slot = *slots.next()?;
        let mut granules = 1;
        for &next in slots {
            let beside = match slot {
                SlotId::ZERO => next == SlotId::ZERO,
                // Neighbouring slots are of one segment only up to its end.
                SlotId(first) => {
                    u64::from(next.0) == u64::from(first) + granules
                        && next.0 / super::segment::SEGMENT_SLOTS == first / super::segment::SEGMENT_SLOTS
                }
            };
            let hidden = earlier.iter().any(|member| member.interval.has(granule + granules));
            if !beside || hidden || granule + granules >= end {
                break;
            }
            granules += 1;
        }
        Some(Stretch { slot, granules })
    }

    /// The chain with another member in front of now.
    pub(crate) fn with(&self, member: Member, hold_limit: Duration) -> Self {
        let mut members = self.members.clone();
        members.push(member);
        Self::new(members, hold_limit)
    }
}
