//! Preserving old contents: at once where the store below can read at once, else behind a hold.
//!
//! A copy is *claim, read, publish* (see `zone`). The old contents are read straight into the segment that will keep
//! them. Nothing waits with a lock held: a zone's lock is not held over a read, a lane's only over one that does not
//! wait.
//!
//! Whatever goes wrong costs snapshots, never the write: storage full costs the newest snapshot, and the next older
//! one is charged from then on; old contents that cannot be read, or not in time, cost all of them. The time is one for
//! the whole request, whatever it waits for and how often.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bowline_block::{ByteRange, Done, Error, ErrorKind, Io, Now, Op, Request, Store, Verdict};

use super::chain::Chain;
use super::events::Cause;
use super::granule::{GRANULE_BYTES, Granules};
use super::history::History;
use super::journal::{Ticket, crc};
use super::keeper::Stored;
use super::lane::{Lane, Open, lock_lane};
use super::segment::{SEGMENT_SLOTS, Segment};
use super::shared::Shared;
use super::store::{Got, Trouble};
use super::wait::{self, Deadline};
use super::zone::{Claim, Claimed, Run, SlotId, ZONE_GRANULES, Zone};

/// Granules that are copied on the spot; a larger write is held, so that it does not keep its queue from others.
const AT_ONCE_MAX: u64 = 256;
/// Granules read at once behind a hold: 1 MiB.
const BATCH_MAX: u16 = 256;

/// What came of an attempt to preserve a run.
enum Attempt {
    /// The first granules of it are stored, and to be published.
    Stored(Stored, Option<Ticket>),
    /// The store below cannot read it at once.
    NotNow,
    /// The store below cannot read it.
    Unreadable(Error),
    /// This snapshot's storage has too much on its way to its file.
    Wait(Arc<Shared>),
    /// This snapshot's storage has no room, and its writers wait for some.
    Hold(Full),
    /// No snapshot is left that could take it.
    NoTaker,
}

/// A storage without room, and how often it had got some when that was found.
struct Full {
    snapshot: Arc<Shared>,
    seen: u64,
}

impl Full {
    fn new(snapshot: Arc<Shared>) -> Self {
        Self { seen: snapshot.storage.room_changes(), snapshot }
    }
}

/// Why a lane has no room.
enum NoRoom {
    Wait(Arc<Shared>),
    Full(Arc<Shared>),
    Broken(Arc<Shared>, Trouble),
    NoTaker,
}

/// Gives `bytes` of the origin into `room`.
type Fill<'a> = &'a mut dyn FnMut(ByteRange, &mut [u8]) -> Now;

/// The part of `granules` that lies in one zone.
fn zone_parts(granules: Granules) -> impl Iterator<Item = (u64, Run)> {
    let mut at = granules.first;
    std::iter::from_fn(move || {
        (at < granules.end).then(|| {
            let zone = at / ZONE_GRANULES;
            let base = zone * ZONE_GRANULES;
            let run = Run::new(at - base, granules.end - base);
            at = base + run.end();
            (zone, run)
        })
    })
}

impl History {
    /// A write is about to change these granules.
    pub(crate) fn before_write<'a>(
        &'a self,
        chain: &Arc<Chain>,
        granules: Granules,
        below: &'a dyn Store,
    ) -> Verdict<'a> {
        // What has to be durable has to be waited for.
        if !chain.is_durable && granules.len() <= AT_ONCE_MAX && self.copy_now(chain, granules, below) {
            return Verdict::Pass;
        }
        let chain = chain.clone();
        Verdict::Hold(Box::pin(async move {
            let deadline = Deadline::after(chain.hold_limit);
            self.copy(&chain, granules, below, deadline).await;
        }))
    }

    /// Copies on the spot; whether the write may go on.
    fn copy_now(&self, chain: &Chain, granules: Granules, below: &dyn Store) -> bool {
        let size = below.geometry().size;
        let mut fill = |bytes, room: &mut [u8]| below.read_now(bytes, room);
        for (number, run) in zone_parts(granules) {
            loop {
                let Some((_, claimed)) = claim(chain, number, run, BATCH_MAX) else { break };
                let mut claim = match claimed {
                    Claimed::Nothing => break,
                    Claimed::Busy(_) => return false,
                    Claimed::Mine(claim) => claim,
                };
                while claim.run().count > 0 {
                    match self.preserve(chain, number, claim.run(), size, &mut fill) {
                        Attempt::Stored(stored, _) => publish(&mut claim, &stored),
                        Attempt::NotNow | Attempt::Wait(_) | Attempt::Hold(_) => return false,
                        Attempt::Unreadable(error) => {
                            self.unreadable(chain, &error);
                            return true;
                        }
                        Attempt::NoTaker => return true,
                    }
                }
            }
        }
        true
    }

    /// Copies, waiting for what has to be waited for. At the end the granules are copied, or no snapshot needs them. The
    /// deadline as it is then: it stands still while room is waited for.
    pub(crate) async fn copy(
        &self,
        chain: &Chain,
        granules: Granules,
        below: &dyn Store,
        mut deadline: Deadline,
    ) -> Deadline {
        for (number, run) in zone_parts(granules) {
            while chain.is_copying() {
                self.wait_for_record(chain, deadline).await;
                let Some((zone, claimed)) = claim(chain, number, run, BATCH_MAX) else { break };
                match claimed {
                    Claimed::Nothing => break,
                    Claimed::Busy(busy) => {
                        if wait::bounded(deadline.left(), not_busy(zone, busy)).await.is_none() {
                            chain.fail_all(&too_slow("a copy of the same block", deadline.limit));
                        }
                    }
                    Claimed::Mine(claim) => {
                        match self.copy_claimed(chain, number, claim, below, deadline).await {
                            // Without the claim, so that others who want the same wait for the same.
                            Some(full) => wait_for_room(&full, self.origin(), &mut deadline).await,
                            None => wait::step_aside().await,
                        }
                    }
                }
            }
        }
        self.wait_for_record(chain, deadline).await;
        deadline
    }

    /// Copies what was claimed; the snapshot whose storage has no room for it, if writers are to wait for that.
    async fn copy_claimed(
        &self,
        chain: &Chain,
        number: u64,
        mut claim: Claim<'_>,
        below: &dyn Store,
        deadline: Deadline,
    ) -> Option<Full> {
        let mut pending = Vec::new();
        let why = self.store_claimed(chain, number, claim.run(), below, deadline, &mut pending).await;
        // What is stored is published whatever came then: it is good for somebody.
        self.publish_all(chain, &mut claim, pending, deadline).await;
        why
    }

    /// Stores what was claimed, to be published.
    async fn store_claimed(
        &self,
        chain: &Chain,
        number: u64,
        run: Run,
        below: &dyn Store,
        deadline: Deadline,
        pending: &mut Vec<(Stored, Option<Ticket>)>,
    ) -> Option<Full> {
        let size = below.geometry().size;
        let mut rest = run;
        let mut read_now = |bytes, room: &mut [u8]| below.read_now(bytes, room);
        while rest.count > 0 {
            match self.preserve(chain, number, rest, size, &mut read_now) {
                Attempt::Stored(stored, ticket) => {
                    rest = rest.without(stored.count);
                    pending.push((stored, ticket));
                }
                Attempt::Hold(full) => return Some(full),
                Attempt::Wait(snapshot) => wait_for_storage(chain, &snapshot, deadline).await,
                Attempt::NoTaker => return None,
                Attempt::Unreadable(error) => return self.unreadable(chain, &error),
                Attempt::NotNow => break,
            }
        }
        if rest.count == 0 {
            return None;
        }
        let bytes = bytes_of(number, rest, size);
        let len = usize::try_from(bytes.len()).unwrap_or(0);
        let read = below.submit(Io::new(Request::new(Op::Read, bytes), bowline_io::alloc(len)));
        let Some(Done { result, data }) = wait::bounded(deadline.left(), read).await else {
            chain.fail_all(&too_slow("reading old contents of the origin", deadline.limit));
            return None;
        };
        if let Err(error) = result {
            return self.unreadable(chain, &error);
        }
        let mut from_buffer = |part: ByteRange, room: &mut [u8]| {
            let at = usize::try_from(part.start().saturating_sub(bytes.start())).unwrap_or(usize::MAX);
            let Some(old) = data.get(at..at.saturating_add(room.len())) else {
                return Now::Done(Err(Error::new(ErrorKind::Io, "a read came back short")));
            };
            room.copy_from_slice(old);
            Now::Done(Ok(()))
        };
        while rest.count > 0 {
            match self.preserve(chain, number, rest, size, &mut from_buffer) {
                Attempt::Stored(stored, ticket) => {
                    rest = rest.without(stored.count);
                    pending.push((stored, ticket));
                }
                Attempt::Hold(full) => return Some(full),
                Attempt::Wait(snapshot) => wait_for_storage(chain, &snapshot, deadline).await,
                Attempt::Unreadable(error) => return self.unreadable(chain, &error),
                Attempt::NoTaker | Attempt::NotNow => return None,
            }
        }
        None
    }

    /// Records granules as zero without storing anything.
    pub(crate) async fn record_zero(&self, chain: &Chain, granules: Granules, deadline: Deadline) {
        for (number, run) in zone_parts(granules) {
            while let Some((zone, claimed)) = claim(chain, number, run, u16::MAX) {
                match claimed {
                    Claimed::Nothing => break,
                    Claimed::Mine(mut claim) => {
                        let count = u64::from(claim.run().count);
                        let zero = Stored { slot: SlotId::ZERO, count, sums: Vec::new() };
                        let ticket = self.commit_copy(chain, number, claim.run(), &zero);
                        self.publish_all(chain, &mut claim, vec![(zero, ticket)], deadline).await;
                        self.wait_for_record(chain, deadline).await;
                        if !chain.is_copying() {
                            return;
                        }
                    }
                    Claimed::Busy(busy) => {
                        if wait::bounded(deadline.left(), not_busy(zone, busy)).await.is_none() {
                            return chain.fail_all(&too_slow("a copy of the same block", deadline.limit));
                        }
                    }
                }
            }
        }
    }

    /// Stores the first granules of a run that is claimed, as many as fit one segment.
    fn preserve(&self, chain: &Chain, zone: u64, run: Run, size: u64, fill: Fill<'_>) -> Attempt {
        let kept = chain.is_durable;
        let Some(current) = chain.current() else { return Attempt::NoTaker };
        loop {
            let mut lanes = current.lanes.mine_first();
            let Some(mine) = lanes.next() else { return Attempt::NoTaker };
            let no_room = {
                let mut lane = lock_lane(mine);
                match self.with_room(&mut lane, chain) {
                    Ok(open) => {
                        let filled = fill_slots(open, zone, run, size, kept, fill);
                        return self.settle(lane, chain, zone, run, filled);
                    }
                    Err(no_room) => no_room,
                }
            };
            let (full, trouble) = match no_room {
                NoRoom::NoTaker => return Attempt::NoTaker,
                NoRoom::Wait(snapshot) if snapshot.holds() => return Attempt::Hold(Full::new(snapshot)),
                NoRoom::Wait(snapshot) => return Attempt::Wait(snapshot),
                NoRoom::Broken(snapshot, trouble) => (Full::new(snapshot), trouble),
                NoRoom::Full(snapshot) => {
                    // Noted before the lanes are looked at: room that comes later is no longer missed there.
                    let full = Full::new(snapshot);
                    for other in lanes {
                        let mut lane = lock_lane(other);
                        if let Some(open) = lane.with_room().filter(|open| chain.takes(open)) {
                            let filled = fill_slots(open, zone, run, size, kept, fill);
                            return self.settle(lane, chain, zone, run, filled);
                        }
                    }
                    let trouble = full.snapshot.storage.why_full();
                    full.snapshot.no_space(Some(self.origin()), trouble.cause);
                    (full, trouble)
                }
            };
            if full.snapshot.holds() && !trouble.is_no_memory() {
                return Attempt::Hold(full);
            }
            full.snapshot.fail_for(trouble);
        }
    }

    /// The lane's segment, or a new one of the storage that is charged.
    fn with_room<'l>(&self, lane: &'l mut Lane, chain: &Chain) -> Result<&'l mut Open, NoRoom> {
        if lane.with_room().is_none_or(|open| !chain.takes(open)) {
            lane.seal(&self.table);
            let Some(snapshot) = chain.charged() else { return Err(NoRoom::NoTaker) };
            let segment: Arc<Segment> = match snapshot.storage.segment(self.origin()) {
                Got::Segment(segment) => segment,
                Got::Wait => return Err(NoRoom::Wait(snapshot.clone())),
                Got::Full => return Err(NoRoom::Full(snapshot.clone())),
                Got::Failed(reason) => return Err(NoRoom::Broken(snapshot.clone(), reason)),
            };
            let Some(number) = self.table.insert(segment.clone()) else {
                segment.release(1);
                segment.storage.take_back(&segment);
                let trouble = Trouble::no_memory("the history has as many segments as it can number");
                return Err(NoRoom::Broken(snapshot.clone(), trouble));
            };
            lane.open = Some(Open { segment, number, next: 0 });
        }
        lane.with_room().ok_or(NoRoom::NoTaker)
    }

    /// What came of filling, the lane unlocked again.
    fn settle(
        &self,
        mut lane: std::sync::MutexGuard<'_, Lane>,
        chain: &Chain,
        zone: u64,
        run: Run,
        filled: Filled,
    ) -> Attempt {
        if lane.with_room().is_none() {
            lane.seal(&self.table);
        }
        drop(lane);
        match filled {
            Filled::Slots(stored) => {
                #[cfg(test)]
                let stored = Stored { slot: self.sabotaged(stored.slot), ..stored };
                let ticket = self.commit_copy(chain, zone, run, &stored);
                Attempt::Stored(stored, ticket)
            }
            Filled::NotNow => Attempt::NotNow,
            Filled::Failed(error) => Attempt::Unreadable(error),
        }
    }
}

#[cfg(test)]
impl History {
    /// What a lost copy would do: the block reads as zeroes.
    fn sabotaged(&self, slot: SlotId) -> SlotId {
        use std::sync::atomic::Ordering::Relaxed;
        let left = self.dropped_copy.load(Relaxed);
        self.dropped_copy.store(left.saturating_sub(1), Relaxed);
        if left == 1 { SlotId::ZERO } else { slot }
    }
}

enum Filled {
    Slots(Stored),
    NotNow,
    Failed(Error),
}

/// Reads the first granules of the run into the segment; with their checksums if they are to be `kept`.
fn fill_slots(open: &mut Open, zone: u64, run: Run, size: u64, kept: bool, fill: Fill<'_>) -> Filled {
    let room = u16::try_from(open.room()).unwrap_or(0);
    let part = Run { first: run.first, count: run.count.min(room) };
    let count = u64::from(part.count);
    let bytes = bytes_of(zone, part, size);
    let at = u64::from(open.next) * GRANULE_BYTES;
    let filled = open.segment.write(at, count * GRANULE_BYTES, |room| {
        let (old, rest) = room.split_at_mut(usize::try_from(bytes.len()).unwrap_or(0).min(room.len()));
        let now = fill(bytes, old);
        // A short block at the end of the device: slots are whole.
        rest.fill(0);
        let zero = is_zero(old);
        let sums = if kept && !zero { sums_of(room) } else { Vec::new() };
        (now, zero, sums)
    });
    match filled {
        // What reads as zero need not be stored: free space of a sparse origin costs no diff storage.
        Some((Now::Done(Ok(())), true, sums)) => Filled::Slots(Stored { slot: SlotId::ZERO, count, sums }),
        Some((Now::Done(Ok(())), false, sums)) => {
            Filled::Slots(Stored { slot: open.take(u32::from(part.count)), count, sums })
        }
        Some((Now::Done(Err(error)), ..)) => Filled::Failed(error),
        Some((Now::NotNow, ..)) => Filled::NotNow,
        // Cannot be: an open segment is in memory. Not to be written to again in any case.
        None => {
            open.next = SEGMENT_SLOTS;
            Filled::NotNow
        }
    }
}

/// The checksums of whole blocks.
pub(crate) fn sums_of(blocks: &[u8]) -> Vec<u32> {
    blocks.chunks(usize::try_from(GRANULE_BYTES).unwrap_or(4096)).map(crc).collect()
}

fn publish(claim: &mut Claim<'_>, stored: &Stored) {
    claim.publish(u16::try_from(stored.count).unwrap_or(u16::MAX), stored.slot);
}

/// Whether all bytes are zero; ends at the first piece that is not.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|piece| piece.iter().fold(0, |any, &byte| any | byte) == 0)
}

fn bytes_of(zone: u64, run: Run, size: u64) -> ByteRange {
    let base = zone * ZONE_GRANULES;
    Granules { first: base + run.from(), end: base + run.end() }.bytes(size)
}

/// Claims granules of a zone of the current interval; `None` beyond what any image needs.
fn claim(chain: &Chain, number: u64, run: Run, max: u16) -> Option<(&Zone, Claimed<'_>)> {
    let zone = chain.current()?.zone_or_new(number)?;
    let base = number * (ZONE_GRANULES / super::granule::WORD_GRANULES);
    Some((zone, zone.claim(run, max, |word| chain.orphaned_word(base + word))))
}

pub(crate) fn not_busy(zone: &Zone, run: Run) -> impl Future<Output = ()> {
    std::future::poll_fn(move |cx| {
        if zone.is_busy(run, cx.waker()) { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
}

async fn wait_for_storage(chain: &Chain, snapshot: &Arc<Shared>, deadline: Deadline) {
    // Where older snapshots could go on without this one, a quarter of the time is left for theirs.
    let alone = chain.active().nth(1).is_none();
    let left = if alone { deadline.left() } else { deadline.left() * 3 / 4 };
    if wait::bounded(left, snapshot.storage.drained()).await.is_none() {
        let what = format!("waiting for diff storage {}", snapshot.storage.location());
        snapshot.fail(too_slow(&what, deadline.limit));
    }
}

/// Holds a write until its snapshot's storage has room; the snapshot fails when that takes too long.
async fn wait_for_room(full: &Full, origin: &str, deadline: &mut Deadline) {
    let (snapshot, begun) = (&full.snapshot, Instant::now());
    let waits = snapshot.wait_begins(origin, deadline.paused);
    let room = wait::bounded(waits.left, snapshot.storage.room(snapshot, full.seen)).await;
    deadline.pause(begun.elapsed());
    match room {
        Some(()) => snapshot.room_came(),
        None => snapshot.fail_for(snapshot.storage.why_no_room(deadline.paused)),
    }
}

impl History {
    /// Old contents cannot be read: no snapshot can be kept. Always `None`.
    fn unreadable(&self, chain: &Chain, error: &Error) -> Option<Full> {
        let cause = Cause::of(error);
        if cause.kind == ErrorKind::Gone {
            chain.tell_gone(self.origin(), Some(cause));
        }
        let reason = format!("old contents of the origin cannot be read: {error}");
        chain.fail_all_for(&Trouble { reason, cause: Some(cause) });
        None
    }
}

pub(crate) fn too_slow(what: &str, limit: std::time::Duration) -> String {
    format!("{what} took longer than a write may be held, {limit:?} in all")
}
