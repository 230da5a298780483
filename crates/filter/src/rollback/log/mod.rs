//! The progress log: which granules are the origin's again, so that a restart never puts old contents over new ones.
//!
//! A granule is *recorded* behind the write that cleared it and before that write is acknowledged, so what the log says
//! is never ahead of the origin. Nothing is synced for it: a killed process leaves the record and the write in the
//! kernel's memory, both or neither is lost with the power. Records belong to *phases*: a flush of the device ends one,
//! flushes the origin, and then *confirms* the phase durably before it is acknowledged. After another boot only
//! confirmed phases count.
//!
//! Writing is done by a thread of its own, many records at a time. A log that cannot be written is removed, because
//! what it still says would be wrong after a restart; the rollback goes on without it. Where it cannot even be removed,
//! nothing more is recorded, and nothing is cleared or confirmed.

mod format;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bowline_block::{Error, ErrorKind, Result};
use bowline_state::{Folder, StateFile};
use uuid::Uuid;

use super::pending::ZoneBits;
use crate::cow::{GRANULE_BYTES, Granules};
pub(crate) use format::{Header, Parsed, Record, encode};

/// What a log says, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSummary {
    /// The snapshot to which the device goes back.
    pub snapshot: Uuid,
    /// Bytes of the device.
    pub size: u64,
    /// Bytes that had to be put back when this log began.
    pub total_bytes: u64,
    /// Bytes of these that were still to be put back, if no other boot came between.
    pub pending_bytes: u64,
    /// Records in it.
    pub records: usize,
    /// Bytes behind the last record, which count for nothing: what a crash leaves.
    pub trailing_bytes: u64,
}

/// Reads the log of a folder and says what it says; `None` where there is none.
///
/// # Errors
/// *Corrupt* when it is damaged; *unsupported* for another version; what the folder said.
pub fn check_log(folder: &dyn Folder) -> Result<Option<LogSummary>> {
    let Some(parsed) = Log::open(folder)? else { return Ok(None) };
    let bytes = |zones: &ZoneBits| {
        let bits = zones.values().flat_map(|bits| bits.iter());
        bits.map(|bits| u64::from(bits.count_ones())).sum::<u64>() * GRANULE_BYTES
    };
    Ok(Some(LogSummary {
        snapshot: parsed.header.snapshot,
        size: parsed.header.size,
        total_bytes: bytes(&parsed.zones),
        pending_bytes: bytes(&parsed.pending(true)?),
        records: parsed.records.len(),
        trailing_bytes: parsed.trailing_bytes,
    }))
}

/// The log's name in its folder.
pub const LOG_NAME: &str = "rollback.log";
/// Records written at once.
const BATCH_MAX: usize = 1024;

/// See the module.
pub(crate) struct Log {
    folder: Arc<dyn Folder>,
    file: Arc<dyn StateFile>,
    id: Uuid,
    state: Mutex<State>,
    bell: Condvar,
    /// Whether there are records that no confirmed phase covers.
    dirty: AtomicBool,
}

struct State {
    queue: VecDeque<Entry>,
    /// Where the next record goes.
    offset: u64,
    /// Of records that come now.
    phase: u64,
    /// The newest phase that has a record, and the newest that is confirmed.
    recorded: Option<u64>,
    confirmed: Option<u64>,
    health: Health,
    closing: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Health {
    Good,
    /// It was removed: nothing is recorded, and no restart goes on with the rollback.
    Removed,
    /// It is wrong, and cannot be removed.
    Stuck(String),
}

struct Entry {
    record: Record,
    ticket: Arc<Ticket>,
}

/// What somebody waits for.
#[derive(Default)]
struct Ticket(Mutex<Wait>);

/// The answer, and who waits for it.
type Wait = (Option<Answer>, Option<Waker>);
type Answer = std::result::Result<(), String>;

impl Ticket {
    fn lock(&self) -> MutexGuard<'_, Wait> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, result: Answer) {
        let waker = {
            let mut inner = self.lock();
            inner.0 = Some(result);
            inner.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn wait(self: Arc<Self>) -> impl Future<Output = Result<()>> {
        poll_fn(move |cx| {
            let mut inner = self.lock();
            match inner.0.take() {
                Some(Ok(())) => Poll::Ready(Ok(())),
                Some(Err(why)) => Poll::Ready(Err(Error::new(ErrorKind::Io, why))),
                None => {
                    inner.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}

impl Log {
    /// Makes a log of what is pending, durable when this returns. Blocks.
    pub(crate) fn create(
        folder: &Arc<dyn Folder>,
        snapshot: Uuid,
        boot: Uuid,
        size: u64,
        pending: &ZoneBits,
    ) -> Result<Arc<Self>> {
        let header = Header { id: Uuid::new_v4(), snapshot, boot, size, zones: pending.len() as u64 };
        let new = format!("{LOG_NAME}.new");
        let file = folder.create(&new)?;
        file.write_at(0, &encode(&header, pending))?;
        file.sync()?;
        folder.rename(&new, LOG_NAME)?;
        folder.sync()?;
        let state = State {
            queue: VecDeque::new(),
            offset: header.records_at(),
            phase: 1,
            recorded: None,
            confirmed: None,
            health: Health::Good,
            closing: false,
        };
        let log = Arc::new(Self {
            folder: folder.clone(),
            file,
            id: header.id,
            state: Mutex::new(state),
            bell: Condvar::new(),
            dirty: AtomicBool::new(false),
        });
        let worker = log.clone();
        std::thread::Builder::new()
            .name("rollback-log".to_owned())
            .spawn(move || while worker.turn() {})
            .map_err(|error| Error::from_io("cannot start the thread of a rollback's log", error))?;
        Ok(log)
    }

    /// Reads the log of a folder, if there is one.
    pub(crate) fn open(folder: &dyn Folder) -> Result<Option<Parsed>> {
        let Some(file) = folder.open(LOG_NAME)? else { return Ok(None) };
        Parsed::read(&*file).map(Some)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a flush has something to confirm.
    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::SeqCst)
    }

    /// Whether a restart would go on with the rollback.
    pub(crate) fn is_good(&self) -> bool {
        self.state().health == Health::Good
    }

    /// Records granules whose new contents have been written.
    pub(crate) fn record(&self, granules: Granules) -> impl Future<Output = Result<()>> + use<> {
        self.enqueue(|state| {
            state.recorded = Some(state.phase);
            self.dirty.store(state.health != Health::Removed, Ordering::SeqCst);
            Record::Cleared { phase: state.phase, granules }
        })
        .wait()
    }

    /// Ends a phase: what was recorded before belongs to it, or to an earlier one. To be followed by a flush of the
    /// origin, and that by [`Log::confirm`].
    pub(crate) fn end_phase(&self) -> u64 {
        let mut state = self.state();
        state.phase += 1;
        state.phase - 1
    }

    /// The origin was flushed since that phase ended.
    pub(crate) fn confirm(&self, phase: u64) -> impl Future<Output = Result<()>> + use<> {
        self.enqueue(|_| Record::Confirmed { phase }).wait()
    }

    fn enqueue(&self, record: impl FnOnce(&mut State) -> Record) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket::default());
        let mut state = self.state();
        let record = record(&mut state);
        match &state.health {
            Health::Good => {
                state.queue.push_back(Entry { record, ticket: ticket.clone() });
                self.bell.notify_one();
            }
            Health::Removed => ticket.settle(Ok(())),
            Health::Stuck(why) => ticket.settle(Err(why.clone())),
        }
        ticket
    }

    /// Nothing is left to be put back: the log goes. Blocks.
    pub(crate) fn finish(&self) -> Result<()> {
        self.remove()?;
        self.state().health = Health::Removed;
        self.dirty.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Ends the thread; the log stays.
    pub(crate) fn close(&self) {
        self.state().closing = true;
        self.bell.notify_one();
    }

    fn remove(&self) -> Result<()> {
        self.folder.remove(LOG_NAME)?;
        self.folder.sync()
    }

    /// Writes what waits; whether to go on.
    fn turn(&self) -> bool {
        let (batch, offset) = {
            let mut state = self.state();
            while state.queue.is_empty() {
                if state.closing {
                    return false;
                }
                state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let count = state.queue.len().min(BATCH_MAX);
            (state.queue.drain(..count).collect::<Vec<_>>(), state.offset)
        };
        if !self.is_good() {
            let result = self.verdict();
            batch.iter().for_each(|entry| entry.ticket.settle(result.clone()));
            return true;
        }
        match self.write(&batch, offset) {
            Ok(confirmed) => self.written(&batch, confirmed),
            Err(error) => self.give_up(&error),
        }
        let result = self.verdict();
        batch.iter().for_each(|entry| entry.ticket.settle(result.clone()));
        true
    }

    fn verdict(&self) -> Answer {
        match &self.state().health {
            Health::Good | Health::Removed => Ok(()),
            Health::Stuck(why) => Err(why.clone()),
        }
    }

    /// The phase that is confirmed with it.
    fn write(&self, batch: &[Entry], offset: u64) -> Result<Option<u64>> {
        let mut bytes = Vec::with_capacity(batch.len() * format::RECORD_BYTES);
        let mut confirmed = None;
        for (at, entry) in batch.iter().enumerate() {
            if let Record::Confirmed { phase } = entry.record {
                confirmed = confirmed.max(Some(phase));
            }
            bytes.extend(entry.record.encode(self.id, offset + (at * format::RECORD_BYTES) as u64));
        }
        self.file.write_at(offset, &bytes)?;
        if confirmed.is_some() {
            self.file.sync()?;
        }
        Ok(confirmed)
    }

    fn written(&self, batch: &[Entry], confirmed: Option<u64>) {
        let mut state = self.state();
        state.offset += (batch.len() * format::RECORD_BYTES) as u64;
        state.confirmed = state.confirmed.max(confirmed);
        if state.recorded <= state.confirmed {
            self.dirty.store(false, Ordering::SeqCst);
        }
    }

    /// The log cannot be written: it must not say any more what it says.
    fn give_up(&self, error: &Error) {
        tracing::warn!(folder = self.folder.location(), %error, "a rollback goes on without its log");
        let health = match self.remove() {
            Ok(()) => Health::Removed,
            Err(also) => Health::Stuck(format!(
                "the log of a rollback cannot be written ({error}) nor removed ({also})"
            )),
        };
        let mut state = self.state();
        state.health = health;
        if state.health == Health::Removed {
            self.dirty.store(false, Ordering::SeqCst);
        }
    }
}
