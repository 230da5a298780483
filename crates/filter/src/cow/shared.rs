//! What all devices of a snapshot share: its name, its state and its diff storage.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bowline_block::{Error, ErrorKind, Result};
use uuid::Uuid;

use super::events::SnapshotEvents;
use super::store::DiffStorage;

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

/// See the module.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) storage: Arc<DiffStorage>,
    events: Arc<dyn SnapshotEvents>,
    failed: AtomicBool,
    reason: OnceLock<String>,
    told_low: AtomicBool,
    told_full: AtomicBool,
}

impl Shared {
    pub(crate) fn new(name: &str, storage: Arc<DiffStorage>, events: Arc<dyn SnapshotEvents>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            id: Uuid::new_v4(),
            storage,
            events,
            failed: AtomicBool::new(false),
            reason: OnceLock::new(),
            told_low: AtomicBool::new(false),
            told_full: AtomicBool::new(false),
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
        let first = self.reason.set(reason).is_ok();
        // Also by those who come second: when this returns, the snapshot has failed.
        self.failed.store(true, Ordering::SeqCst);
        if first {
            let reason = self.reason.get().map_or("", String::as_str);
            tracing::warn!(snapshot = self.name, reason, "snapshot failed");
            self.events.failed(&self.name, reason);
        }
    }

    pub(crate) fn state(&self) -> SnapshotState {
        match (self.is_active(), self.reason.get()) {
            (false, Some(reason)) => SnapshotState::Failed { reason: reason.clone() },
            _ => SnapshotState::Active,
        }
    }

    /// An error that says why, once it has failed.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_active() {
            return Ok(());
        }
        let reason = self.reason.get().map_or("", String::as_str);
        Err(Error::new(ErrorKind::Io, format!("snapshot {} failed: {reason}", self.name)))
    }

    pub(crate) fn low_space(&self, used: u64, limit: u64) {
        if !self.told_low.swap(true, Ordering::Relaxed) {
            self.events.low_space(&self.name, used, limit);
        }
    }

    pub(crate) fn no_space(&self) {
        if !self.told_full.swap(true, Ordering::Relaxed) {
            // Said in this order even when the worker is late.
            self.low_space(self.storage.used(), self.storage.limit());
            self.events.no_space(&self.name, self.storage.used(), self.storage.limit());
        }
    }

    pub(crate) fn grown(&self, size: u64) {
        self.events.grown(&self.name, size, self.storage.limit());
    }
}
