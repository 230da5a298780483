//! The thread that packs and merges what is closed.

use std::sync::{Arc, PoisonError};

use super::epochs::Member;
use super::sync::lock;
use super::tracker::Inner;

/// Starts the worker. Without a thread, sets are packed by whoever needs them.
pub(crate) fn start(inner: &Arc<Inner>) {
    let worker = inner.clone();
    let started = std::thread::Builder::new().name("track".to_owned()).spawn(move || worker.work());
    if let Err(error) = started {
        tracing::warn!(device = %inner.device, %error, "no thread to pack changed-block sets");
    }
}

impl Inner {
    fn work(&self) {
        loop {
            let unpacked = {
                let mut history = lock(&self.history);
                loop {
                    let unpacked = history.chain.unpacked();
                    if history.stopping || !unpacked.is_empty() {
                        break unpacked;
                    }
                    history = self.bell.wait(history).unwrap_or_else(PoisonError::into_inner);
                }
            };
            if unpacked.is_empty() {
                return;
            }
            for set in unpacked {
                set.get();
            }
            self.merge(u64::MAX);
        }
    }

    /// Brings closed sets back into their bounds.
    pub(crate) fn merge(&self, settled: u64) {
        loop {
            let surplus = lock(&self.history).chain.surplus(settled, self.set_limits);
            let Some(pairs) = surplus else { return };
            for (older, newer) in pairs {
                let merged = Member::merged(&older, &newer);
                lock(&self.history).chain.replace(&older, merged);
            }
        }
    }
}
