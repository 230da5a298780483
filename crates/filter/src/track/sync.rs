//! The atomics of the live map; under the `shuttle` feature, those of a randomised scheduler.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::atomic::{AtomicU64, Ordering, fence};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder panicked is still a lock: what it guards here is valid between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
