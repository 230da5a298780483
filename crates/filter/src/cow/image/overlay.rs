//! The overlay: what was written to an image, granule by granule, in front of what its snapshot preserves.
//!
//! A granule of it is *claimed* by its writer, so that two writers of different sectors of one granule follow each
//! other. A slot that is in memory for certain (of a memory storage, or of a segment that is still being filled) is
//! written in place; what may be on its way to the file gets a new slot, and its old one is *retired*.
//!
//! A retired slot may still be looked at by a reader that found it before. Everybody who uses an overlay holds its
//! token of that moment; slots are retired to the token in force, each token keeps the next one alive, and the slots
//! are given back when a token goes: then nobody is left who came before they were retired. No reader ever waits, and
//! the origin is not frozen for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bowline_block::{ByteRange, Error, ErrorKind, PAGE_BYTES};

use crate::cow::granule::{GRANULE_BYTES, Granules};
use crate::cow::history::History;
use crate::cow::interval::Interval;
use crate::cow::journal::{Outcome, Ticket, crc};
use crate::cow::keeper::{Kept, Stored};
use crate::cow::lane::{Lane, Open, lock_lane};
use crate::cow::layers::Layers;
use crate::cow::segment::{SEGMENT_BYTES, SEGMENT_SLOTS};
use crate::cow::shared::Shared;
use crate::cow::store::Got;
use crate::cow::zone::{Claimed, Run, SlotId, ZONE_GRANULES, Zone};

/// Retired slots that a token takes before the next one comes into force.
const RETIRED_PER_TOKEN: usize = 16;
/// Retired slots that may wait for readers: 16 MiB of diff storage. Then writers of the image wait too.
const RETIRED_MAX: usize = 4096;
/// Lanes of an overlay, where diff storage is large enough.
const LANES_MAX: u64 = 4;
/// The part of diff storage that image writes leave to the origin: this one of so many.
const LEFT_TO_ORIGIN: u64 = 8;

/// See the module.
pub(crate) struct Overlay {
    pub(crate) written: Interval,
    history: Arc<History>,
    snapshot: Arc<Shared>,
    now: Mutex<Arc<Token>>,
    retired: Arc<AtomicUsize>,
    /// What a flush has to do, if the snapshot is persistent.
    unsaved: Option<Mutex<Unsaved>>,
    epoch: u64,
}

/// What was written since the last flush. What is not in here is on stable storage, and its slots do not change and are not
/// used again before what replaces them is there too.
#[derive(Default)]
struct Unsaved {
    written: BTreeMap<u64, (SlotId, u32)>,
    /// What the last flush asked for: who finds nothing to do waits for that.
    last: Vec<Ticket>,
    /// Slots that a recorded block had before.
    replaced: Vec<SlotId>,
}

/// Being among those who use an overlay.
pub(crate) struct Token {
    history: Arc<History>,
    slots: Mutex<Vec<SlotId>>,
    next: OnceLock<Arc<Token>>,
    retired: Arc<AtomicUsize>,
}

/// Why nothing was appended.
pub(crate) enum NoRoom {
    /// Too much is on its way to the file, or looked at by readers.
    Wait,
    Failed(Error),
}

impl Drop for Token {
    fn drop(&mut self) {
        let slots = std::mem::take(self.slots.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.retired.fetch_sub(slots.len(), Ordering::Relaxed);
        self.history.table.free(slots);
        // One after another: each in the drop of the one before would need a stack as long as the list.
        let mut next = self.next.take();
        while let Some(token) = next {
            next = Arc::into_inner(token).and_then(|mut token| token.next.take());
        }
    }
}

impl Token {
    fn new(history: &Arc<History>, retired: &Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            history: history.clone(),
            slots: Mutex::default(),
            next: OnceLock::new(),
            retired: retired.clone(),
        })
    }
}

impl Overlay {
    pub(crate) fn new(history: &Arc<History>, snapshot: &Arc<Shared>, size: u64, epoch: u64) -> Arc<Self> {
        let lanes = (snapshot.storage.limit() / SEGMENT_BYTES / 16).clamp(1, LANES_MAX);
        let retired = Arc::default();
        Arc::new(Self {
            written: Interval::new(size, usize::try_from(lanes).unwrap_or(1)),
            history: history.clone(),
            snapshot: snapshot.clone(),
            now: Mutex::new(Token::new(history, &retired)),
            retired,
            unsaved: snapshot.is_persistent().then(Mutex::default),
            epoch,
        })
    }

    /// Joins those who use it. Before anything is looked up.
    pub(crate) fn enter(&self) -> Arc<Token> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether writers are to wait for readers of retired slots.
    pub(crate) fn is_crowded(&self) -> bool {
        self.retired.load(Ordering::Relaxed) >= RETIRED_MAX
    }

    fn retire(&self, slots: Vec<SlotId>) {
        if slots.is_empty() {
            return;
        }
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        self.retired.fetch_add(slots.len(), Ordering::Relaxed);
        let full = {
            let mut held = now.slots.lock().unwrap_or_else(PoisonError::into_inner);
            held.extend(slots);
            held.len() >= RETIRED_PER_TOKEN
        };
        let before = if full { self.turn(&mut now) } else { None };
        drop(now);
        drop(before);
    }

    /// Puts another token in force; the one before goes when its users have.
    fn turn(&self, now: &mut Arc<Token>) -> Option<Arc<Token>> {
        let next = Token::new(&self.history, &self.retired);
        let _ = now.next.set(next.clone());
        Some(std::mem::replace(now, next))
    }

    /// Gives back what is retired as soon as its readers are gone, however little it is.
    fn give_back(&self) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        // Without anything to give back there would be one more token each time a full image is written to.
        let holds_any = !now.slots.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let before = if holds_any { self.turn(&mut now) } else { None };
        drop(now);
        drop(before);
    }

    /// Claims the first granules of a range, at most `max` of them and of one zone, which comes with it.
    pub(crate) fn claim(&self, granules: Granules, max: u16) -> Option<(&Zone, Claimed<'_>)> {
        let number = granules.first / ZONE_GRANULES;
        let zone = self.written.zone_or_new(number)?;
        let base = number * ZONE_GRANULES;
        let run = Run::new(granules.first - base, granules.end.saturating_sub(base));
        Some((zone, zone.claim_any(run, max)))
    }

    /// Where a granule is, if it was written.
    pub(crate) fn slot(&self, granule: u64) -> Option<SlotId> {
        if !self.written.has(granule) {
            return None;
        }
        let mut found = [SlotId::ZERO];
        let zone = self.written.zone(granule / ZONE_GRANULES)?;
        (zone.slots(granule % ZONE_GRANULES, &mut found) > 0).then_some(found[0])
    }

    /// Lets `fill` change `len` bytes of a slot from byte `at` on, if it is in memory and stays there meanwhile.
    pub(crate) fn in_place<R>(
        &self,
        granule: u64,
        slot: SlotId,
        at: u64,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        // Held over the change, so that no flush takes half of it.
        let mut unsaved = self.unsaved.as_ref().map(lock);
        let known = |unsaved: &Unsaved| unsaved.written.get(&granule).is_some_and(|known| known.0 == slot);
        if unsaved.as_deref().is_some_and(|unsaved| !known(unsaved)) {
            return None;
        }
        let (segment, offset) = self.history.table.find(slot)?;
        if segment.volume.medium().is_none() {
            return segment.write(offset + at, len, fill);
        }
        // Once it is full it may be on its way to the file, and what is changed now would not get there.
        let lane = self.written.lanes.mine_first().find_map(|lane| {
            let lane = lock_lane(lane);
            lane.open.as_ref().is_some_and(|open| open.number == slot.0 / SEGMENT_SLOTS).then_some(lane)
        })?;
        let changed = segment.write(offset + at, len, fill);
        if let Some(unsaved) = &mut unsaved
            && len > 0
        {
            let mut block = [0; PAGE_BYTES];
            segment.read_memory(offset, &mut block).ok()?;
            unsaved.written.insert(granule, (slot, crc(&block)));
        }
        drop(lane);
        changed
    }

    /// Makes granules, which are claimed, what `data` says; `None` for zeroes. The first of them, as many as there is room
    /// for side by side: how many. The one place where the overlay gets to know where a granule is.
    pub(crate) fn put(
        &self,
        granules: Granules,
        size: u64,
        data: Option<&[u8]>,
    ) -> std::result::Result<u64, NoRoom> {
        let base = granules.first / ZONE_GRANULES * ZONE_GRANULES;
        let Some(zone) = self.written.zone(granules.first / ZONE_GRANULES) else { return Ok(0) };
        let (slot, granules) = match data {
            None => (SlotId::ZERO, granules),
            Some(data) => self.append(granules, size, data)?,
        };
        let run = Run::new(granules.first - base, granules.end - base);
        let Some(unsaved) = &self.unsaved else {
            self.retire(zone.replace(run, slot));
            return Ok(granules.len());
        };
        let mut unsaved = lock(unsaved);
        let replaced = zone.replace(run, slot);
        // Those that no record names are free at once.
        let never_saved: BTreeSet<u32> = (granules.first..granules.end)
            .filter_map(|granule| unsaved.written.get(&granule))
            .map(|(slot, _)| slot.0)
            .collect();
        let (free, saved): (Vec<_>, Vec<_>) =
            replaced.into_iter().partition(|slot| never_saved.contains(&slot.0));
        unsaved.replaced.extend(saved);
        let mut blocks = data.unwrap_or_default().chunks(PAGE_BYTES);
        for (nth, granule) in (0..).zip(granules.first..granules.end) {
            let block = blocks.next().unwrap_or_default();
            let stored = if slot == SlotId::ZERO { (slot, 0) } else { (SlotId(slot.0 + nth), sum(block)) };
            unsaved.written.insert(granule, stored);
        }
        drop(unsaved);
        self.retire(free);
        Ok(granules.len())
    }

    /// Stores the first granules, as many as fit one segment.
    fn append(
        &self,
        granules: Granules,
        size: u64,
        data: &[u8],
    ) -> std::result::Result<(SlotId, Granules), NoRoom> {
        let fill = |open: &mut Open| {
            let end = granules.end.min(granules.first + u64::from(open.room()));
            let part = Granules { first: granules.first, end };
            let len = part.bytes(size).len();
            let at = u64::from(open.next) * GRANULE_BYTES;
            let from = data.get(..usize::try_from(len).unwrap_or(usize::MAX))?;
            open.segment.write(at, part.len() * GRANULE_BYTES, |room| {
                // A short block at the end of the image: slots are whole.
                let (data, rest) = room.split_at_mut(from.len().min(room.len()));
                data.copy_from_slice(from);
                rest.fill(0);
            })?;
            Some((open.take(u32::try_from(part.len()).unwrap_or(0)), part))
        };
        let broken = || NoRoom::Failed(Error::new(ErrorKind::Corrupt, "an open segment is not in memory"));
        let mut lanes = self.written.lanes.mine_first();
        let Some(mine) = lanes.next() else { return Err(broken()) };
        let full = {
            let mut lane = lock_lane(mine);
            match self.with_room(&mut lane) {
                Ok(open) => {
                    let filled = fill(open);
                    if lane.with_room().is_none() {
                        lane.seal(&self.history.table);
                    }
                    return filled.ok_or_else(broken);
                }
                Err(NoRoom::Wait) => return Err(NoRoom::Wait),
                Err(full) => full,
            }
        };
        for other in lanes {
            let mut lane = lock_lane(other);
            if let Some(open) = lane.with_room() {
                return fill(open).ok_or_else(broken);
            }
        }
        Err(full)
    }

    /// The lane's segment, or a new one.
    fn with_room<'l>(&self, lane: &'l mut Lane) -> std::result::Result<&'l mut Open, NoRoom> {
        let storage = &self.snapshot.storage;
        if lane.with_room().is_none() {
            lane.seal(&self.history.table);
            if !self.may_take_more() {
                // What readers have let go of since may make the difference.
                self.give_back();
                if !self.may_take_more() {
                    return Err(NoRoom::Failed(self.no_space()));
                }
            }
            let segment = match storage.segment(self.history.origin()) {
                Got::Segment(segment) => segment,
                Got::Wait => return Err(NoRoom::Wait),
                Got::Full => return Err(NoRoom::Failed(self.no_space())),
                Got::Failed(trouble) => {
                    return Err(NoRoom::Failed(Error::new(ErrorKind::Io, trouble.reason)));
                }
            };
            let Some(number) = self.history.table.insert(segment.clone()) else {
                segment.release(1);
                segment.storage.take_back(&segment);
                return Err(NoRoom::Failed(self.no_space()));
            };
            lane.open = Some(Open { segment, number, next: 0 });
        }
        lane.with_room().ok_or(NoRoom::Wait)
    }

    /// The origin's old contents go before what is written to images: the last part is theirs.
    fn may_take_more(&self) -> bool {
        let storage = &self.snapshot.storage;
        let limit = storage.limit();
        storage.used() + SEGMENT_BYTES <= limit - limit / LEFT_TO_ORIGIN
    }

    fn no_space(&self) -> Error {
        let storage = &self.snapshot.storage;
        let why = format!(
            "diff storage {} has no room left for image writes: {} of {} bytes are in use, and the last {}th is the origin's",
            storage.location(),
            storage.used(),
            storage.limit(),
            LEFT_TO_ORIGIN
        );
        Error::new(ErrorKind::NoSpace, why)
    }

    /// Asks for what was written so far to be made durable; `None` when the snapshot is not persistent.
    pub(crate) fn save(&self) -> Option<Saving> {
        // Held until all is asked for: a flush that comes meanwhile has to wait for the same.
        let mut unsaved = lock(self.unsaved.as_ref()?);
        let written = std::mem::take(&mut unsaved.written);
        if written.is_empty() {
            return Some(Saving { tickets: unsaved.last.clone(), stored: Vec::new(), replaced: Vec::new() });
        }
        let keeper = self.history.chain.load().keeper.clone();
        let (mut tickets, mut all) = (Vec::new(), Vec::new());
        for (first, stored) in runs(&written) {
            let Some(keeper) = &keeper else { break };
            tickets.push(keeper.commit(&self.history.table, Kept::Image, self.epoch, first, &stored));
            all.push(stored);
        }
        if keeper.is_none() {
            let why = "the snapshots' journal is closed".to_owned();
            tickets.push(Ticket::told(Outcome::NoJournal(why)));
        }
        unsaved.last.clone_from(&tickets);
        Some(Saving { tickets, stored: all, replaced: std::mem::take(&mut unsaved.replaced) })
    }

    /// It is durable: what it replaced can be used again.
    pub(crate) fn saved(&self, saving: Saving) {
        for stored in saving.stored.iter().filter(|stored| stored.slot != SlotId::ZERO) {
            if let Some((segment, _)) = self.history.table.find(stored.slot) {
                segment.add_committed(u32::try_from(stored.count).unwrap_or(0));
            }
        }
        self.retire(saving.replaced);
    }

    /// What was written, neighbours merged.
    pub(crate) fn ranges(&self, size: u64) -> Vec<ByteRange> {
        let layers = Layers { overlay: Some(&self.written), members: &[] };
        layers.ranges(size.div_ceil(GRANULE_BYTES), size)
    }
}

/// A flush on its way.
pub(crate) struct Saving {
    pub(crate) tickets: Vec<Ticket>,
    stored: Vec<Stored>,
    replaced: Vec<SlotId>,
}

/// Neighbouring blocks in neighbouring slots of one segment, or all zero, with the first block of each.
fn runs(written: &BTreeMap<u64, (SlotId, u32)>) -> Vec<(u64, Stored)> {
    let mut runs: Vec<(u64, Stored)> = Vec::new();
    for (&granule, &(slot, sum)) in written {
        let sums = if slot == SlotId::ZERO { Vec::new() } else { vec![sum] };
        if let Some((first, run)) = runs.last_mut() {
            let beside = match (run.slot, slot) {
                (SlotId::ZERO, SlotId::ZERO) => true,
                (SlotId::ZERO, _) | (_, SlotId::ZERO) => false,
                (SlotId(start), SlotId(slot)) => {
                    u64::from(slot) == u64::from(start) + run.count
                        && start / SEGMENT_SLOTS == slot / SEGMENT_SLOTS
                }
            };
            if beside && granule == *first + run.count {
                run.count += 1;
                run.sums.extend(sums);
                continue;
            }
        }
        runs.push((granule, Stored { slot, count: 1, sums }));
    }
    runs
}

/// The checksum of a block; a short one at the end is stored with zeroes behind it.
fn sum(block: &[u8]) -> u32 {
    if block.len() == PAGE_BYTES {
        return crc(block);
    }
    let mut whole = [0; PAGE_BYTES];
    whole.iter_mut().zip(block).for_each(|(to, from)| *to = *from);
    crc(&whole)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let table = &self.history.table;
        self.written.lanes.seal(table);
        for (_, zone) in self.written.zones() {
            let stored = zone.entries().into_iter().map(|(_, slot)| slot);
            table.free(stored.filter(|slot| *slot != SlotId::ZERO));
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
#[path = "overlay_tests.rs"]
mod tests;
