//! The tracker: what exists once per device, and what it can be asked.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};

use arc_swap::ArcSwap;
use bowline_block::{Altitude, ByteRange, Error, ErrorKind, Result};
use roaring::{MultiOps, RoaringBitmap};
use uuid::Uuid;

use super::changes::ChangeSet;
use super::current::{Current, Shape};
use super::epochs::{Chain, ClosedSet, Member, SetLimits};
use super::events::TrackEvents;
use super::sync::{Ordering, fence, lock};
use super::worker;

/// Where the filter sits in a stack.
pub const TRACK_ALTITUDE: Altitude = Altitude(300);

/// Closed epochs that may wait to be packed, each a whole map; beyond that a take packs one itself.
const UNPACKED_MAX: usize = 16;

/// An epoch that a take closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its number. What changed since is what changed in later ones.
    pub epoch: u64,
    /// The generation it is of.
    pub generation: Uuid,
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
    /// Whether requests need a closer look: something is excluded, or the filter was taken off.
    pub(crate) special: AtomicBool,
    pub(crate) excluded: ArcSwap<Vec<ByteRange>>,
    pub(crate) detached: AtomicBool,
    /// What is closed. `current` is replaced under this lock only, which is never held over I/O or over packing.
    pub(crate) history: Mutex<History>,
    /// Rung when there is something for the worker.
    pub(crate) bell: Condvar,
    pub(crate) events: Arc<dyn TrackEvents>,
    pub(crate) set_limits: SetLimits,
}

#[derive(Default)]
pub(crate) struct History {
    pub(crate) chain: Chain,
    /// The next epoch's map, made ahead.
    pub(crate) spare: Option<Arc<Current>>,
    pub(crate) stopping: bool,
}

impl Tracker {
    /// A tracker that ends with the process, of a device of `size` bytes.
    #[must_use]
    pub fn memory(device: &str, size: u64, events: Arc<dyn TrackEvents>) -> Arc<Self> {
        Self::with_limits(device, size, events, SetLimits::default())
    }

    pub(crate) fn with_limits(
        device: &str,
        size: u64,
        events: Arc<dyn TrackEvents>,
        set_limits: SetLimits,
    ) -> Arc<Self> {
        let inner = Arc::new(Inner {
            device: device.to_owned(),
            current: ArcSwap::from_pointee(Current::new(Uuid::new_v4(), 1, Shape::of(size))),
            special: AtomicBool::new(false),
            excluded: ArcSwap::default(),
            detached: AtomicBool::new(false),
            history: Mutex::default(),
            bell: Condvar::new(),
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
    /// *Gone* when it cannot be known: there was no such take in this generation, or it is too long ago; a full read is
    /// needed. *Invalid* when `until` is before `since`.
    pub fn changed(&self, since: u64, until: Option<u64>) -> Result<ChangeSet> {
        self.inner.changed(None, since, until)
    }

    /// As [`Tracker::changed`], if the generation is that one.
    ///
    /// # Errors
    /// As there; *gone* also when the generation is another.
    pub fn changed_in(&self, generation: Uuid, since: u64, until: Option<u64>) -> Result<ChangeSet> {
        self.inner.changed(Some(generation), since, until)
    }

    /// The epoch that the newest take of that name closed, if it is still known.
    #[must_use]
    pub fn epoch_of(&self, snapshot: &str) -> Option<u64> {
        lock(&self.inner.history).chain.epoch_of(snapshot)
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

    /// Counts the range as changed, in the epoch that is going on.
    pub async fn mark(&self, range: ByteRange) {
        self.inner.mark(range);
    }

    /// As [`Tracker::mark`], on a thread that may wait.
    pub fn mark_blocking(&self, range: ByteRange) {
        self.inner.mark(range);
    }

    /// From now on these ranges, and no others, are not tracked. Those that were excluded before count as changed.
    pub fn exclude(&self, ranges: &[ByteRange]) {
        let before = self.inner.excluded.swap(Arc::new(ranges.to_vec()));
        self.inner.look_closer();
        before.iter().for_each(|range| self.inner.mark(*range));
    }

    /// Begins a new generation: nothing that was known counts any more.
    pub fn renew(&self, reason: &str) {
        let size = self.inner.current.load().shape.size;
        self.inner.renew(size, reason);
    }

    /// The device has another size now: a new generation.
    pub fn resized(&self, size: u64) {
        if self.inner.current.load().shape.size != size {
            self.inner.renew(size, "the device was resized");
        }
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
            durable: false,
            region_bytes: current.shape.regions.bytes(),
            intent_regions: 0,
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
    }
}

impl Inner {
    pub(crate) fn look_closer(&self) {
        let special = !self.excluded.load().is_empty() || self.detached.load(Ordering::SeqCst);
        self.special.store(special, Ordering::SeqCst);
    }

    pub(crate) fn prepare_close(&self) {
        let current = self.current.load_full();
        let spare = Arc::new(Current::new(current.generation, current.epoch + 1, current.shape));
        let mut history = lock(&self.history);
        history.spare = Some(spare);
    }

    pub(crate) fn close_epoch(&self, snapshot: &str) -> Closed {
        let mut history = lock(&self.history);
        let current = self.current.load_full();
        let (generation, epoch) = (current.generation, current.epoch);
        let fits = |spare: &Arc<Current>| {
            spare.generation == generation && spare.epoch == epoch + 1 && spare.shape == current.shape
        };
        let next = history.spare.take().filter(fits);
        let next = next.unwrap_or_else(|| Arc::new(Current::new(generation, epoch + 1, current.shape)));
        self.current.store(next);
        // Pairs with the one of a mark from outside the gate: it sees the new map, or its bits are seen in the old one.
        fence(Ordering::SeqCst);
        history.chain.push(Member {
            first: epoch,
            last: epoch,
            set: Arc::new(ClosedSet::of_map(current)),
            names: vec![(epoch, Arc::from(snapshot))],
        });
        let unpacked = history.chain.unpacked();
        drop(history);
        self.bell.notify_all();
        if unpacked.len() > UNPACKED_MAX
            && let Some(oldest) = unpacked.first()
        {
            oldest.get();
        }
        Closed { epoch, generation }
    }

    /// Sets the bits of a range in the epoch that is going on, whether or not the caller is inside the gate.
    pub(crate) fn mark(&self, range: ByteRange) {
        loop {
            let current = self.current.load_full();
            current.map.set(current.shape.blocks.touched_by(range));
            fence(Ordering::SeqCst);
            if Arc::ptr_eq(&current, &self.current.load()) {
                return;
            }
        }
    }

    pub(crate) fn renew(&self, size: u64, reason: &str) {
        let mut history = lock(&self.history);
        history.chain = Chain::default();
        history.spare = None;
        self.current.store(Arc::new(Current::new(Uuid::new_v4(), 1, Shape::of(size))));
        drop(history);
        self.events.renewed(&self.device, reason);
    }

    fn gone(&self, why: String) -> Error {
        Error::new(ErrorKind::Gone, why).device(&self.device).op("changes").hint("a full read is needed")
    }

    fn changed(&self, generation: Option<Uuid>, since: u64, until: Option<u64>) -> Result<ChangeSet> {
        let history = lock(&self.history);
        let current = self.current.load_full();
        if let Some(asked) = generation
            && asked != current.generation
        {
            return Err(self.gone(format!("the generation is {} now, not {asked}", current.generation)));
        }
        if let Some(until) = until
            && until < since
        {
            let why = format!("take {until} was before take {since}");
            return Err(Error::new(ErrorKind::Invalid, why).device(&self.device).op("changes"));
        }
        for asked in [Some(since), until].into_iter().flatten() {
            if asked == 0 || asked >= current.epoch {
                return Err(
                    self.gone(format!("there was no take {asked}: the last one is {}", current.epoch - 1))
                );
            }
        }
        if let Some(first) = history.chain.first()
            && since + 1 < first
        {
            return Err(self.gone(format!("what changed before take {first} is not known")));
        }
        let mut sets = history.chain.sets(since, until.unwrap_or(u64::MAX));
        drop(history);
        let shape = current.shape;
        let interval = (since, until);
        let generation = current.generation;
        if until.is_none() {
            sets.push(Arc::new(ClosedSet::of_live(&current)));
        }
        let sets: Vec<Arc<RoaringBitmap>> = sets.iter().map(|set| set.get()).collect();
        let all: RoaringBitmap = match sets.as_slice() {
            [one] => (**one).clone(),
            several => several.iter().map(|set| &**set).union(),
        };
        // A generation that ended meanwhile may have missed the newest of its changes.
        if self.current.load().generation != generation {
            return Err(self.gone("a new generation began".to_owned()));
        }
        Ok(ChangeSet::new(all, (shape.blocks, shape.size), generation, interval))
    }
}
