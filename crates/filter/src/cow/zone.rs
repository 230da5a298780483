//! A zone: 16 MiB of a device, and the transition of its granules from *uncopied* over *busy* to *copied*.
//!
//! ```text
//!   uncopied ──claim──► busy ──publish──► copied        busy ──claim dropped──► uncopied
//! ```
//!
//! Bits are read without the lock and only ever get set; everything else is behind the lock, which is never held
//! over I/O. A claim says who copies a run of granules; whoever else wants one of them waits for the claim to end.
//! The order that image readers rely on: *slot, then bit (release, fence), then the writer's write*. So a reader
//! that saw anything of the write finds the bit when it looks again.
//!
//! The index is the list of slots in granule order, so a granule costs four bytes and its place is a rank: the
//! number of slots before it, counted from the bits. Granules known to be zero have a bit and no slot.

use std::task::Waker;

use super::granule::{WORD_GRANULES, find, mask_of};
use super::sync::{AtomicU64, Mutex, Ordering, fence, lock};

/// Granules of a zone.
pub(crate) const ZONE_GRANULES: u64 = 4096;
const WORDS: usize = 64;
/// Slots are counted per group of words, so that a rank is a few additions.
const GROUPS: usize = 8;
const GROUP_WORDS: usize = WORDS / GROUPS;

/// Where a copied granule is, as a number of its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(pub(crate) u32);

impl SlotId {
    /// The granule was zero: nothing is stored.
    pub(crate) const ZERO: Self = Self(u32::MAX);
}

/// A run of granules, counted from the zone's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u16,
    pub(crate) count: u16,
}

impl Run {
    pub(crate) fn new(first: u64, end: u64) -> Self {
        let cut = |at: u64| u16::try_from(at.min(ZONE_GRANULES)).unwrap_or(u16::MAX);
        Self { first: cut(first), count: cut(end).saturating_sub(cut(first)) }
    }

    /// What is left of it without its first granules.
    pub(crate) fn without(self, granules: u64) -> Self {
        Self::new(self.from().saturating_add(granules), self.end())
    }

    pub(crate) fn from(self) -> u64 {
        u64::from(self.first)
    }

    pub(crate) fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    fn overlaps(self, other: Self) -> bool {
        self.from() < other.end() && other.from() < self.end()
    }
}

struct Waiter {
    run: Run,
    waker: Waker,
}

#[derive(Default)]
struct State {
    /// Slots of the copied granules that are not zero, in granule order.
    slots: Vec<u32>,
    in_group: [u16; GROUPS],
    zero: Option<Box<[u64; WORDS]>>,
    busy: Vec<Run>,
    waiting: Vec<Waiter>,
}

/// See the module.
pub(crate) struct Zone {
    copied: [AtomicU64; WORDS],
    state: Mutex<State>,
}

/// What came of asking for granules.
pub(crate) enum Claimed<'a> {
    /// All are copied.
    Nothing,
    /// The first that is not copied is being copied by somebody else.
    Busy(Run),
    /// These are the caller's to copy.
    Mine(Claim<'a>),
}

/// The right and duty to copy a run. Dropped, it gives the rest back.
pub(crate) struct Claim<'a> {
    zone: &'a Zone,
    run: Run,
}

impl Zone {
    pub(crate) fn new() -> Self {
        Self { copied: std::array::from_fn(|_| AtomicU64::new(0)), state: Mutex::new(State::default()) }
    }

    /// The copied bits of 64 granules.
    #[inline]
    pub(crate) fn word(&self, word: u64) -> u64 {
        let index = usize::try_from(word).unwrap_or(usize::MAX);
        self.copied.get(index).map_or(0, |bits| bits.load(Ordering::Acquire))
    }

    /// Claims the first run of `within` that is not copied, at most `max` granules. Granules in `also` count as copied.
    pub(crate) fn claim(&self, within: Run, max: u16, also: impl Fn(u64) -> u64) -> Claimed<'_> {
        let mut state = lock(&self.state);
        let word = |index| self.word(index) | also(index);
        let first = find(within.from(), within.end(), false, word);
        if first >= within.end() {
            return Claimed::Nothing;
        }
        let limit = within.end().min(first + u64::from(max.max(1)));
        let mut end = find(first, limit, true, word);
        for busy in &state.busy {
            if busy.from() <= first && first < busy.end() {
                return Claimed::Busy(*busy);
            }
            if first < busy.from() {
                end = end.min(busy.from());
            }
        }
        let run = Run::new(first, end);
        state.busy.push(run);
        Claimed::Mine(Claim { zone: self, run })
    }

    /// Claims the first granules of `within`, copied or not, at most `max`.
    pub(crate) fn claim_any(&self, within: Run, max: u16) -> Claimed<'_> {
        let mut state = lock(&self.state);
        let first = within.from();
        if within.count == 0 {
            return Claimed::Nothing;
        }
        let mut end = within.end().min(first + u64::from(max.max(1)));
        for busy in &state.busy {
            if busy.from() <= first && first < busy.end() {
                return Claimed::Busy(*busy);
            }
            if first < busy.from() {
                end = end.min(busy.from());
            }
        }
        let run = Run::new(first, end);
        state.busy.push(run);
        Claimed::Mine(Claim { zone: self, run })
    }

    /// Puts granules into consecutive slots from `slot` on, or makes them zero, whatever they were. Gives the slots they
    /// had. Only for who has claimed them by [`Zone::claim_any`].
    pub(crate) fn replace(&self, run: Run, slot: SlotId) -> Vec<SlotId> {
        let mut state = lock(&self.state);
        let rank = self.rank(&state, run.from());
        let mut had = 0;
        for word in run.from() / WORD_GRANULES..run.end().div_ceil(WORD_GRANULES) {
            let bits = self.word(word) & !state.zero_word(word) & mask_of(word, run.from(), run.end());
            had += bits.count_ones() as usize;
            state.uncount(word, bits.count_ones());
        }
        let len = state.slots.len();
        let had = state.slots.drain(rank.min(len)..(rank + had).min(len)).map(SlotId).collect();
        if slot == SlotId::ZERO {
            state.set_zero(run.from(), run.end());
        } else {
            state.clear_zero(run.from(), run.end());
            state.insert(rank, run, slot);
        }
        self.set_bits(run.from(), run.end());
        had
    }

    /// Whether a granule of the run is being copied. If so, the waker is told when that has changed.
    pub(crate) fn is_busy(&self, run: Run, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        let busy = state.busy.iter().any(|busy| busy.overlaps(run));
        if busy && !state.waiting.iter().any(|other| other.run == run && other.waker.will_wake(waker)) {
            state.waiting.push(Waiter { run, waker: waker.clone() });
        }
        busy
    }

    /// The slots of the copied granules from `first` on without a gap, as many as `found` takes; how many there are.
    pub(crate) fn slots(&self, first: u64, found: &mut [SlotId]) -> usize {
        let state = lock(&self.state);
        let room = u64::try_from(found.len()).unwrap_or(u64::MAX);
        let end = find(first, ZONE_GRANULES.min(first.saturating_add(room)), false, |word| self.word(word));
        let mut rank = self.rank(&state, first);
        for (granule, place) in (first..end).zip(found.iter_mut()) {
            *place = SlotId::ZERO;
            if !state.is_zero(granule) {
                *place = SlotId(state.slots.get(rank).copied().unwrap_or(u32::MAX));
                rank += 1;
            }
        }
        usize::try_from(end.saturating_sub(first)).unwrap_or(0)
    }

    /// Slots of granules before this one.
    fn rank(&self, state: &State, granule: u64) -> usize {
        let word = granule / WORD_GRANULES;
        let group = usize::try_from(word).unwrap_or(usize::MAX) / GROUP_WORDS;
        let before: usize = state.in_group.iter().take(group).map(|&count| usize::from(count)).sum();
        let from = (group * GROUP_WORDS) as u64;
        let within: u32 = (from..=word)
            .map(|at| (self.word(at) & !state.zero_word(at) & mask_of(at, 0, granule)).count_ones())
            .sum();
        before + within as usize
    }

    /// All copied granules with their slots, in order.
    pub(crate) fn entries(&self) -> Vec<(u16, SlotId)> {
        self.entries_of(&lock(&self.state))
    }

    fn entries_of(&self, state: &State) -> Vec<(u16, SlotId)> {
        let mut slots = state.slots.iter();
        let mut entries = Vec::with_capacity(state.slots.len());
        let mut at = find(0, ZONE_GRANULES, true, |word| self.word(word));
        while at < ZONE_GRANULES {
            let slot = if state.is_zero(at) { None } else { slots.next() };
            let id = slot.map_or(SlotId::ZERO, |&slot| SlotId(slot));
            entries.push((u16::try_from(at).unwrap_or(u16::MAX), id));
            at = find(at + 1, ZONE_GRANULES, true, |word| self.word(word));
        }
        entries
    }

    /// Takes over those of the entries, in order, whose granules are not copied here.
    pub(crate) fn absorb(&self, entries: &[(u16, SlotId)]) {
        let mut state = lock(&self.state);
        let mut own = self.entries_of(&state).into_iter().peekable();
        let mut all = Vec::with_capacity(entries.len());
        for &(granule, slot) in entries {
            while let Some(entry) = own.next_if(|entry| entry.0 < granule) {
                all.push(entry);
            }
            all.push(own.next_if(|entry| entry.0 == granule).unwrap_or((granule, slot)));
        }
        all.extend(own);
        let (busy, waiting) = (std::mem::take(&mut state.busy), std::mem::take(&mut state.waiting));
        let stored = all.iter().filter(|entry| entry.1 != SlotId::ZERO).count();
        *state = State { slots: Vec::with_capacity(stored), busy, waiting, ..State::default() };
        for (granule, slot) in all {
            let granule = u64::from(granule);
            if slot == SlotId::ZERO {
                state.set_zero(granule, granule + 1);
            } else {
                state.slots.push(slot.0);
                state.count(granule, 1);
            }
            self.set_bits(granule, granule + 1);
        }
    }

    fn set_bits(&self, from: u64, to: u64) {
        for word in from / WORD_GRANULES..to.div_ceil(WORD_GRANULES) {
            let index = usize::try_from(word).unwrap_or(usize::MAX);
            if let Some(bits) = self.copied.get(index) {
                bits.fetch_or(mask_of(word, from, to), Ordering::SeqCst);
            }
        }
    }

    /// Copied granules, and how many of them have a slot.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let copied = (0..WORDS as u64).map(|word| u64::from(self.word(word).count_ones())).sum();
        (copied, lock(&self.state).slots.len() as u64)
    }

    /// Bytes of memory, apart from the bits themselves.
    pub(crate) fn index_bytes(&self) -> u64 {
        let state = lock(&self.state);
        let lists = state.slots.capacity() * size_of::<u32>()
            + state.busy.capacity() * size_of::<Run>()
            + state.waiting.capacity() * size_of::<Waiter>();
        let zero = state.zero.as_ref().map_or(0, |_| size_of::<[u64; WORDS]>());
        (lists + zero + size_of::<Self>() - size_of::<[AtomicU64; WORDS]>()) as u64
    }

    /// The end of a copy, or of the wish to make one.
    fn settle(&self, run: Run, done: Run, slot: Option<SlotId>) {
        let mut state = lock(&self.state);
        if let Some(slot) = slot {
            if slot == SlotId::ZERO {
                state.set_zero(done.from(), done.end());
            } else {
                let rank = self.rank(&state, done.from());
                state.insert(rank, done, slot);
            }
            self.set_bits(done.from(), done.end());
        }
        let ended = if slot.is_some() { done } else { run };
        if let Some(at) = state.busy.iter().position(|busy| *busy == run) {
            state.busy.swap_remove(at);
            if ended != run {
                state.busy.push(Run::new(ended.end(), run.end()));
            }
        }
        let mut woken = Vec::new();
        if !state.waiting.is_empty() {
            let (wake, keep) =
                std::mem::take(&mut state.waiting).into_iter().partition(|w| w.run.overlaps(ended));
            woken = wake;
            state.waiting = keep;
        }
        drop(state);
        fence(Ordering::SeqCst);
        woken.into_iter().for_each(|waiter: Waiter| waiter.waker.wake());
    }
}

impl State {
    fn zero_word(&self, word: u64) -> u64 {
        let index = usize::try_from(word).unwrap_or(usize::MAX);
        self.zero.as_ref().and_then(|zero| zero.get(index)).copied().unwrap_or(0)
    }

    fn is_zero(&self, granule: u64) -> bool {
        self.zero.is_some() && self.zero_word(granule / WORD_GRANULES) >> (granule % WORD_GRANULES) & 1 == 1
    }

    fn set_zero(&mut self, from: u64, to: u64) {
        let zero = self.zero.get_or_insert_with(|| Box::new([0; WORDS]));
        for word in from / WORD_GRANULES..to.div_ceil(WORD_GRANULES) {
            if let Some(bits) = usize::try_from(word).ok().and_then(|index| zero.get_mut(index)) {
                *bits |= mask_of(word, from, to);
            }
        }
    }

    fn clear_zero(&mut self, from: u64, to: u64) {
        let Some(zero) = &mut self.zero else { return };
        for word in from / WORD_GRANULES..to.div_ceil(WORD_GRANULES) {
            if let Some(bits) = usize::try_from(word).ok().and_then(|index| zero.get_mut(index)) {
                *bits &= !mask_of(word, from, to);
            }
        }
    }

    fn count(&mut self, from: u64, granules: u64) {
        for granule in from..from + granules {
            let group = usize::try_from(granule / WORD_GRANULES).unwrap_or(usize::MAX) / GROUP_WORDS;
            if let Some(count) = self.in_group.get_mut(group) {
                *count += 1;
            }
        }
    }

    /// Fewer slots in a word.
    fn uncount(&mut self, word: u64, fewer: u32) {
        let group = usize::try_from(word).unwrap_or(usize::MAX) / GROUP_WORDS;
        if let Some(count) = self.in_group.get_mut(group) {
            *count = count.saturating_sub(u16::try_from(fewer).unwrap_or(u16::MAX));
        }
    }

    /// Puts consecutive slots at `rank`. The list grows by an eighth: the index stays under its eight bytes a granule.
    fn insert(&mut self, rank: usize, run: Run, slot: SlotId) {
        let more = usize::from(run.count);
        if self.slots.capacity() - self.slots.len() < more {
            // No list needs more slots than its zone has granules.
            let most = usize::try_from(ZONE_GRANULES).unwrap_or(usize::MAX).saturating_sub(self.slots.len());
            self.slots.reserve_exact(more.max((self.slots.len() / 8 + 1).min(most)));
        }
        let rank = rank.min(self.slots.len());
        self.slots.splice(rank..rank, (0..u32::from(run.count)).map(|at| slot.0 + at));
        self.count(run.from(), u64::from(run.count));
    }
}

impl Claim<'_> {
    /// What is still to be copied.
    pub(crate) fn run(&self) -> Run {
        self.run
    }

    /// The first `count` granules are in consecutive slots from `slot` on, or are zero.
    pub(crate) fn publish(&mut self, count: u16, slot: SlotId) {
        let count = count.min(self.run.count);
        if count == 0 {
            return;
        }
        let done = Run { first: self.run.first, count };
        self.zone.settle(self.run, done, Some(slot));
        self.run = Run { first: self.run.first + count, count: self.run.count - count };
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.run.count > 0 {
            self.zone.settle(self.run, self.run, None);
        }
    }
}
