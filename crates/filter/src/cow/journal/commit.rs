//! A journal in use: commits are gathered and made durable together, on a thread of its own.
//!
//! ```text
//!   writers ──commit──► queue ──► data of all ──► sync ──► one frame ──► sync ──► all are told
//!                         ▲                                                        │
//!                         └── what comes meanwhile is the next group ◄─────────────┘
//! ```
//!
//! * Data first: a record on stable storage says that its data is.
//! * When the journal cannot be written, it is marked as failed before anybody is told, because they will go on
//!   without it: else a crash would bring a snapshot back that lacks what they changed. The mark needs no space. While not
//!   even that can be done, nobody is told; those who wait have a bound of their own.
//! * A journal of which a large part may be dead is written anew beside it by another thread, while commits go on; what
//!   they added is copied in the end, and the new one takes the old one's name.

mod committer;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_block::{Error, ErrorKind, Result};
use bowline_state::{Folder, StateFile};

use super::compact;
use super::layout::{FAILED_AT, FRAMES_AT};
use super::log::{FrameBuilder, Header, Scan, failed_sector};
use super::record::Record;
use super::ticket::{Outcome, Ticket};
use crate::cow::store::Medium;
use committer::Committer;

/// Bytes of data in one group, at most.
const GROUP_BYTES_MAX: u64 = 16 << 20;
/// Bytes of records in one group, at most: half of what fits.
const GROUP_RECORDS_MAX: usize = 512 << 10;
/// The file has so much zeroed room ahead, so that a sync need not change its size.
const AHEAD_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 256 << 10 };
/// The number of the first frame: compaction counts back from the next one.
const FIRST_SEQUENCE: u64 = 1 << 32;
/// Bytes below which a journal is not compacted.
const COMPACT_MIN: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };
/// How often a mark of failure is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Where data comes from.
pub(crate) trait Source: Send + Sync {
    /// Lends the bytes of the window, or `None` when they are on the store already.
    fn lend(&self, window: Range<usize>, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Option<Result<()>>;
}

/// Data to be made durable.
pub(crate) struct Write {
    pub(crate) vault: Arc<dyn Medium>,
    pub(crate) at: u64,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) window: Range<usize>,
}

struct Job {
    writes: Vec<Write>,
    records: Vec<Record>,
    ticket: Ticket,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// The journal has failed, and its mark is there.
    failed: Option<String>,
    /// To be failed: somebody is at it.
    doomed: Option<String>,
    /// Those of the group that is being made durable.
    in_flight: Vec<Ticket>,
    closed: bool,
    /// A compaction has ended.
    compacted: Option<Option<compact::Compacted>>,
    counts: Counts,
    #[cfg(test)]
    damage: Option<Damage>,
}

/// What a journal has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) commits: u64,
    pub(crate) groups: u64,
    pub(crate) compactions: u64,
    /// Bytes of the file that are in use.
    pub(crate) bytes: u64,
}

/// Planted mistakes, which a test must notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    NoDataSync,
    NoRecordSync,
    RecordFirst,
    NoFailureMark,
}

struct Inner {
    folder: Arc<dyn Folder>,
    name: String,
    header: Header,
    queue: Mutex<Queue>,
    bell: Condvar,
    /// Locked while another one takes its place, or while it is marked as failed.
    file: Mutex<Named>,
}

/// The file that has the journal's name, and the one that may have it after a crash: the one before, until the new name is
/// on stable storage.
struct Named {
    now: Arc<dyn StateFile>,
    before: Option<Arc<dyn StateFile>>,
}

/// See the module. Dropped, it ends; what was not committed by then is not.
pub(crate) struct Journal {
    inner: Arc<Inner>,
}

impl Journal {
    /// Begins a journal that says `first`, durable when this returns.
    pub(crate) fn create(
        folder: Arc<dyn Folder>,
        name: &str,
        header: Header,
        first: &[Record],
    ) -> Result<Self> {
        let mut frame = FrameBuilder::default();
        for record in first {
            frame.push(record);
        }
        let mut bytes = header.encode();
        bytes.extend(frame.finish(header.generation, FIRST_SEQUENCE));
        folder.replace(name, &bytes)?;
        let file = folder.open(name)?.ok_or_else(|| gone(name))?;
        let scan = Scan {
            header,
            failed: None,
            end: bytes.len() as u64,
            next_sequence: FIRST_SEQUENCE + 1,
            torn: false,
        };
        Self::start(folder, name, file, &scan)
    }

    /// Goes on with a journal that was read. Durable when this returns: it is in use, by a daemon that knows `records`.
    pub(crate) fn resume(
        folder: Arc<dyn Folder>,
        name: &str,
        scan: &Scan,
        records: Vec<Record>,
    ) -> Result<Self> {
        let file = folder.open(name)?.ok_or_else(|| gone(name))?;
        // A frame that was being written must not be found behind a later one.
        if scan.torn {
            file.set_len(scan.end)?;
            file.sync()?;
        }
        let this = Self::start(folder, name, file, scan)?;
        let limit = Duration::from_secs(60);
        match this.commit(Vec::new(), records).wait(limit) {
            Some(Outcome::Durable) => Ok(this),
            Some(Outcome::NoStore(why) | Outcome::NoJournal(why)) => Err(Error::new(ErrorKind::Io, why)),
            None => {
                Err(Error::new(ErrorKind::Timeout, format!("{name} could not be written within {limit:?}")))
            }
        }
    }

    fn start(folder: Arc<dyn Folder>, name: &str, file: Arc<dyn StateFile>, scan: &Scan) -> Result<Self> {
        let inner = Arc::new(Inner {
            folder,
            name: name.to_owned(),
            header: scan.header.clone(),
            queue: Mutex::default(),
            bell: Condvar::new(),
            file: Mutex::new(Named { now: file.clone(), before: None }),
        });
        let len = file.len()?;
        let mut committer = Committer {
            inner: inner.clone(),
            file,
            end: scan.end,
            zeroed: len,
            sequence: scan.next_sequence,
            live: scan.end,
            may_have_dead: true,
            compacting: None,
        };
        std::thread::Builder::new()
            .name("snapshot-journal".to_owned())
            .spawn(move || committer.run())
            .map_err(|error| Error::from_io("cannot start the journal's thread", error))?;
        Ok(Self { inner })
    }

    /// Asks for data and then records to be made durable, all or nothing after a crash.
    pub(crate) fn commit(&self, writes: Vec<Write>, records: Vec<Record>) -> Ticket {
        let ticket = Ticket::default();
        let mut queue = self.inner.lock();
        let refused = match (&queue.failed, queue.closed) {
            (Some(why), _) => Some(why.clone()),
            (None, true) => Some("it is closed".to_owned()),
            (None, false) => None,
        };
        if let Some(why) = refused {
            drop(queue);
            ticket.tell(Outcome::NoJournal(why));
            return ticket;
        }
        queue.jobs.push_back(Job { writes, records, ticket: ticket.clone() });
        drop(queue);
        self.inner.bell.notify_one();
        ticket
    }

    /// Marks the journal as failed, with all its snapshots. The ticket is told *no journal* when that is durable. Done by
    /// a thread of its own: the journal's may be stuck in a store that does not answer.
    pub(crate) fn fail(&self, reason: &str) -> Ticket {
        self.inner.doom(reason);
        self.commit(Vec::new(), Vec::new())
    }

    /// Commits that wait for their group.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.inner.lock().jobs.len()
    }

    /// What it has done.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> Counts {
        self.inner.lock().counts
    }

    /// The file's name.
    pub(crate) fn name(&self) -> &str {
        &self.inner.name
    }

    /// Ends it. With `remove`, its file goes too.
    pub(crate) fn close(&self, remove: bool) -> Result<()> {
        self.inner.lock().closed = true;
        self.inner.bell.notify_all();
        if remove {
            self.inner.folder.remove(&self.inner.name)?;
            self.inner.folder.sync()?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn plant(&self, damage: Damage) {
        self.inner.lock().damage = Some(damage);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.inner.lock().closed = true;
        self.inner.bell.notify_all();
    }
}

fn gone(name: &str) -> Error {
    Error::new(ErrorKind::Gone, format!("{name} is not there any more"))
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to mark the journal as failed.
    fn doom(self: &Arc<Self>, why: &str) {
        let mut queue = self.lock();
        if queue.doomed.is_some() {
            return;
        }
        queue.doomed = Some(why.to_owned());
        drop(queue);
        let (this, reason) = (self.clone(), why.to_owned());
        let started =
            std::thread::Builder::new().name("journal-failure".to_owned()).spawn(move || this.die(&reason));
        if started.is_err() {
            self.die(why);
        }
    }

    /// Marks the journal as failed, and then tells all who wait and all who come.
    fn die(&self, why: &str) {
        while !self.mark_failed(why) {
            let queue = self.lock();
            let (queue, _) = self.bell.wait_timeout(queue, RETRY).unwrap_or_else(PoisonError::into_inner);
            if queue.closed {
                return;
            }
        }
        let mut queue = self.lock();
        queue.failed = Some(why.to_owned());
        let jobs = std::mem::take(&mut queue.jobs);
        let in_flight = std::mem::take(&mut queue.in_flight);
        drop(queue);
        let told = jobs.into_iter().map(|job| job.ticket).chain(in_flight);
        told.for_each(|ticket| ticket.tell(Outcome::NoJournal(why.to_owned())));
    }

    /// Whether it is on stable storage that the journal has failed.
    fn mark_failed(&self, why: &str) -> bool {
        #[cfg(test)]
        if self.has(Damage::NoFailureMark) {
            return true;
        }
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut marked = [Some(&file.now), file.before.as_ref()].into_iter().flatten();
        if marked.all(|file| file.write_at(FAILED_AT, &failed_sector(why)).and_then(|()| file.sync()).is_ok())
        {
            return true;
        }
        // One that is not there says the same.
        let removed = self.folder.remove(&self.name).and_then(|()| self.folder.sync());
        if let Err(error) = &removed {
            tracing::error!(journal = self.name, %error, why, "cannot be marked as failed");
        }
        removed.is_ok()
    }

    #[cfg(test)]
    fn has(&self, damage: Damage) -> bool {
        self.lock().damage == Some(damage)
    }
}

const _: () = assert!(COMPACT_MIN > FRAMES_AT);
