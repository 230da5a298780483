//! Tests of rollbacks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod basic;
mod crash;
mod format;
mod load;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use super::{Rollback, RollbackOptions, RollbackState};
use crate::cow::tests::support::*;

pub(super) const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn options() -> RollbackOptions {
    RollbackOptions { tracker: None, folder: None, queue: None, freeze: FREEZE }
}

pub(super) fn done(rollback: &Rollback) {
    let status = rollback.wait(LIMIT);
    assert_eq!(status.state, RollbackState::Done, "{status:?}");
    assert_eq!(status.done_bytes, status.total_bytes);
    assert!(rollback.pending().is_empty());
}

pub(super) fn reason(rollback: &Rollback) -> String {
    match rollback.wait(LIMIT).state {
        RollbackState::Failed { reason } => reason,
        other => panic!("it must fail, and is {other:?}"),
    }
}

/// Makes writes of a store wait, so that a rollback does not get on.
pub(super) struct Held(pub(super) Arc<TestStore>);

impl Held {
    pub(super) fn new(store: &Arc<TestStore>) -> Self {
        store.hold_writes(true);
        Self(store.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.hold_writes(false);
    }
}
