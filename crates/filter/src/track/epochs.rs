//! Closed epochs: what changed in each, as compressed sets, oldest first.
//!
//! Under the freeze of a take a closed epoch is nothing but its live map. A worker packs it later, or whoever needs it
//! first. Where there are too many sets, or they are too large, the oldest neighbours become one: a question that begins
//! inside a merged interval gets the answer for all of it, which is more than was asked, never less.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use roaring::RoaringBitmap;

use super::chunks::Source;
use super::current::Current;
use super::sync::lock;

/// Sets of a device at most.
pub(crate) const SETS_MAX: usize = 4096;
/// Bytes of all sets. The newest two are kept apart whatever they need; each is at most a live map.
pub(crate) const SETS_BYTES_MAX: u64 = 64 << 20;
/// Names of takes that are remembered: the newest ones.
pub(crate) const NAMES_MAX: usize = 4096;
/// Bytes of a name at most.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Sets that are never merged, from the newest.
const APART: usize = 2;

/// Bytes of memory of a set, nearly.
pub(crate) fn set_bytes(set: &RoaringBitmap) -> u64 {
    set.serialized_size() as u64 + 64
}

/// The set of an epoch, or the map it is made from.
pub(crate) struct ClosedSet {
    set: OnceLock<(Arc<RoaringBitmap>, u64)>,
    raw: Mutex<Option<Arc<Current>>>,
}

impl ClosedSet {
    pub(crate) fn of_map(map: Arc<Current>) -> Self {
        Self { set: OnceLock::new(), raw: Mutex::new(Some(map)) }
    }

    pub(crate) fn of_set(set: Arc<RoaringBitmap>) -> Self {
        let bytes = set_bytes(&set);
        Self { set: OnceLock::from((set, bytes)), raw: Mutex::new(None) }
    }

    /// The set, packed now if it was not yet.
    pub(crate) fn get(&self) -> Arc<RoaringBitmap> {
        let (set, _) = self.set.get_or_init(|| {
            let raw = lock(&self.raw).clone();
            let mut set = raw.map(|raw| raw.map.to_set()).unwrap_or_default();
            set.optimize();
            let bytes = set_bytes(&set);
            (Arc::new(set), bytes)
        });
        lock(&self.raw).take();
        set.clone()
    }

    /// What it holds, as it is kept by now.
    pub(crate) fn source(&self) -> Source {
        if let Some((set, _)) = self.set.get() {
            return Source::Packed(set.clone());
        }
        let raw = lock(&self.raw).clone();
        // It has been packed meanwhile where there is none.
        raw.map_or_else(|| Source::Packed(self.get()), Source::Map)
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.set.get().is_some()
    }

    fn bytes(&self) -> u64 {
        match self.set.get() {
            Some((_, bytes)) => *bytes,
            None => lock(&self.raw).as_ref().map_or(0, |raw| raw.map.bytes()),
        }
    }
}

/// One or several neighbouring epochs.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) set: Arc<ClosedSet>,
    /// What the snapshots were called whose takes closed its epochs.
    pub(crate) names: Vec<(u64, Arc<str>)>,
}

impl Member {
    /// The two as one.
    pub(crate) fn merged(older: &Self, newer: &Self) -> Self {
        let mut set = &*older.set.get() | &*newer.set.get();
        set.optimize();
        Self {
            first: older.first,
            last: newer.last,
            set: Arc::new(ClosedSet::of_set(Arc::new(set))),
            names: older.names.iter().chain(&newer.names).cloned().collect(),
        }
    }
}

/// All closed epochs of a generation.
#[derive(Clone, Default)]
pub(crate) struct Chain {
    members: VecDeque<Member>,
    names: usize,
    /// So many of the oldest members have no names any more.
    nameless: usize,
}

impl Chain {
    pub(crate) fn from_members(members: Vec<Member>) -> Self {
        let mut chain = Self::default();
        members.into_iter().for_each(|member| chain.push(member));
        chain
    }

    pub(crate) fn push(&mut self, mut member: Member) {
        member.names.retain(|(_, name)| !name.is_empty() && name.len() <= NAME_BYTES_MAX);
        self.names += member.names.len();
        self.members.push_back(member);
        while self.names > NAMES_MAX {
            let Some(oldest) = self.members.get_mut(self.nameless) else { break };
            let gone = oldest.names.len().min(self.names - NAMES_MAX);
            oldest.names.drain(..gone);
            self.names -= gone;
            self.nameless += usize::from(oldest.names.is_empty());
        }
    }

    pub(crate) fn members(&self) -> impl DoubleEndedIterator<Item = &Member> {
        self.members.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.members.front().map(|member| member.first)
    }

    /// The newest epoch that a take of that name closed.
    pub(crate) fn epoch_of(&self, name: &str) -> Option<u64> {
        let mut names = self.members.iter().rev().flat_map(|member| member.names.iter().rev());
        names.find(|(_, known)| &**known == name).map(|(epoch, _)| *epoch)
    }

    /// The sets of the epochs behind `since`, up to `until`.
    pub(crate) fn sets(&self, since: u64, until: u64) -> Vec<Arc<ClosedSet>> {
        let from = self.members.partition_point(|member| member.last <= since);
        let members = self.members.iter().skip(from).take_while(|member| member.first <= until);
        members.map(|member| member.set.clone()).collect()
    }

    /// Sets that are still maps.
    pub(crate) fn unpacked(&self) -> Vec<Arc<ClosedSet>> {
        // Maps are packed in turn, so that the search from the newest is short.
        let maps = self.members.iter().rev().take_while(|member| !member.set.is_packed());
        let mut maps: Vec<_> = maps.map(|member| member.set.clone()).collect();
        maps.reverse();
        maps
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.set.bytes()).sum()
    }

    /// Neighbours to be made one, each as position and pair, where there are too many sets or bytes: pairs from the
    /// oldest on, of epochs up to `settled`.
    pub(crate) fn surplus(&self, settled: u64, limits: SetLimits) -> Option<Vec<(Member, Member)>> {
        let mut bytes = self.bytes();
        let too_many = self.members.len() > limits.count;
        if !too_many && bytes <= limits.bytes {
            return None;
        }
        let free = self.members.len().saturating_sub(APART);
        let settled = self.members.partition_point(|member| member.last <= settled).min(free);
        // Of too many sets a quarter goes at once, so that it is not done again at the next take.
        let enough = if too_many { limits.count.div_ceil(8) } else { 0 };
        let mut pairs = Vec::new();
        let mut at = 0;
        while at + 1 < settled && (pairs.len() < enough || bytes > limits.bytes) {
            let (Some(older), Some(newer)) = (self.members.get(at), self.members.get(at + 1)) else { break };
            bytes = bytes.saturating_sub(older.set.bytes().min(newer.set.bytes()));
            pairs.push((older.clone(), newer.clone()));
            at += 2;
        }
        (!pairs.is_empty()).then_some(pairs)
    }

    /// Puts what was merged in its place, if the pair is still there.
    pub(crate) fn replace(&mut self, older: &Member, merged: Member) {
        let at = self.members.partition_point(|member| member.first < older.first);
        let here = self.members.get(at).is_some_and(|member| Arc::ptr_eq(&member.set, &older.set));
        if here && self.members.get(at + 1).is_some_and(|newer| newer.last == merged.last) {
            // Names may have been dropped meanwhile: those that are there now stay.
            let newer = self.members.remove(at + 1);
            if let Some(slot) = self.members.get_mut(at) {
                let mut names = std::mem::take(&mut slot.names);
                names.extend(newer.map(|newer| newer.names).unwrap_or_default());
                *slot = Member { names, ..merged };
            }
            self.nameless = if at + 1 < self.nameless { self.nameless - 1 } else { self.nameless.min(at) };
        }
    }
}

/// How much closed sets may need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetLimits {
    pub(crate) count: usize,
    pub(crate) bytes: u64,
}

impl Default for SetLimits {
    fn default() -> Self {
        Self { count: SETS_MAX, bytes: SETS_BYTES_MAX }
    }
}
