//! Rollback: a device goes back to a snapshot, online.
//!
//! ```text
//!   read  ──► Core (filter) ── pending? ──► the snapshot as it was taken
//!                │                no ─────► below: track, copy-on-write, store
//!   write ──► Core ── claims what it covers, puts back what it only touches, writes, records ──► below
//!   worker: puts back the rest, in order ──► below
//! ```
//!
//! * The device holds the snapshot's contents at once. *Pending* are the granules that were preserved since the take:
//!   until they are put back, or overwritten, they are read from the snapshot. What was written to the image is no part
//!   of it.
//! * The rollback writes below its own altitude, so through the tracker (a rollback is a change) and through
//!   copy-on-write: other snapshots of the device, older and newer, stay exact.
//! * What is pending is fixed under a freeze; then writers wait until it is marked in the tracker and in the log. So
//!   there is nothing that a crash could make half of.
//! * With a log it is restartable: see `log`. Without one (a plain snapshot, which does not outlive the daemon) a crash
//!   in the middle leaves the origin as a mix of before and after.
//! * An origin that takes no writes makes it *failed*: the device goes on to read right, and it can be begun again. Old
//!   contents that cannot be read are read errors of the device, there and nowhere else; a write that covers a granule
//!   cures it. A snapshot that fails later, for lack of room, costs nothing: what is pending was preserved before.

mod core;
mod filter;
pub mod log;
mod pending;
mod source;
mod store;
mod worker;

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bowline_block::{Altitude, ByteRange, Error, ErrorKind, Filter, Result, Store};
use bowline_device::freeze_all;
use bowline_io::QueueHandle;
use bowline_state::Folder;
use uuid::Uuid;

use self::core::{Core, Stage};
use self::log::Log;
use self::pending::ZoneBits;
use self::source::Source;
use crate::cow::SnapshotDevice;
use crate::track::Tracker;

pub use self::log::{LOG_NAME, LogSummary, check_log};

/// Where the filter sits in a stack.
pub const ROLLBACK_ALTITUDE: Altitude = Altitude(400);

/// How a rollback is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RollbackState {
    /// Blocks are being put back.
    Running,
    /// All are.
    Done,
    /// It goes on no further by itself; the device reads right. See [`Rollback::retry`].
    Failed {
        /// Why.
        reason: String,
    },
}

/// How far a rollback is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackStatus {
    /// Bytes that had to be put back, in blocks of 4 KiB.
    pub total_bytes: u64,
    /// Bytes of these that are, or were overwritten.
    pub done_bytes: u64,
    /// How it is doing.
    pub state: RollbackState,
    /// Whether it would go on after a crash.
    pub restartable: bool,
}

/// What a rollback needs besides the snapshot.
#[derive(Clone)]
pub struct RollbackOptions {
    /// The device's tracker, if it has one.
    pub tracker: Option<Arc<Tracker>>,
    /// Where the progress log goes, if the snapshot outlives the daemon. One folder per device.
    pub folder: Option<Arc<dyn Folder>>,
    /// The queue on which blocks are put back.
    pub queue: Option<QueueHandle>,
    /// How long the device may take to become quiet.
    pub freeze: Duration,
}

/// A handle that keeps nothing.
pub(crate) struct WeakRollback(std::sync::Weak<Core>);

impl WeakRollback {
    pub(crate) fn upgrade(&self) -> Option<Rollback> {
        self.0.upgrade().map(|core| Rollback { core })
    }
}

/// A rollback that has begun. Dropping the handle does not end it.
#[derive(Clone)]
pub struct Rollback {
    core: Arc<Core>,
}

impl Rollback {
    /// Begins to put a device back to a snapshot of it. When this returns the device reads as the snapshot. Begun again
    /// after it failed, it goes on. Must not be called on a queue thread.
    ///
    /// # Errors
    /// *Invalid* when the device has another size than at the take; *io* when the snapshot has failed; *busy* when
    /// another rollback of the device is not over; *timeout* when the device could not be frozen; what the log's folder
    /// said. Nothing has changed then.
    pub fn begin(of: &SnapshotDevice, options: &RollbackOptions) -> Result<Self> {
        if let Some(running) = of.history().rollback() {
            if running.retry_of(of) {
                return Ok(running);
            }
            let why = "another rollback of it is not over";
            let hint = "wait for its end: `bowline device show` tells how far it is";
            return Err(Error::new(ErrorKind::Busy, why)
                .device(of.origin().name())
                .op("rollback")
                .hint(hint));
        }
        let source = of.image().clone();
        let this = Self::start(of, Box::new(source.clone()), options, None, move |size| {
            source.check_rollback(size)?;
            source.preserved()
        })?;
        Ok(this)
    }

    /// Goes on with the rollback whose log is in the folder, if there is one. To be called before anybody reads the
    /// device: until then it is a mix. Must not be called on a queue thread.
    ///
    /// # Errors
    /// *Invalid* when the log is of another snapshot or another size; *corrupt* when it is damaged; else as
    /// [`Rollback::begin`]. The device must not be used then: it holds a part of each.
    pub fn resume(of: &SnapshotDevice, options: &RollbackOptions) -> Result<Option<Self>> {
        let Some(folder) = &options.folder else { return Ok(None) };
        let Some(found) = Log::open(&**folder)? else { return Ok(None) };
        if found.header.snapshot != of.image().snapshot_id() {
            let why = "the log of its rollback is of another snapshot";
            return Err(Error::new(ErrorKind::Invalid, why).device(of.origin().name()).op("resume rollback"));
        }
        let boot = this_boot();
        let same_boot = !boot.is_nil() && boot == found.header.boot;
        let pending = found.pending(same_boot)?;
        let size = found.header.size;
        let take = move |now: u64| {
            if now != size {
                let why = format!("it has {now} bytes; when its rollback began it had {size}");
                return Err(Error::new(ErrorKind::Invalid, why));
            }
            Ok(pending)
        };
        Self::start(of, Box::new(of.image().clone()), options, Some(same_boot), take).map(Some)
    }

    /// `resumed` says whether an earlier process of this boot had begun it.
    fn start(
        of: &SnapshotDevice,
        source: Box<dyn Source>,
        options: &RollbackOptions,
        resumed: Option<bool>,
        pending: impl FnOnce(u64) -> Result<ZoneBits>,
    ) -> Result<Self> {
        let snapshot = of.image().snapshot_id();
        let this = Self { core: Core::new(of.origin(), source) };
        of.history().set_rollback(&this, snapshot)?;
        let begun = this.core.begin(options, snapshot, this_boot(), resumed, pending);
        if begun.is_err() || this.is_over() {
            of.history().forget_rollback();
        }
        begun.map(|()| this)
    }

    /// Goes on if it failed and is of that snapshot; whether it is.
    fn retry_of(&self, of: &SnapshotDevice) -> bool {
        let same = of.history().rollback_of() == Some(of.image().snapshot_id());
        same && self.retry()
    }

    /// Goes on after a failure; `false` when there was none.
    #[must_use]
    pub fn retry(&self) -> bool {
        let mut life = self.core.life();
        let again = life.failed.is_some() && !life.stopping;
        life.retry |= again;
        if again {
            // Told as running from now on.
            life.failed = None;
        }
        self.core.changed.notify_all();
        again
    }

    pub(crate) fn downgrade(&self) -> WeakRollback {
        WeakRollback(Arc::downgrade(&self.core))
    }

    /// How far it is.
    #[must_use]
    pub fn status(&self) -> RollbackStatus {
        self.core.status()
    }

    /// The bytes that are still to be put back: they differ from what lies below.
    #[must_use]
    pub fn pending(&self) -> Vec<ByteRange> {
        self.core.pending().ranges()
    }

    /// Whether all is put back.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.core.life().done
    }

    /// Waits until it is done or has failed, no longer than `limit`; how far it is then. Must not be called on a queue
    /// thread.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> RollbackStatus {
        let deadline = Instant::now() + limit;
        let mut life = self.core.life();
        while !life.done && life.failed.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            life = match self.core.changed.wait_timeout(life, left) {
                Ok((life, _)) => life,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        drop(life);
        self.status()
    }

    /// Gives up one that has failed, because the device is to be removed: its log goes, and the snapshot is free. The
    /// device holds a part of each from here on, and must not be used. Must not be called on a queue thread.
    ///
    /// # Errors
    /// *Busy* while it gets on; what the log's folder said: nothing is given up then.
    pub fn give_up(&self, of: &SnapshotDevice) -> Result<()> {
        if !matches!(self.status().state, RollbackState::Failed { .. }) {
            let why = "it gets on";
            return Err(Error::new(ErrorKind::Busy, why).device(of.origin().name()).op("give up rollback"));
        }
        if let Some(log) = self.core.log() {
            log.finish()?;
        }
        self.core.end("it was given up");
        self.core.detach();
        of.history().forget_rollback();
        Ok(())
    }

    /// Ends its thread, before the process ends: a restart goes on where the log says. What is pending stays so.
    pub fn stop(&self) {
        self.core.end("it was stopped; a restart goes on with it");
    }
}

impl Core {
    /// Attaches the filter, notes what is pending, and shows it.
    fn begin(
        self: &Arc<Self>,
        options: &RollbackOptions,
        snapshot: Uuid,
        boot: Uuid,
        resumed: Option<bool>,
        pending: impl FnOnce(u64) -> Result<ZoneBits>,
    ) -> Result<()> {
        let blame = |error: Error| error.device(self.device.name()).op("rollback");
        self.attach(options.freeze, pending).map_err(blame)?;
        let noted = self.note(options, snapshot, boot, resumed.unwrap_or(false));
        match noted.and_then(|()| worker::start(self, options.queue.clone())) {
            Ok(go) => {
                self.enter(Stage::Running);
                let _ = go.send(());
                Ok(())
            }
            Err(error) => {
                // Before writers go on: with its log the next start would put old contents over theirs.
                let forgotten = if resumed.is_none() { forget_log(options) } else { Ok(()) };
                self.detach();
                let error = blame(error);
                Err(match forgotten {
                    Ok(()) => error,
                    Err(also) => {
                        let hint = format!("remove {LOG_NAME}, or the next start goes on with it: {also}");
                        error.hint(hint)
                    }
                })
            }
        }
    }

    fn attach(
        self: &Arc<Self>,
        freeze: Duration,
        pending: impl FnOnce(u64) -> Result<ZoneBits>,
    ) -> Result<()> {
        let frozen = freeze_all(std::slice::from_ref(&self.device), freeze)?;
        let size = self.device.geometry().size;
        self.set_pending(size, pending(size)?);
        let filter: Arc<dyn Filter> = self.clone();
        let Some(frozen) = frozen.first() else { return Ok(()) };
        let id = frozen.attach(filter, ROLLBACK_ALTITUDE, None)?;
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        Ok(())
    }

    /// Marks what is pending and makes the log of it. Writers wait meanwhile.
    fn note(
        self: &Arc<Self>,
        options: &RollbackOptions,
        snapshot: Uuid,
        boot: Uuid,
        flush_first: bool,
    ) -> Result<()> {
        if let Some(tracker) = &options.tracker {
            self.pending().ranges().into_iter().for_each(|range| tracker.mark_blocking(range));
        }
        let Some(folder) = &options.folder else { return Ok(()) };
        if flush_first {
            // What an earlier process of this boot cleared may be in the kernel's memory only, and the new log has no
            // more of it.
            let flushed = Arc::new(std::sync::Mutex::new(Ok(())));
            let result = flushed.clone();
            self.on_queue(options.queue.as_ref(), 1, move |core| {
                let result = result.clone();
                async move {
                    let _inside = core.device.enter().await;
                    let io = bowline_block::Io::bare(bowline_block::Request::flush());
                    let done = core.below().submit(io).await;
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = done.result;
                }
            });
            let mut flushed = flushed.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *flushed, Ok(()))?;
        }
        let log = Log::create(folder, snapshot, boot, self.pending().size(), &self.pending().left())?;
        self.set_log(log);
        Ok(())
    }
}

/// Removes the log of a rollback that did not begin.
fn forget_log(options: &RollbackOptions) -> Result<()> {
    let Some(folder) = &options.folder else { return Ok(()) };
    folder.remove(LOG_NAME)?;
    folder.sync()
}

/// The boot this process runs in; nil where the kernel does not say.
fn this_boot() -> Uuid {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
