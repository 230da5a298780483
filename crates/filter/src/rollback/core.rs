//! What a rollback is: the device, the snapshot, what is pending, and putting it back.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use bowline_block::{Buf, ByteRange, Capabilities, Error, ErrorKind, Io, Op, Request, Result, Store};
use bowline_device::{Device, FilterId};

use super::ROLLBACK_ALTITUDE;
use super::log::Log;
use super::pending::{Asked, Claimed1, Pending, ZoneBits};
use super::source::Source;
use super::{RollbackState, RollbackStatus};
use crate::cow::{Granules, is_zero, not_busy, wait};

/// How long somebody who wants a block waits for who puts it back.
const BUSY_LIMIT: Duration = Duration::from_secs(30);
/// How often a write to the origin is tried, and how long apart.
const TRIES: u32 = 3;
const RETRY: Duration = Duration::from_millis(50);

/// Where a rollback is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is attached; nothing shows yet.
    Starting = 0,
    /// The device reads as the snapshot.
    Running = 1,
    /// All is put back, or it was given up before it began.
    Over = 2,
}

/// See the module.
pub(crate) struct Core {
    this: Weak<Core>,
    pub(super) device: Arc<Device>,
    pub(super) source: Box<dyn Source>,
    /// Set once, under the freeze in which the filter is attached.
    pending: OnceLock<Pending>,
    log: OnceLock<Arc<Log>>,
    stage: AtomicU8,
    waiting: Mutex<Vec<Waker>>,
    pub(super) filter: Mutex<Option<FilterId>>,
    life: Mutex<Life>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct Life {
    pub(super) done: bool,
    pub(super) failed: Option<String>,
    /// Its thread is to end, whatever is left.
    pub(super) stopping: bool,
    /// Asked to go on after a failure.
    pub(super) retry: bool,
}

impl Core {
    pub(super) fn new(device: &Arc<Device>, source: Box<dyn Source>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            device: device.clone(),
            source,
            pending: OnceLock::new(),
            log: OnceLock::new(),
            stage: AtomicU8::new(Stage::Starting as u8),
            waiting: Mutex::default(),
            filter: Mutex::new(None),
            life: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(super) fn this(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    #[inline]
    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Starting,
            1 => Stage::Running,
            _ => Stage::Over,
        }
    }

    pub(super) fn enter(&self, stage: Stage) {
        let woken = {
            let mut waiting = self.waiting();
            self.stage.store(stage as u8, Ordering::SeqCst);
            std::mem::take(&mut *waiting)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fixes what is to be put back.
    pub(super) fn set_pending(&self, size: u64, wanted: ZoneBits) {
        let _ = self.pending.set(Pending::new(size, wanted));
    }

    #[inline]
    pub(super) fn pending(&self) -> &Pending {
        self.pending.get_or_init(|| Pending::new(0, ZoneBits::new()))
    }

    pub(super) fn set_log(&self, log: Arc<Log>) {
        let _ = self.log.set(log);
    }

    pub(super) fn log(&self) -> Option<&Arc<Log>> {
        self.log.get()
    }

    pub(super) fn has_unconfirmed(&self) -> bool {
        self.log().is_some_and(|log| log.is_dirty())
    }

    /// It can go on no further by itself. Only the first reason counts.
    pub(super) fn fail(&self, reason: &str) {
        let mut life = self.life();
        if life.failed.is_none() && !life.done {
            tracing::warn!(device = self.device.name(), reason, "a rollback failed");
            life.failed = Some(reason.to_owned());
        }
        self.changed.notify_all();
    }

    /// The same, for ever.
    pub(super) fn end(&self, reason: &str) {
        self.life().stopping = true;
        self.fail(reason);
    }

    pub(super) fn status(&self) -> RollbackStatus {
        let (total, done) = self.pending().progress();
        let life = self.life();
        let state = match &life.failed {
            _ if life.done => RollbackState::Done,
            Some(reason) => RollbackState::Failed { reason: reason.clone() },
            None => RollbackState::Running,
        };
        let bytes = |granules: u64| granules * crate::cow::GRANULE_BYTES;
        let restartable = self.log().is_some_and(|log| log.is_good());
        RollbackStatus { total_bytes: bytes(total), done_bytes: bytes(done), state, restartable }
    }

    /// What lies below. The caller is inside the device's gate.
    pub(super) fn below(&self) -> Arc<dyn Store> {
        self.device.below_inside(ROLLBACK_ALTITUDE)
    }

    /// Claims the first pending granules of a run; `None` when none is pending.
    pub(super) async fn claim(&self, granules: Granules, max: u16) -> Result<Option<Claimed1<'_>>> {
        let mut from = granules.first;
        loop {
            let rest = Granules { first: from, end: granules.end };
            match self.pending().claim(rest, max) {
                Asked::Mine(claimed) => return Ok(Some(claimed)),
                Asked::Nothing => match self.pending().first(rest) {
                    None => return Ok(None),
                    // It was cleared while we looked.
                    Some(next) => from = next.first,
                },
                Asked::Busy(zone, run) => {
                    if wait::bounded(BUSY_LIMIT, not_busy(zone, run)).await.is_none() {
                        let why = format!("a block was not put back within {BUSY_LIMIT:?}");
                        return Err(Error::new(ErrorKind::Timeout, why));
                    }
                }
            }
        }
    }

    /// Puts claimed granules back. When it fails they are pending as before.
    pub(super) async fn put_back(&self, below: &dyn Store, claimed: Claimed1<'_>) -> Result<()> {
        let geometry = below.geometry();
        let whole = claimed.granules().bytes(self.pending().size());
        // What the device does not reach any more is nobody's.
        let bytes = whole.intersection(geometry.whole());
        if !bytes.is_empty() {
            let len = usize::try_from(bytes.len()).unwrap_or(0);
            let mut data = bowline_io::alloc(len);
            if data.len() != len {
                return Err(Error::new(ErrorKind::Io, "there is no memory for a block to be put back"));
            }
            self.source.read(bytes, &mut data).await?;
            let zeroes = geometry.can.contains(Capabilities::WRITE_ZEROES) && is_zero(&data);
            write_back(below, bytes, data, zeroes).await?;
        }
        self.record(claimed.granules()).await?;
        claimed.clear();
        Ok(())
    }

    /// Notes that granules are the origin's, behind the write that made them so.
    pub(super) async fn record(&self, granules: Granules) -> Result<()> {
        match self.log() {
            Some(log) => log.record(granules).await,
            None => Ok(()),
        }
    }

    /// Flushes what is below, and makes durable what was cleared.
    pub(super) async fn commit(&self, below: &dyn Store) -> Result<()> {
        let phase = self.log().filter(|log| log.is_dirty()).map(|log| log.end_phase());
        below.submit(Io::bare(Request::flush())).await.result?;
        match (phase, self.log()) {
            (Some(phase), Some(log)) => log.confirm(phase).await,
            _ => Ok(()),
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Until then writers may still have something to record, also when the worker has ended.
        if let Some(log) = self.log.get() {
            log.close();
        }
    }
}

/// Writes old contents to the origin, trying again after an error.
async fn write_back(below: &dyn Store, bytes: ByteRange, mut data: Buf, zeroes: bool) -> Result<()> {
    let mut tries = 1;
    loop {
        let io = if zeroes {
            Io::bare(Request::new(Op::WriteZeroes, bytes))
        } else {
            Io::new(Request::new(Op::Write, bytes), data)
        };
        let done = below.submit(io).await;
        data = done.data;
        match done.result {
            Ok(()) => return Ok(()),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        wait::bounded(RETRY, std::future::pending::<()>()).await;
    }
}
