//! The daemon's parts, and how verbs get at them.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bowline_api::{ApiError, DeviceAdd, ErrorKind, EventKind, Timestamp};
use bowline_block::{Io, Request, Store};
use bowline_device::Device;
use bowline_io::Queues;
use rustls::ServerConfig;

use crate::error::{failed, failed_io};
use crate::events::EventLog;
use crate::options::ListenAddr;
use crate::reading::Reading;
use crate::snapshot::SnapshotEntry;
use crate::state::{Hidden, StateFolder, Stored};
use crate::tables::Tables;

/// How long a device may take to drain before a change of its stack is given up.
pub(crate) const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// How long a flush is waited for before the device counts as failed: a disk that hangs must not keep the others up.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// What every listener is started with.
pub(crate) struct NbdDefaults {
    /// Where devices are exported when no address is named.
    pub(crate) address: ListenAddr,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Allow TCP beyond loopback without TLS.
    pub(crate) insecure: bool,
}

/// What the state folder is to have in the end.
pub(crate) enum Kept {
    /// What is there: it could not be read, and is nobody's to overwrite.
    Unread,
    /// What was read, but for what the trackers have come to: not all of it is back.
    Loaded(Stored),
    /// What the tables have.
    Tables,
}

/// Everything there is.
pub(crate) struct Daemon {
    pub(crate) queues: Queues,
    pub(crate) tables: Arc<RwLock<Tables>>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) nbd: NbdDefaults,
    pub(crate) state: Option<StateFolder>,
    pub(crate) started_at: Timestamp,
    pub(crate) started: Instant,
    changing: Mutex<()>,
    probing: Mutex<()>,
    pub(crate) losses: crate::losses::Losses,
    kept: Mutex<Kept>,
    unsaved: AtomicBool,
    stopping: AtomicBool,
}

impl Daemon {
    pub(crate) fn new(queues: Queues, nbd: NbdDefaults, state: Option<StateFolder>) -> Arc<Self> {
        let (keeper, wishes) = crate::keeper::wishes();
        let (losses, troubles) = crate::losses::Losses::new();
        let daemon = Arc::new(Self {
            queues,
            tables: Arc::default(),
            events: Arc::default(),
            nbd,
            state,
            started_at: Timestamp::now(),
            started: Instant::now(),
            changing: Mutex::new(()),
            probing: Mutex::new(()),
            losses,
            kept: Mutex::new(Kept::Tables),
            unsaved: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        crate::losses::start(&daemon, troubles);
        if daemon.state.is_some() {
            daemon.events.keep_with(keeper);
            crate::keeper::start(&daemon, wishes);
        }
        daemon
    }

    /// Waits for its turn to change something.
    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn to watch what a device sees.
    pub(crate) fn probing(&self) -> MutexGuard<'_, ()> {
        self.probing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> Reading<'_> {
        Reading::begin(&self.tables)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything that was acknowledged on the device durable.
    pub(crate) fn flush(&self, device: &Arc<Device>) -> Result<(), ApiError> {
        let what = format!("flush device {}", device.name());
        let target = device.clone();
        let queue = self.queues.nth(0).ok_or_else(|| failed_io(&what, std::io::Error::other("no queue")))?;
        let flushed = queue
            .run_within(
                FLUSH_LIMIT,
                move || async move { target.submit(Io::bare(Request::flush())).await.result },
            )
            .map_err(|error| failed_io(&what, error))?;
        flushed.map_err(|error| failed(&what, &error))
    }

    /// Puts what there is into the state folder, after what was `done`.
    ///
    /// # Errors
    /// It could not be written: the running daemon is right, but a restart will not know. It is tried again with the
    /// next change, and at the stop.
    pub(crate) fn save(&self, done: impl Display) -> Result<(), ApiError> {
        let Some(folder) = &self.state else { return Ok(()) };
        self.is_running(&done)?;
        if !matches!(*self.kept(), Kept::Tables) {
            return Ok(());
        }
        let saved = folder.save(&self.stored());
        self.unsaved.store(saved.is_err(), Ordering::SeqCst);
        saved.map_err(|error| {
            tracing::error!("{error}");
            self.events.draft(EventKind::Notice, error.message.clone()).post();
            let message = format!("{done}, but will not outlive the daemon: {error}");
            ApiError { kind: error.kind, message }
        })
    }

    /// What the state folder is to have.
    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on nothing changes but by the stop, which empties the tables: they are not what is to be kept.
    pub(crate) fn end_changes(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Refuses what comes too late: a verb can wait for its turn, or for a store, until the daemon has ended.
    pub(crate) fn is_running(&self, what: impl Display) -> Result<(), ApiError> {
        if !self.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        let hint = "try again when it is up";
        Err(ApiError::new(ErrorKind::Unavailable, what, "the daemon is stopping", hint))
    }

    /// Whether the state folder lacks the last change.
    pub(crate) fn unsaved(&self) -> bool {
        self.unsaved.load(Ordering::SeqCst)
    }

    /// What the state folder is to keep.
    pub(crate) fn stored(&self) -> Stored {
        let tables = self.read();
        let devices: Vec<DeviceAdd> = tables
            .devices
            .values()
            .filter_map(|entry| entry.asked.clone())
            .chain(tables.absent.iter().map(|absent| absent.asked.clone()))
            .collect();
        let exports = tables
            .exports
            .iter()
            .filter(|export| tables.outlives(&export.device))
            .map(|export| bowline_api::ExportAdd {
                device: export.device.clone(),
                kind: bowline_api::ExportKind::Nbd,
                address: export.address.clone(),
                read_only: export.read_only,
            })
            .chain(tables.absent_exports.clone())
            .collect();
        let hidden = tables
            .listeners
            .iter()
            .flat_map(|listener| {
                let address = (listener.address != self.nbd.address).then(|| listener.address.clone());
                listener
                    .hidden
                    .iter()
                    .filter(|device| tables.outlives(device))
                    .map(move |device| Hidden { device: device.clone(), address: address.clone() })
            })
            .chain(tables.hidden_later.clone())
            .collect();
        let plain = tables.snapshots.iter().filter(|snapshot| !snapshot.is_persistent());
        let plain_snapshots = plain.map(|snapshot| snapshot.name.clone()).collect();
        let persistent_snapshots = tables.snapshots.iter().filter_map(SnapshotEntry::document).collect();
        let tracker_sessions = tables.tracker_sessions();
        drop(tables);
        let events_reserved = self.events.reserve();
        Stored {
            persistent_snapshots,
            devices,
            exports,
            hidden,
            plain_snapshots,
            tracker_sessions,
            events_reserved,
            ..Stored::default()
        }
    }
}

impl Drop for Daemon {
    /// The tables are shared with what they hold (a listener serves from them), so they are emptied by hand, and before
    /// the queues end: those wait for the tasks of listeners and stores.
    fn drop(&mut self) {
        let servers: Vec<_> = self.write().listeners.iter_mut().filter_map(|one| one.server.take()).collect();
        drop(servers);
        let tables = std::mem::take(&mut *self.write());
        tables.devices.values().for_each(|entry| bowline_block::Store::close(&*entry.device));
        drop(tables);
    }
}
