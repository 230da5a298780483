//! Reading the tables.
//!
//! Design notes: who reads twice on one thread waits for itself as soon as somebody else waits to write in between, as the
//! lock lets writers go first; then nothing moves ever again. It takes that writer to show, so a debug build looks for it
//! at each read.

use std::ops::Deref;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::tables::Tables;

#[cfg(debug_assertions)]
thread_local! {
    static IS_READING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The tables, as long as this lives. A thread has one at most.
pub(crate) struct Reading<'a>(RwLockReadGuard<'a, Tables>);

impl<'a> Reading<'a> {
    #[track_caller]
    pub(crate) fn begin(tables: &'a RwLock<Tables>) -> Self {
        #[cfg(debug_assertions)]
        debug_assert!(
            !IS_READING.replace(true),
            "this thread reads the tables already: hand them on instead"
        );
        Self(tables.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Deref for Reading<'_> {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.0
    }
}

#[cfg(debug_assertions)]
impl Drop for Reading<'_> {
    fn drop(&mut self) {
        IS_READING.set(false);
    }
}
