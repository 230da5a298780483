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

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bowline_block::{ByteRange, Error, ErrorKind};

use crate::cow::granule::{GRANULE_BYTES, Granules};
use crate::cow::history::History;
use crate::cow::interval::Interval;
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
    pub(crate) fn new(history: &Arc<History>, snapshot: &Arc<Shared>, size: u64) -> Arc<Self> {
        let lanes = (snapshot.storage.limit() / SEGMENT_BYTES / 16).clamp(1, LANES_MAX);
        let retired = Arc::default();
        Arc::new(Self {
            written: Interval::new(size, usize::try_from(lanes).unwrap_or(1)),
            history: history.clone(),
            snapshot: snapshot.clone(),
            now: Mutex::new(Token::new(history, &retired)),
            retired,
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
        let before = self.turn(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
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
        slot: SlotId,
        at: u64,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
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
        let replaced = zone.replace(Run::new(granules.first - base, granules.end - base), slot);
        self.retire(replaced);
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
            open.segment.write(at, len, |room| room.copy_from_slice(from))?;
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

    /// What was written, neighbours merged.
    pub(crate) fn ranges(&self, size: u64) -> Vec<ByteRange> {
        let layers = Layers { overlay: Some(&self.written), members: &[] };
        layers.ranges(size.div_ceil(GRANULE_BYTES), size)
    }
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
