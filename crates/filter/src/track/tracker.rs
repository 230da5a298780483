//! The tracker: what exists once per device, and what it can be asked.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bowline_block::{Altitude, ByteRange, Error, ErrorKind, Result};
use uuid::Uuid;

use super::changes::ChangeSet;
use super::current::{Current, Shape};
use super::durable::Durable;
use super::epochs::{Chain, SetLimits};
use super::events::TrackEvents;
use super::fingerprint::Fingerprint;
use super::intents::IntentMap;
use super::query::WHOLE;
use super::sync::lock;
use super::worker;

/// Where the filter sits in a stack.
pub const TRACK_ALTITUDE: Altitude = Altitude(300);

/// How long a clean stop may take.
const SAVE_LIMIT: Duration = Duration::from_secs(60);

/// An epoch that a take closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its number. What changed since is what changed in later ones.
    pub epoch: u64,
    /// The generation it is of.
    pub generation: Uuid,
}

/// How long a tracker may keep others waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackLimits {
    /// A write whose region's intent is being made durable; then the tracker goes on in memory only.
    pub hold: Duration,
}

impl Default for TrackLimits {
    fn default() -> Self {
        Self { hold: Duration::from_secs(10) }
    }
}

/// What a tracker is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackStatus {
    /// Under which epochs are comparable.
    pub generation: Uuid,
    /// The epoch that is going on: the next take closes it.
    pub epoch: u64,
    /// Bytes of a block.
    pub granularity: u64,
    /// Bytes of the device.
    pub size: u64,
    /// Whether it outlives the daemon.
    pub durable: bool,
    /// Bytes of a region.
    pub region_bytes: u64,
    /// Regions of the current epoch that would count as changed after a crash.
    pub intent_regions: u64,
    /// Sets of closed epochs.
    pub sets: usize,
    /// Bytes of memory of these.
    pub set_bytes: u64,
}

/// The changed-block tracker of one device: a filter at [`TRACK_ALTITUDE`].
pub struct Tracker {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) device: String,
    pub(crate) current: ArcSwap<Current>,
    /// Whether requests need a closer look: something is excluded, the filter was taken off, or it was saved.
    pub(crate) special: AtomicBool,
    /// Held while that is found out.
    pub(crate) looking: Mutex<()>,
    pub(crate) excluded: ArcSwap<Vec<ByteRange>>,
    /// Held while the exclusions change.
    excluding: Mutex<()>,
    pub(crate) detached: AtomicBool,
    /// It was saved as it is: nothing may change before that is taken back.
    pub(crate) closed: AtomicBool,
    /// What is closed. `current` is replaced under this lock only, which is never held over I/O or over packing.
    pub(crate) history: Mutex<History>,
    /// Rung when there is something for the worker.
    pub(crate) bell: Condvar,
    /// Rung when the worker has done something.
    pub(crate) progress: Condvar,
    pub(crate) durable: Option<Durable>,
    pub(crate) events: Arc<dyn TrackEvents>,
    pub(crate) set_limits: SetLimits,
}

#[derive(Default)]
pub(crate) struct History {
    pub(crate) chain: Chain,
    /// The next epoch's map, made ahead.
    pub(crate) spare: Option<Arc<Current>>,
    pub(crate) stopping: bool,
    pub(crate) disk: DiskState,
}

/// How the files stand.
#[derive(Default)]
pub(crate) struct DiskState {
    /// Whether they are kept up.
    pub(crate) on: bool,
    /// They must not be believed any more, and are to be removed.
    pub(crate) revoke: bool,
    /// The last epoch whose set is durable.
    pub(crate) saved: u64,
    /// Epochs below that are granted.
    pub(crate) limit: u64,
    pub(crate) session: Option<Uuid>,
    /// How often the header was ordered, and which order it has followed.
    pub(crate) header_wanted: u64,
    pub(crate) header_done: u64,
    /// The excluded ranges that it names.
    pub(crate) excluded: Vec<ByteRange>,
    pub(crate) save: Option<Fingerprint>,
    pub(crate) outcome: Option<Result<Uuid>>,
}

/// What a new tracker begins with.
pub(crate) struct Start {
    pub(crate) current: Current,
    pub(crate) chain: Chain,
    pub(crate) disk: DiskState,
    pub(crate) durable: Option<Durable>,
    pub(crate) set_limits: SetLimits,
}

impl Tracker {
    /// A tracker that ends with the process, of a device of `size` bytes.
    #[must_use]
    pub fn memory(device: &str, size: u64, events: Arc<dyn TrackEvents>) -> Arc<Self> {
        Self::memory_within(device, size, events, SetLimits::default())
    }

    pub(crate) fn memory_within(
        device: &str,
        size: u64,
        events: Arc<dyn TrackEvents>,
        set_limits: SetLimits,
    ) -> Arc<Self> {
        let current = Current::new(Uuid::new_v4(), 1, Shape::of(size), None);
        let (chain, disk) = (Chain::default(), DiskState::default());
        let start = Start { current, chain, disk, durable: None, set_limits };
        Self::start(device, events, start)
    }

    pub(crate) fn start(device: &str, events: Arc<dyn TrackEvents>, start: Start) -> Arc<Self> {
        let Start { current, chain, disk, durable, set_limits } = start;
        let inner = Arc::new(Inner {
            device: device.to_owned(),
            current: ArcSwap::from_pointee(current),
            special: AtomicBool::new(false),
            looking: Mutex::default(),
            excluded: ArcSwap::default(),
            excluding: Mutex::default(),
            detached: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            history: Mutex::new(History { chain, disk, ..History::default() }),
            bell: Condvar::new(),
            progress: Condvar::new(),
            durable,
            events,
            set_limits,
        });
        worker::start(&inner);
        Arc::new(Self { inner })
    }

    /// Makes ready what the next [`Tracker::close_epoch`] needs, so that it takes no time. To be called before the
    /// device is frozen; may block.
    pub fn prepare_close(&self) {
        self.inner.prepare_close();
    }

    /// Ends the epoch: the take of `snapshot`. To be called with the device frozen; never waits for a disk.
    #[must_use]
    pub fn close_epoch(&self, snapshot: &str) -> Closed {
        self.inner.close_epoch(snapshot)
    }

    /// What changed since take `since`, until take `until` or until now.
    ///
    /// # Errors
    /// *Gone* when it cannot be known: there was no such take in this generation; a full read is needed. *Invalid* when
    /// `until` is before `since`.
    pub fn changed(&self, since: u64, until: Option<u64>) -> Result<ChangeSet> {
        self.inner.changed(None, since, until, WHOLE)
    }

    /// As [`Tracker::changed`], if the generation is that one.
    ///
    /// # Errors
    /// As there; *gone* also when the generation is another.
    pub fn changed_in(&self, generation: Uuid, since: u64, until: Option<u64>) -> Result<ChangeSet> {
        self.inner.changed(Some(generation), since, until, WHOLE)
    }

    /// As [`Tracker::changed_in`], of a range only: [`ChangeSet::covered`] says of which, as at most about `max` extents
    /// are searched for. Takes a time that grows with the range and not with the device, where `since` is a late take.
    ///
    /// # Errors
    /// As there.
    pub fn changed_within(
        &self,
        generation: Uuid,
        since: u64,
        until: Option<u64>,
        range: ByteRange,
        max: usize,
    ) -> Result<ChangeSet> {
        self.inner.changed(Some(generation), since, until, (range, max))
    }

    /// The epoch that the newest take of that name closed, if it is still known. The snapshot may be gone.
    #[must_use]
    pub fn epoch_of(&self, snapshot: &str) -> Option<u64> {
        lock(&self.inner.history).chain.epoch_of(snapshot)
    }

    /// The newest takes whose names are known, at most `max`, each with the epoch it closed. The snapshots may be gone.
    #[must_use]
    pub fn takes(&self, max: usize) -> Vec<(u64, String)> {
        let history = lock(&self.inner.history);
        let names = history.chain.members().rev().flat_map(|member| member.names.iter().rev());
        names.take(max).map(|(epoch, name)| (*epoch, name.to_string())).collect()
    }

    /// Under which epochs are comparable.
    #[must_use]
    pub fn generation(&self) -> Uuid {
        self.inner.current.load().generation
    }

    /// The epoch that is going on: one more than the last take's.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.current.load().epoch
    }

    /// Bytes of a block.
    #[must_use]
    pub fn granularity(&self) -> u64 {
        self.inner.current.load().shape.blocks.bytes()
    }

    /// Counts the range as changed, in the epoch that is going on, and returns when that is as durable as it will be.
    pub async fn mark(&self, range: ByteRange) {
        self.inner.mark(range).await;
    }

    /// As [`Tracker::mark`], if that needs no waiting.
    #[must_use]
    pub fn mark_now(&self, range: ByteRange) -> bool {
        self.inner.mark_now(range)
    }

    /// As [`Tracker::mark`], on a thread that may wait and is no queue thread.
    pub fn mark_blocking(&self, range: ByteRange) {
        self.inner.mark_blocking(range);
    }

    /// From now on these ranges, and no others, are not tracked. Those that were excluded before count as changed.
    /// May block, and must not be called on a queue thread.
    pub fn exclude(&self, ranges: &[ByteRange]) {
        let inner = &*self.inner;
        let _turn = lock(&inner.excluding);
        let before = inner.excluded.load_full();
        // What is not tracked must count as changed after a crash: so it is known first, and forgotten last.
        let both = before.iter().chain(ranges).copied().collect();
        inner.note_excluded(both);
        inner.await_header();
        inner.excluded.store(Arc::new(ranges.to_vec()));
        inner.look_closer();
        for range in before.iter().flat_map(|range| super::filter::tracked_parts(*range, ranges)) {
            inner.mark_blocking(range);
        }
        inner.note_excluded(ranges.to_vec());
    }

    /// Begins a new generation at once: nothing that was known counts any more. Waits until that is durable, where it
    /// can be; not to be called on a queue thread.
    pub fn renew(&self, reason: &str) {
        let size = self.inner.current.load().shape.size;
        self.inner.renew(size, reason);
        self.inner.await_header();
    }

    /// The device has this size now: a new generation, if it had another. Does not wait, so it may be called frozen.
    pub fn resized(&self, size: u64) {
        if self.inner.current.load().shape.size != size {
            self.inner.renew(size, "the device was resized");
        }
    }

    /// The end of a run, in order: all that is known is made durable, with the fingerprint that the device has now. The
    /// device must be quiet from before the fingerprint was taken on; should it be written to later, what was saved is
    /// taken back. Gives the session the next [`Tracker::open`] is to expect.
    ///
    /// # Errors
    /// *Unsupported* in memory only; *timeout*; what the folder says. The next start asks for a full read then, or
    /// finds what a crash would have left.
    pub fn save(&self, fingerprint: &Fingerprint) -> Result<Uuid> {
        let inner = &*self.inner;
        let mut history = lock(&inner.history);
        if !history.disk.on {
            let why = "its tracker is kept in memory only";
            return Err(Error::new(ErrorKind::Unsupported, why).device(&inner.device).op("save"));
        }
        history.disk.save = Some(fingerprint.clone());
        history.disk.outcome = None;
        drop(history);
        inner.bell.notify_all();
        let mut outcome = None;
        inner.wait_for(SAVE_LIMIT, |history| {
            outcome = history.disk.outcome.take();
            outcome.is_some()
        });
        outcome
            .unwrap_or_else(|| {
                let why = format!("its tracker could not be saved within {SAVE_LIMIT:?}");
                Err(Error::new(ErrorKind::Timeout, why))
            })
            .map_err(|error| error.device(&inner.device).op("save"))
    }

    /// The session that the files are of: an older copy of them is recognised by it. It is to be noted elsewhere after
    /// each start, before anything may change on the device, after each stop, and when `not_durable` is told; and to be
    /// given to the next [`Tracker::open`]. `None` for a tracker that never had files.
    #[must_use]
    pub fn session(&self) -> Option<Uuid> {
        lock(&self.inner.history).disk.session
    }

    /// What it is at.
    #[must_use]
    pub fn status(&self) -> TrackStatus {
        let history = lock(&self.inner.history);
        let current = self.inner.current.load();
        TrackStatus {
            generation: current.generation,
            epoch: current.epoch,
            granularity: current.shape.blocks.bytes(),
            size: current.shape.size,
            durable: history.disk.on,
            region_bytes: current.shape.regions.bytes(),
            intent_regions: current.intents.as_ref().map_or(0, IntentMap::count),
            sets: history.chain.len(),
            set_bytes: history.chain.bytes(),
        }
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let history = lock(&self.inner.history);
        let spare = history.spare.as_ref().map_or(0, |spare| spare.bytes());
        self.inner.current.load().bytes() + history.chain.bytes() + spare
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        lock(&self.inner.history).stopping = true;
        self.inner.bell.notify_all();
        self.inner.progress.notify_all();
        if let Some(durable) = &self.inner.durable {
            durable.desk.stop();
        }
    }
}
