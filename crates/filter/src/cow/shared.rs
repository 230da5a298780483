//! What all devices of a snapshot share: its name, its state and its diff storage.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bowline_block::{Error, ErrorKind, Result};
use uuid::Uuid;

use super::events::{Cause, Failure, SnapshotEvents, Space};
use super::journal::Record;
use super::keeper::Keeper;
use super::store::{DiffStorage, Trouble};

/// How long writers wait for room when nothing else is said.
pub const HOLD_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// What happens when diff storage cannot take the next copy: it is full, broken or stuck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// The snapshot fails, and writers go on.
    #[default]
    Drop,
    /// Writers wait for room: the storage is extended, or snapshots are removed. Then the snapshot fails.
    Hold {
        /// How long, from the first that waits.
        timeout: Duration,
    },
}

/// Whether a snapshot's images can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// The images are exact.
    Active,
    /// The images answer EIO.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What a persistent snapshot has besides.
#[derive(Default)]
pub(crate) struct Durable {
    /// The journals of its devices, and its epoch in each.
    journals: Mutex<Vec<(Arc<Keeper>, u64)>>,
    /// Who waits for its end to be on record.
    waiting: Mutex<Vec<Waker>>,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) storage: Arc<DiffStorage>,
    /// The names of its devices.
    pub(crate) devices: Vec<String>,
    pub(crate) on_full: OnFull,
    events: Arc<dyn SnapshotEvents>,
    failed: AtomicBool,
    reason: OnceLock<String>,
    /// How its end is made durable, if it is persistent.
    pub(crate) durable: Option<Durable>,
    me: Weak<Self>,
    told_low: AtomicBool,
    told_full: AtomicBool,
    /// The devices that were told to be gone.
    told_gone: Mutex<Vec<String>>,
    /// Writers that wait for room, and since when the first of them does.
    waiting: Mutex<Option<Waiting>>,
}

#[derive(Clone, Copy)]
struct Waiting {
    since: Instant,
    writers: usize,
    /// Whether that was told since room came last.
    told: bool,
}

/// A writer that waits for room.
pub(crate) struct WaitsForRoom<'a> {
    snapshot: &'a Shared,
    /// How long it may.
    pub(crate) left: Duration,
}

impl Drop for WaitsForRoom<'_> {
    fn drop(&mut self) {
        let mut waiting = self.snapshot.waiting();
        *waiting =
            waiting.and_then(|one| (one.writers > 1).then(|| Waiting { writers: one.writers - 1, ..one }));
    }
}

impl Shared {
    pub(crate) fn new(
        (name, id): (&str, Uuid),
        devices: Vec<String>,
        storage: Arc<DiffStorage>,
        on_full: OnFull,
        events: Arc<dyn SnapshotEvents>,
        persistent: bool,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            name: name.to_owned(),
            id,
            storage,
            devices,
            on_full,
            events,
            failed: AtomicBool::new(false),
            reason: OnceLock::new(),
            durable: persistent.then(Durable::default),
            me: me.clone(),
            told_low: AtomicBool::new(false),
            told_full: AtomicBool::new(false),
            told_gone: Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    /// Whether old contents are still to be preserved for it. A writer that reads `false` may overwrite without a copy,
    /// and an image reader that saw such a write reads `false` too: both loads are sequentially consistent.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        !self.failed.load(Ordering::SeqCst)
    }

    /// The end of the snapshot's promise. Only the first reason counts.
    pub(crate) fn fail(&self, reason: String) {
        self.fail_for(Trouble { reason, cause: None });
    }

    /// The same, with what was behind it.
    pub(crate) fn fail_for(&self, trouble: Trouble) {
        let Trouble { reason, cause } = trouble;
        if self.end(reason) {
            let reason = self.reason.get().map_or("", String::as_str);
            tracing::warn!(snapshot = self.name, reason, "snapshot failed");
            let (used, limit) = (self.storage.used(), self.storage.limit());
            let failure = Failure { devices: &self.devices, reason, cause, used, limit };
            self.events.failed(&self.name, &failure);
        }
    }

    /// The same for a snapshot that is about to be removed: nobody is told. Whether this was the first reason.
    pub(crate) fn end(&self, reason: String) -> bool {
        let first = self.reason.set(reason).is_ok();
        match &self.durable {
            // Also by those who come second: when this returns, the snapshot has failed.
            None => self.failed.store(true, Ordering::SeqCst),
            Some(durable) if first => self.record_end(durable),
            Some(_) => {}
        }
        if first {
            self.storage.wake();
        }
        first
    }

    /// A persistent snapshot stays in the way of writers until it is on stable storage that it failed: else it would come
    /// back after a crash without what they overwrote.
    fn record_end(&self, durable: &Durable) {
        let journals = lock(&durable.journals).clone();
        if journals.is_empty() {
            return self.is_on_record();
        }
        let reason = self.reason.get().cloned().unwrap_or_default();
        for (keeper, epoch) in journals {
            let record = Record::Failed { epoch, reason: reason.clone() };
            let me = self.me.clone();
            // One of its journals is enough: it comes back only if all say that it is good.
            keeper.journal.commit(Vec::new(), vec![record]).then(move |_| {
                if let Some(me) = me.upgrade() {
                    me.is_on_record();
                }
            });
        }
    }

    fn is_on_record(&self) {
        self.failed.store(true, Ordering::SeqCst);
        if let Some(durable) = &self.durable {
            let waiting = std::mem::take(&mut *lock(&durable.waiting));
            waiting.into_iter().for_each(Waker::wake);
        }
        self.storage.wake();
    }

    /// Whether it is persistent, has failed, and that is not on record yet.
    pub(crate) fn is_doomed(&self) -> bool {
        self.durable.is_some() && self.is_active() && self.reason.get().is_some()
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.durable.is_some()
    }

    /// Waits until its end is on record.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(|cx| {
            let Some(durable) = self.durable.as_ref().filter(|_| self.is_active()) else {
                return Poll::Ready(());
            };
            let mut waiting = lock(&durable.waiting);
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            drop(waiting);
            if self.is_active() { Poll::Pending } else { Poll::Ready(()) }
        })
    }

    /// Its end cannot be recorded and writers have waited long enough (I1).
    pub(crate) fn give_up(&self) {
        tracing::error!(
            snapshot = self.name,
            "failed, and that cannot be recorded: after a crash it must not be believed"
        );
        self.is_on_record();
    }

    /// Where it is recorded from now on that it failed.
    pub(crate) fn kept_by(&self, keeper: &Arc<Keeper>, epoch: u64) {
        let Some(durable) = &self.durable else { return };
        lock(&durable.journals).push((keeper.clone(), epoch));
        // Failed on its way here.
        if let Some(reason) = self.reason.get() {
            let record = Record::Failed { epoch, reason: reason.clone() };
            keeper.journal.commit(Vec::new(), vec![record]);
        }
    }

    /// It is removed: no journal keeps it any more.
    pub(crate) fn not_kept(&self) {
        if let Some(durable) = &self.durable {
            lock(&durable.journals).clear();
        }
    }

    pub(crate) fn state(&self) -> SnapshotState {
        match (self.is_active() && !self.is_doomed(), self.reason.get()) {
            (false, Some(reason)) => SnapshotState::Failed { reason: reason.clone() },
            _ => SnapshotState::Active,
        }
    }

    /// An error that says why, once it has failed.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_active() && !self.is_doomed() {
            return Ok(());
        }
        let reason = self.reason.get().map_or("", String::as_str);
        Err(Error::new(ErrorKind::Io, format!("snapshot {} failed: {reason}", self.name)))
    }

    /// Whether writers wait for room, instead of the snapshot failing.
    pub(crate) fn holds(&self) -> bool {
        self.on_full != OnFull::Drop
    }

    /// A writer that has waited for `waited` already waits for room, as long as this is kept.
    pub(crate) fn wait_begins(&self, device: &str, waited: Duration) -> WaitsForRoom<'_> {
        let timeout = match self.on_full {
            OnFull::Hold { timeout } => timeout,
            OnFull::Drop => Duration::ZERO,
        };
        let before = {
            let mut waiting = self.waiting();
            let first = || Waiting { since: Instant::now(), writers: 0, told: false };
            let before = waiting.unwrap_or_else(first);
            *waiting = Some(Waiting { writers: before.writers + 1, told: true, ..before });
            before
        };
        if !before.told {
            self.events.holding(&self.name, &self.space(Some(device), None), timeout);
        }
        WaitsForRoom { snapshot: self, left: timeout.saturating_sub(before.since.elapsed().max(waited)) }
    }

    /// There is room: time begins anew for all who still wait.
    pub(crate) fn room_came(&self) {
        if let Some(waiting) = &mut *self.waiting() {
            (waiting.since, waiting.told) = (Instant::now(), false);
        }
    }

    /// Whether writers wait for room now.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting().is_some()
    }

    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn writers_waiting(&self) -> usize {
        self.waiting().map_or(0, |waiting| waiting.writers)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its storage broke, while that origin was written to.
    pub(crate) fn store_broke(&self, trouble: &Trouble, device: Option<&str>) {
        if self.holds() {
            let Trouble { reason, cause } = trouble;
            tracing::warn!(
                snapshot = self.name,
                device,
                reason,
                "diff storage broke; writers that need it wait"
            );
            self.no_space(device, *cause);
        } else {
            self.fail_for(trouble.clone());
        }
    }

    fn space<'a>(&self, device: Option<&'a str>, cause: Option<Cause>) -> Space<'a> {
        let Self { storage, .. } = self;
        Space { device, used: storage.used(), limit: storage.limit(), size: storage.size(), cause }
    }

    pub(crate) fn low_space(&self, device: Option<&str>) {
        if !self.told_low.swap(true, Ordering::Relaxed) {
            let now = self.space(device, None);
            let (used, size) = self.storage.crossed().unwrap_or((now.used, now.size));
            self.events.low_space(&self.name, &Space { used, size, ..now });
        }
    }

    pub(crate) fn no_space(&self, device: Option<&str>, cause: Option<Cause>) {
        if !self.told_full.swap(true, Ordering::Relaxed) {
            // Said in this order even when the worker is late.
            self.low_space(device);
            self.events.no_space(&self.name, &self.space(device, cause));
        }
    }

    pub(crate) fn grown(&self, device: Option<&str>) {
        self.events.grown(&self.name, &self.space(device, None));
    }

    /// Its storage has more room than before: what was told of it may be told again.
    pub(crate) fn extended(&self) {
        self.told_low.store(false, Ordering::Relaxed);
        self.told_full.store(false, Ordering::Relaxed);
    }

    /// One of its devices is not there any more.
    pub(crate) fn device_gone(&self, device: &str, cause: Option<Cause>) {
        let mut told = self.told_gone.lock().unwrap_or_else(PoisonError::into_inner);
        if told.iter().any(|one| one == device) {
            return;
        }
        told.push(device.to_owned());
        drop(told);
        self.events.device_gone(&self.name, device, cause);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
