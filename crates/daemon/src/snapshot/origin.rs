//! What is kept of a device beside its stack: the history of its snapshots, and its tracker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bowline_api::Tracking;
use bowline_filter::cow;
use bowline_filter::track::Tracker;

use crate::tracking::Tracked;

/// Shared by all copies of a device's entry.
#[derive(Clone, Default)]
pub(crate) struct OriginState(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// As long as there is a snapshot of it.
    history: Option<Arc<cow::History>>,
    /// As long as it is tracked.
    tracked: Option<Tracked>,
}

impl OriginState {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn history(&self) -> Option<Arc<cow::History>> {
        self.lock().history.clone().filter(|history| !history.is_over())
    }

    pub(crate) fn keep(&self, history: Option<Arc<cow::History>>) {
        self.lock().history = history;
    }

    /// Its tracker, if it is tracked.
    pub(crate) fn tracker(&self) -> Option<Arc<Tracker>> {
        self.lock().tracked.as_ref().map(|tracked| tracked.tracker.clone())
    }

    pub(crate) fn tracked(&self) -> Option<Tracked> {
        self.lock().tracked.clone()
    }

    pub(crate) fn track(&self, tracked: Option<Tracked>) {
        self.lock().tracked = tracked;
    }

    pub(crate) fn tracking(&self) -> Tracking {
        if let Some(tracked) = self.tracked() {
            return tracked.describe();
        }
        self.history().map_or_else(Tracking::default, |history| Tracking {
            generation: Some(history.generation()),
            epoch: Some(history.last_epoch() + 1),
            granularity: Some(cow::GRANULE_BYTES),
            ..Tracking::default()
        })
    }

    /// Memory of the index, bits included.
    pub(crate) fn index_bytes(&self) -> u64 {
        self.history().map_or(0, |history| {
            let memory = history.memory();
            memory.index_bytes + memory.bit_bytes
        })
    }

    /// Memory of the tracker.
    pub(crate) fn tracker_bytes(&self) -> u64 {
        self.tracker().map_or(0, |tracker| tracker.memory_bytes())
    }
}
