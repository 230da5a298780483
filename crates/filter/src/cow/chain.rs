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
use super::granule::{Granules, WORD_GRANULES, mask_of};
use super::interval::Interval;
use super::keeper::Keeper;
use super::lane::Open;
use super::layers::Layers;
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
    /// Where copies for persistent snapshots are recorded.
    pub(crate) keeper: Option<Arc<Keeper>>,
    /// Whether one of the snapshots is persistent.
    pub(crate) is_durable: bool,
}

/// The slots of consecutive granules that are next to each other, or all zero.
pub(crate) struct Stretch {
    pub(crate) slot: SlotId,
    pub(crate) granules: u64,
}

impl Chain {
    pub(crate) fn new(members: Vec<Member>, hold_limit: Duration, keeper: Option<Arc<Keeper>>) -> Self {
        let current = members.iter().rposition(|member| member.snapshot.is_some()).unwrap_or(0);
        let mut snapshots = members.iter().filter_map(|member| member.snapshot.as_ref());
        let is_durable = keeper.is_some() && snapshots.any(|one| one.is_persistent());
        Self { members, current, hold_limit, keeper, is_durable }
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

    /// The snapshot whose storage takes the next copy: the newest persistent one, because one copy serves all and it needs
    /// it there; else the newest.
    pub(crate) fn charged(&self) -> Option<&Arc<Shared>> {
        let mut takers = self.active().filter(|one| !one.is_doomed());
        if !self.is_durable {
            return takers.next();
        }
        let newest = takers.next()?;
        if newest.is_persistent() {
            return Some(newest);
        }
        takers.find(|one| one.is_persistent()).or(Some(newest))
    }

    /// Whether copies may go on into that segment: what a persistent snapshot is charged for has to be in its own.
    pub(crate) fn takes(&self, open: &Open) -> bool {
        let charged = if self.is_durable { self.charged().filter(|one| one.is_persistent()) } else { None };
        charged.is_none_or(|one| Arc::ptr_eq(&one.storage, &open.segment.storage))
    }

    /// The persistent snapshots that have failed, as long as that is not on record.
    pub(crate) fn doomed(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.snapshots().filter(|one| self.is_durable && one.is_doomed())
    }

    /// All persistent snapshots fail.
    pub(crate) fn fail_persistent(&self, reason: &str) {
        self.snapshots().filter(|one| one.is_persistent()).for_each(|one| one.fail(reason.to_owned()));
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
        self.layers(member).word(word)
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

    /// What an image of member `own` looks through, apart from what was written to it.
    #[inline]
    pub(crate) fn layers(&self, own: usize) -> Layers<'_> {
        Layers { overlay: None, members: self.members.get(own..).unwrap_or_default() }
    }

    /// The chain with another member in front of now.
    pub(crate) fn with(&self, member: Member, hold_limit: Duration, keeper: Option<Arc<Keeper>>) -> Self {
        let mut members = self.members.clone();
        members.push(member);
        Self::new(members, hold_limit, keeper)
    }
}
