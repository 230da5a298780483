//! Diff storage: where old contents go.
//!
//! Writers take whole segments of memory from it, fill them and hand them back; all else happens on a worker thread
//! of its own: touching new memory ahead of need (half the cost of copying is the first touch of a page), growing the
//! file by steps, writing full segments to it in one piece, telling of low space, giving the file back in the end. Memory
//! that was given back is used again before any new is touched.
//!
//! A segment leaves memory only when its contents have reached the file's device: until then the kernel may find that
//! it cannot write them, and forget them.
//!
//! The worker may be stuck in the kernel for as long as it likes. Nobody waits for it without a bound, and nobody
//! joins it: what it holds is freed when it comes back.

mod file;
mod worker;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use bowline_block::{Buf, Error, ErrorKind, Result};
use bowline_io::File;

use super::segment::{Content, SEGMENT_BYTES, Segment};
use super::shared::Shared;
use file::StoreFile;

/// Full segments that may wait for the file: 16 MiB. Then writers hold.
const BACKLOG_MAX: usize = 64;
/// Segments of touched memory that are kept ready, at first and at most.
const READY_MIN: usize = 8;
const READY_MAX: usize = 64;
/// How long the end of a storage waits for its file to be gone.
const DISPOSE_WAIT: Duration = Duration::from_secs(2);
/// Segments a storage can have.
const PLACES_MAX: u64 = u32::MAX as u64;

/// What kind of diff storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Memory of this process.
    Memory,
    /// A file, made new or found empty. It goes with the storage.
    File(PathBuf),
}

/// What diff storage to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Where it is.
    pub kind: StoreKind,
    /// Bytes it may use.
    pub limit: u64,
    /// Bytes a file grows by at a time; of no effect on memory.
    pub step: u64,
}

/// Diff storage, shared by all devices of a snapshot. Its memory or file is given back when the last snapshot that has
/// contents in it is gone.
pub struct DiffStorage {
    inner: Arc<Inner>,
}

/// What the worker shares with the storage's users.
struct Inner {
    spec: StoreSpec,
    places: u32,
    file: Option<StoreFile>,
    work: Mutex<Work>,
    bell: Condvar,
    /// Rung when the file is given back.
    gone: Condvar,
    #[cfg(test)]
    faults: Mutex<Faults>,
}

/// Called before something is done to the file; for a write with the number of the segment.
#[cfg(test)]
pub(crate) type Fault = Arc<dyn Fn(u64) -> std::io::Result<()> + Send + Sync>;

/// Planted trouble.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) write: Option<Fault>,
    pub(crate) sync: Option<Fault>,
    pub(crate) dispose: Option<Fault>,
    /// Reads of the file never end.
    pub(crate) reads_stall: bool,
}

#[derive(Default)]
struct Work {
    /// Full segments on their way to the file.
    queue: VecDeque<Arc<Segment>>,
    /// Segments the worker has taken from the queue and not yet done with.
    writing: usize,
    worker: Option<ThreadId>,
    ready: Vec<Buf>,
    ready_target: usize,
    free_places: Vec<u32>,
    next_place: u32,
    used: u32,
    tell_low: bool,
    closed: bool,
    disposed: bool,
    failed: Option<String>,
    waiting: Vec<Waker>,
    owners: Vec<Weak<Shared>>,
}

/// What came of asking for a segment.
pub(crate) enum Got {
    Segment(Arc<Segment>),
    /// Too many are on their way to the file: see [`DiffStorage::drained`].
    Wait,
    /// The limit is reached.
    Full,
    /// It is broken.
    Failed(String),
}

impl DiffStorage {
    /// Opens diff storage.
    ///
    /// # Errors
    /// *Invalid* for a limit smaller than the step or than a segment, a path that is no file or a file that is not
    /// empty; *no space* when not even the first step fits; what the operating system said otherwise.
    pub fn open(spec: StoreSpec) -> Result<Arc<Self>> {
        let StoreSpec { limit, step, .. } = spec;
        let invalid = |why: String| Err(Error::new(ErrorKind::Invalid, why).op("open diff storage"));
        if step == 0 {
            return invalid("the step must not be 0".to_owned());
        }
        if limit < step {
            return invalid(format!("the limit of {limit} bytes is smaller than a step of {step} bytes"));
        }
        if limit < SEGMENT_BYTES {
            return invalid(format!("the limit of {limit} bytes is smaller than {SEGMENT_BYTES}, the least"));
        }
        let places = u32::try_from((limit / SEGMENT_BYTES).min(PLACES_MAX)).unwrap_or(u32::MAX);
        let file = match &spec.kind {
            StoreKind::Memory => None,
            StoreKind::File(path) => Some(StoreFile::open(path, step.min(limit))?),
        };
        let work = Work { ready_target: READY_MIN, ..Work::default() };
        let inner = Arc::new(Inner {
            spec,
            places,
            file,
            work: Mutex::new(work),
            bell: Condvar::new(),
            gone: Condvar::new(),
            #[cfg(test)]
            faults: Mutex::default(),
        });
        if let Err(error) = worker::start(inner.clone()) {
            inner.file.iter().for_each(StoreFile::dispose);
            return Err(error);
        }
        Ok(Arc::new(Self { inner }))
    }

    /// Bytes in use, counted in whole segments.
    #[must_use]
    pub fn used(&self) -> u64 {
        u64::from(self.inner.work().used) * SEGMENT_BYTES
    }

    /// Bytes that may be used.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.inner.spec.limit
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &StoreSpec {
        &self.inner.spec
    }

    /// Where it is: `mem` or a path.
    #[must_use]
    pub fn location(&self) -> String {
        match &self.inner.spec.kind {
            StoreKind::Memory => "mem".to_owned(),
            StoreKind::File(path) => path.display().to_string(),
        }
    }

    /// Bytes of memory it holds that are not in use.
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        self.inner.work().ready.len() as u64 * SEGMENT_BYTES
    }

    pub(crate) fn file(&self) -> Option<&Arc<File>> {
        self.inner.file.as_ref().map(|file| &file.file)
    }

    /// Who is to be told what happens here.
    pub(crate) fn serve(&self, snapshot: &Arc<Shared>) {
        let mut work = self.inner.work();
        work.owners.retain(|owner| owner.strong_count() > 0);
        work.owners.push(Arc::downgrade(snapshot));
    }

    /// An empty segment. Allocates only when the worker has fallen behind.
    pub(crate) fn segment(self: &Arc<Self>) -> Got {
        let mut work = self.inner.work();
        if let Some(reason) = &work.failed {
            return Got::Failed(reason.clone());
        }
        if work.backlog() >= BACKLOG_MAX {
            return Got::Wait;
        }
        let place = match work.free_places.pop() {
            Some(place) => place,
            None if work.next_place < self.inner.places => {
                work.next_place += 1;
                work.next_place - 1
            }
            None => return Got::Full,
        };
        work.used += 1;
        if u64::from(work.used) * 5 > u64::from(self.inner.places) * 4 {
            work.tell_low = true;
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
            return Got::Failed("there is no memory".to_owned());
        }
        Got::Segment(Segment::new(self.clone(), place, buf))
    }

    /// Takes a full segment to its place in the file; in memory it is there already.
    pub(crate) fn store(&self, segment: &Arc<Segment>) {
        if self.inner.file.is_none() {
            return;
        }
        let mut work = self.inner.work();
        // After a failure it stays in memory: nothing that was preserved is lost, and nothing more comes.
        if work.failed.is_none() {
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
        if let Ok(Content::Memory(buf)) = content {
            let surplus = work.keep(buf);
            drop(work);
            drop(surplus);
        }
    }

    /// Waits until a segment may be had again, or never.
    pub(crate) async fn drained(&self) {
        std::future::poll_fn(|cx| {
            let mut work = self.inner.work();
            if work.failed.is_some() || work.backlog() < BACKLOG_MAX {
                return Poll::Ready(());
            }
            if !work.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                work.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
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
        // The worker gives the file back, because the disk may hang. Whoever removes a snapshot wants to find the file
        // gone, and waits a moment; a queue thread has no moment, and the worker itself would wait in vain.
        let is_worker = work.worker == Some(std::thread::current().id());
        if self.inner.file.is_none() || is_worker || bowline_io::on_queue() {
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
}

impl Work {
    fn backlog(&self) -> usize {
        self.queue.len() + self.writing
    }

    fn give_back_place(&mut self, place: u32) {
        self.free_places.push(place);
        self.used -= 1;
    }

    /// Keeps touched memory for its next use, or gives it back as surplus.
    fn keep(&mut self, buf: Buf) -> Option<Buf> {
        if self.ready.len() >= READY_MAX || self.closed {
            return Some(buf);
        }
        self.ready.push(buf);
        None
    }

    fn owners(&self) -> Vec<Arc<Shared>> {
        self.owners.iter().filter_map(Weak::upgrade).collect()
    }
}
