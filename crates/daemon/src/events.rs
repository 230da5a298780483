//! What happened, in order, for whoever asks later or waits for it now.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bowline_api::{Event, EventId, EventKind, Timestamp};

/// Events kept; older ones are forgotten.
const KEPT: usize = 10_000;

/// Numbers that are set aside at a time. A crash loses those that were not used: no number is used twice, and a number
/// that somebody knows is never beyond the next one.
const RESERVE: u64 = 1 << 16;

/// The events of this daemon's life.
#[derive(Default)]
pub(crate) struct EventLog {
    log: Mutex<Log>,
    added: Condvar,
    /// Who saves the state.
    keeper: OnceLock<SyncSender<()>>,
}

#[derive(Default)]
struct Log {
    kept: VecDeque<Event>,
    last: u64,
    /// Numbers up to this one are noted as used, or on their way to be.
    reserved: u64,
}

/// An event that is being put together.
pub(crate) struct Draft<'a> {
    log: &'a EventLog,
    event: Event,
}

impl EventLog {
    /// Begins an event; [`Draft::post`] adds it.
    pub(crate) fn draft(&self, kind: EventKind, message: impl Into<String>) -> Draft<'_> {
        let event = Event {
            id: EventId(0),
            time: Timestamp::now(),
            kind,
            device: None,
            snapshot: None,
            message: message.into(),
            numbers: BTreeMap::new(),
        };
        Draft { log: self, event }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest `max` kept events after `since`.
    pub(crate) fn since(&self, since: EventId, max: usize) -> Vec<Event> {
        let log = self.lock();
        log.after(since, max)
    }

    /// As [`EventLog::since`], waiting for one at most `limit`.
    pub(crate) fn wait(&self, since: EventId, max: usize, limit: Duration) -> Vec<Event> {
        let deadline = Instant::now() + limit;
        let mut log = self.lock();
        loop {
            let found = log.after(since, max);
            let left = deadline.saturating_duration_since(Instant::now());
            if !found.is_empty() || left.is_zero() {
                return found;
            }
            log = match self.added.wait_timeout(log, left) {
                Ok((log, _)) => log,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// From now on `keeper` is told what is to be saved.
    pub(crate) fn keep_with(&self, keeper: SyncSender<()>) {
        let _ = self.keeper.set(keeper);
    }

    /// Asks for the state to be saved soon. Never waits.
    pub(crate) fn wish_saved(&self) {
        if let Some(keeper) = self.keeper.get() {
            // Full: it will be.
            let _ = keeper.try_send(());
        }
    }

    /// Goes on behind the numbers of an earlier daemon.
    pub(crate) fn begin_after(&self, used: u64) {
        let mut log = self.lock();
        log.last = log.last.max(used);
    }

    /// The number that is to be noted as used: some ahead, for what happens until the next time.
    pub(crate) fn reserve(&self) -> u64 {
        let mut log = self.lock();
        log.reserved = log.last + RESERVE;
        log.reserved
    }

    /// The number of the last event.
    pub(crate) fn last(&self) -> u64 {
        self.lock().last
    }

    /// How many are kept, and how many can be.
    pub(crate) fn fill(&self) -> (usize, usize) {
        (self.lock().kept.len(), KEPT)
    }
}

impl Log {
    fn after(&self, since: EventId, max: usize) -> Vec<Event> {
        let from = self.kept.partition_point(|event| event.id <= since);
        self.kept.iter().skip(from).take(max).cloned().collect()
    }
}

impl Draft<'_> {
    pub(crate) fn device(mut self, name: impl Into<String>) -> Self {
        self.event.device = Some(name.into());
        self
    }

    pub(crate) fn snapshot(mut self, name: impl Into<String>) -> Self {
        self.event.snapshot = Some(name.into());
        self
    }

    pub(crate) fn number(mut self, name: &str, value: u64) -> Self {
        self.event.numbers.insert(name.to_owned(), value);
        self
    }

    /// Adds the event to the log and wakes who waits for one.
    pub(crate) fn post(self) {
        let Self { log: events, mut event } = self;
        let mut log = events.lock();
        log.last += 1;
        event.id = EventId(log.last);
        let (id, kind) = (log.last, event.kind);
        match kind {
            EventKind::DeviceFailed | EventKind::Failed | EventKind::NoSpace => {
                tracing::warn!(id, ?kind, "{}", event.message);
            }
            _ => tracing::info!(id, ?kind, "{}", event.message),
        }
        if log.kept.len() == KEPT {
            log.kept.pop_front();
        }
        log.kept.push_back(event);
        let low = log.last + RESERVE / 2 == log.reserved;
        drop(log);
        events.added.notify_all();
        if low {
            events.wish_saved();
        }
    }
}
