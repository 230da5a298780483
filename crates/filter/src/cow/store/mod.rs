//! Diff storage: where old contents go.
//!
//! A storage is made of volumes, each of one kind and in one place (`volume`): the one it was opened with, and those it
//! was extended by. A medium is what a volume's contents are kept in (`medium`).
//!
//! Writers take whole segments of memory from it, fill them and hand them back; all else happens on a worker thread
//! of its own: touching new memory ahead of need (half the cost of copying is the first touch of a page), growing
//! files by steps, writing full segments to them in one piece, telling of low space, giving files back in the end.
//! Memory that was given back is used again before any new is touched.
//!
//! A segment leaves memory only when its contents have reached the medium's device: until then the kernel may find
//! that it cannot write them, and forget them.
//!
//! The worker may be stuck in the kernel for as long as it likes. Nobody waits for it without a bound, and nobody
//! joins it: what it holds is freed when it comes back.

mod file;
mod identity;
mod kept;
mod medium;
mod offline;
mod room;
mod spec;
mod volume;
mod work;
mod worker;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_block::{Error, ErrorKind, Result};

use super::segment::{Content, SEGMENT_BYTES, Segment};
use super::shared::Shared;

pub use identity::FileIdentity;
pub use medium::{Medium, StateMedium};
pub use offline::KeptStore;
pub use spec::{RANGE_ALIGNMENT, RANGES_MAX, StoreKind, StoreSpec};
pub(crate) use volume::{Trouble, Volume};
use work::{BACKLOG_MAX, READY_MAX, READY_MIN, Work, wake};

/// How long the end of a storage waits for its files to be gone.
const DISPOSE_WAIT: Duration = Duration::from_secs(2);
/// Stores one storage may be made of.
const STORES_MAX: usize = 256;

/// Diff storage, shared by all devices of a snapshot. Its memory and files are given back when the last snapshot that
/// has contents in it is gone.
pub struct DiffStorage {
    inner: Arc<Inner>,
}

/// What the worker shares with the storage's users.
struct Inner {
    spec: StoreSpec,
    work: Mutex<Work>,
    bell: Condvar,
    /// Rung when the files are given back.
    gone: Condvar,
    /// What it is made of: the first store and those it was extended by.
    stores: Mutex<Vec<StoreSpec>>,
    /// Whether its files stay when it ends.
    kept: AtomicBool,
    /// Whether its first segment is its label.
    labelled: AtomicBool,
    #[cfg(test)]
    faults: Mutex<Faults>,
}

/// Called before something is done to a medium; for a write with the number of the segment.
#[cfg(test)]
pub(crate) type Fault = Arc<dyn Fn(u64) -> std::io::Result<()> + Send + Sync>;

/// Planted trouble.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) write: Option<Fault>,
    pub(crate) sync: Option<Fault>,
    pub(crate) grow: Option<Fault>,
    pub(crate) dispose: Option<Fault>,
    /// Reads of the medium never end.
    pub(crate) reads_stall: bool,
}

/// What came of asking for a segment.
pub(crate) enum Got {
    Segment(Arc<Segment>),
    /// Too many are on their way to their files: see [`DiffStorage::drained`].
    Wait,
    /// The limit is reached, or the space below.
    Full,
    /// It is broken.
    Failed(Trouble),
}

impl DiffStorage {
    /// Opens diff storage.
    ///
    /// # Errors
    /// *Invalid* for a limit smaller than the step or than a segment, a path of the wrong kind, a file that is not empty,
    /// ranges that overlap or are not aligned; *out of range* for ranges beyond the end; *busy* for what is in use; *no
    /// space* when not even the first step fits; what the operating system said otherwise.
    pub fn open(spec: StoreSpec) -> Result<Arc<Self>> {
        let volumes = volume::open(&spec, 0, false)?;
        Self::start(spec, volumes)
    }

    /// Storage without anything, not even a thread.
    pub(crate) fn of_nothing(spec: StoreSpec) -> Arc<Self> {
        Arc::new(Self { inner: Self::inner(spec, Vec::new()) })
    }

    /// Opens diff storage on a medium that is there already, `limit` bytes of it. With a `step` it grows by that; else it
    /// has its size. What `spec` says is only told.
    ///
    /// # Errors
    /// *Invalid* for a limit smaller than a segment; what the operating system said of the worker's thread.
    pub fn on_medium(spec: StoreSpec, medium: Arc<dyn Medium>, step: Option<u64>) -> Result<Arc<Self>> {
        let volumes = volume::on_medium(medium, &spec, step, 0)?;
        Self::start(spec, volumes)
    }

    fn start(spec: StoreSpec, volumes: Vec<Volume>) -> Result<Arc<Self>> {
        let inner = Self::inner(spec, volumes);
        if let Err(error) = worker::start(inner.clone()) {
            inner.give_back();
            return Err(error);
        }
        Ok(Arc::new(Self { inner }))
    }

    fn inner(spec: StoreSpec, volumes: Vec<Volume>) -> Arc<Inner> {
        let volumes = volumes.into_iter().map(|volume| volume::State::new(Arc::new(volume))).collect();
        let work = Work { ready_target: READY_MIN, volumes, ..Work::default() };
        Arc::new(Inner {
            stores: Mutex::new(vec![spec.clone()]),
            kept: AtomicBool::new(false),
            labelled: AtomicBool::new(false),
            spec,
            work: Mutex::new(work),
            bell: Condvar::new(),
            gone: Condvar::new(),
            #[cfg(test)]
            faults: Mutex::default(),
        })
    }

    /// Adds a store while it is in use: writers that wait for room go on into it, and what was told of low space may be
    /// told again.
    ///
    /// # Errors
    /// As [`DiffStorage::open`]; then it is as before.
    pub fn extend(&self, spec: StoreSpec) -> Result<()> {
        let kept = self.inner.is_kept();
        self.extend_by(spec, |spec, first| {
            if kept {
                spec.check_kept()?;
            }
            let volumes = volume::open(spec, first, false)?;
            if kept {
                spec.sync_name()?;
            }
            Ok(volumes)
        })
    }

    fn extend_by(
        &self,
        spec: StoreSpec,
        open: impl FnOnce(&StoreSpec, u32) -> Result<Vec<Volume>>,
    ) -> Result<()> {
        // The lock of the stores keeps others from extending; that of the work is not held over opening.
        let mut stores = self.stores_mut();
        if stores.len() >= STORES_MAX {
            let why = format!("it has {STORES_MAX} stores, the most there can be");
            return Err(Error::new(ErrorKind::Invalid, why).op("extend diff storage"));
        }
        let first = self.inner.work().volumes.last().map_or(0, |last| last.volume.end());
        let volumes = open(&spec, first)?;
        stores.push(spec);
        // Before others may extend it: they number their segments behind these.
        let mut work = self.inner.work();
        work.volumes.extend(volumes.into_iter().map(|volume| volume::State::new(Arc::new(volume))));
        work.crossed = None;
        let owners = work.owners();
        drop(work);
        drop(stores);
        // Before anybody goes on, so that what comes of it is told.
        owners.iter().for_each(|owner| owner.extended());
        // Only then: who found the new room full in between looks once more, and tells that.
        self.inner.work().room_changes += 1;
        self.wake();
        self.inner.bell.notify_one();
        Ok(())
    }

    /// Bytes in use, counted in whole segments.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.inner.work().used_bytes()
    }

    /// Bytes that may be used: less than was asked for where a device or ranges are smaller, or where there is no space
    /// to grow.
    #[must_use]
    pub fn limit(&self) -> u64 {
        let work = self.inner.work();
        match work.volumes.as_slice() {
            // Told as it was given, not in whole segments.
            [one] if one.stunted.is_none() && one.volume.growth.is_some() => self.inner.spec.limit,
            _ => work.places() * SEGMENT_BYTES,
        }
    }

    /// Bytes that its files, devices and ranges have now; memory counts as far as it was used.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.work().size()
    }

    /// Bytes in use, and size, when it became nearly full; a fast writer may have filled it since.
    pub(crate) fn crossed(&self) -> Option<(u64, u64)> {
        self.inner.work().crossed
    }

    /// What was asked for at first.
    #[must_use]
    pub fn spec(&self) -> &StoreSpec {
        &self.inner.spec
    }

    /// What it is made of: the first store, and those it was extended by.
    #[must_use]
    pub fn stores(&self) -> Vec<StoreSpec> {
        self.stores_mut().clone()
    }

    fn stores_mut(&self) -> MutexGuard<'_, Vec<StoreSpec>> {
        self.inner.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parts of that file or device that it writes to.
    #[must_use]
    pub fn ranges_on(&self, file: &FileIdentity) -> Vec<bowline_block::ByteRange> {
        self.stores_mut().iter().flat_map(|store| store.ranges_on(file)).collect()
    }

    /// Where it is: `mem`, a path, ranges; several with a plus sign between them.
    #[must_use]
    pub fn location(&self) -> String {
        let stores = self.stores_mut();
        let shown: Vec<_> = stores.iter().map(|store| store.kind.location()).collect();
        shown.join(" + ")
    }

    /// Bytes of memory it holds that are not in use.
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        self.inner.work().ready.len() as u64 * SEGMENT_BYTES
    }

    /// Who is to be told what happens here.
    pub(crate) fn serve(&self, snapshot: &Arc<Shared>) {
        let mut work = self.inner.work();
        work.owners.retain(|owner| owner.strong_count() > 0);
        work.owners.push(Arc::downgrade(snapshot));
    }

    /// An older snapshot that will read what is preserved here.
    pub(crate) fn is_read_by(&self, snapshot: &Arc<Shared>) {
        let mut work = self.inner.work();
        work.readers.retain(|reader| reader.strong_count() > 0);
        work.readers.push(Arc::downgrade(snapshot));
    }

    /// An empty segment, for a copy of that origin. Allocates only when the worker has fallen behind.
    pub(crate) fn segment(self: &Arc<Self>, origin: &Arc<str>) -> Got {
        let mut work = self.inner.work();
        if let Some(trouble) = &work.failed {
            return Got::Failed(trouble.clone());
        }
        if work.backlog() >= BACKLOG_MAX {
            return Got::Wait;
        }
        let Some((volume, place)) = work.take_place() else {
            return work.trouble().map_or(Got::Full, |trouble| Got::Failed(trouble.clone()));
        };
        if !work.origin.as_ref().is_some_and(|last| Arc::ptr_eq(last, origin)) {
            work.origin = Some(origin.clone());
        }
        if u64::from(work.used) * 5 > work.places() * 4 {
            work.tell_low = true;
            if work.crossed.is_none() {
                // The segment that crosses is still empty.
                let used = work.used_bytes().saturating_sub(SEGMENT_BYTES);
                work.crossed = Some((used, work.size()));
            }
        }
        let ready = work.ready.pop();
        if ready.is_none() {
            work.ready_target = (work.ready_target * 2).min(READY_MAX);
        }
        let ring = work.tell_low || work.ready.len() < work.ready_target / 2;
        drop(work);
        if ring {
            self.inner.bell.notify_one();
        }
        let buf = ready.unwrap_or_else(worker::fresh_buf);
        if (buf.len() as u64) < SEGMENT_BYTES {
            self.inner.work().give_back_place(place);
            return Got::Failed(Trouble::no_memory("there is no memory"));
        }
        Got::Segment(Segment::new(self.clone(), volume, place, buf))
    }

    /// Takes a full segment to its place on the medium; in memory it is there already.
    pub(crate) fn store(&self, segment: &Arc<Segment>) {
        if segment.volume.medium().is_none() {
            return;
        }
        let mut work = self.inner.work();
        // After a failure it stays in memory: nothing that was preserved is lost, and nothing more comes.
        let after = work.volumes.partition_point(|state| state.volume.first <= segment.place);
        let broken =
            after.checked_sub(1).and_then(|at| work.volumes.get(at)).is_some_and(|at| at.broken.is_some());
        if work.failed.is_none() && !broken {
            work.queue.push_back(segment.clone());
            drop(work);
            self.inner.bell.notify_one();
        }
    }

    /// Takes back a segment that nobody uses.
    pub(crate) fn take_back(&self, segment: &Segment) {
        // While the worker writes it, it is the worker who gives the memory back.
        let content =
            segment.content.try_write().map(|mut content| std::mem::replace(&mut *content, Content::Stored));
        let mut work = self.inner.work();
        work.give_back_place(segment.place);
        let waiting = work.take_waiting();
        let surplus = match content {
            Ok(Content::Memory(buf)) => work.keep(buf),
            _ => None,
        };
        drop(work);
        drop(surplus);
        wake(waiting);
    }

    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn plan(&self, plan: impl FnOnce(&mut Faults)) {
        plan(&mut self.inner.faults.lock().unwrap_or_else(PoisonError::into_inner));
    }

    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn backlog(&self) -> usize {
        self.inner.work().backlog()
    }

    #[cfg(test)]
    pub(crate) fn reads_stall(&self) -> bool {
        self.inner.faults.lock().unwrap_or_else(PoisonError::into_inner).reads_stall
    }
}

impl Drop for DiffStorage {
    fn drop(&mut self) {
        let mut work = self.inner.work();
        work.closed = true;
        self.inner.bell.notify_one();
        // The worker gives files back, because the disk may hang. Whoever removes a snapshot wants to find the file
        // gone, and waits a moment; a queue thread has no moment, and the worker itself would wait in vain.
        let is_worker = work.worker == Some(std::thread::current().id());
        let in_memory = work.volumes.iter().all(|state| state.volume.medium().is_none());
        if in_memory || is_worker || bowline_io::on_queue() {
            return;
        }
        let waited = self.inner.gone.wait_timeout_while(work, DISPOSE_WAIT, |work| !work.disposed);
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            tracing::warn!(
                path = self.location(),
                "diff storage is not given back yet: its disk does not answer"
            );
        }
    }
}

impl Inner {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives files back.
    fn give_back(&self) {
        if self.is_kept() {
            return;
        }
        let media: Vec<_> =
            self.work().volumes.iter().filter_map(|state| state.volume.medium().cloned()).collect();
        media.iter().for_each(|medium| medium.dispose());
    }
}
