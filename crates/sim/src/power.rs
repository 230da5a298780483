//! One switch for everything that loses power at one instant.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The power of several simulated things, disks and folders, and the one order of what happened to them.
///
/// Everything that happens has a *moment*, 1 being the first. A test runs once and then cuts all of them at each moment
/// from 0 to [`PowerSwitch::now`]: the cut at *m* comes behind what has moment *m*.
#[derive(Clone, Default)]
pub struct PowerSwitch(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    off: bool,
    now: u64,
}

impl PowerSwitch {
    /// Power, on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Something happens: its moment. `None` when the power is off and nothing can happen.
    pub fn tick(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.off {
            return None;
        }
        state.now += 1;
        Some(state.now)
    }

    /// The moment of what happened last. Whatever is known to be done now was done by then.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.lock().now
    }

    /// Turns the power off, for ever.
    pub fn off(&self) {
        self.lock().off = true;
    }

    /// Whether there is power.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.lock().off
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
