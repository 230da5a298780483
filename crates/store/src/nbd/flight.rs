//! Calls that have been sent, by the cookie their replies will bear.

use std::time::Instant;

use bowline_block::{Error, Result};
use bowline_nbd::{Command, Cookie, ReadProgress};

use super::shared::Call;

/// Calls at the server at once.
pub(super) const IN_FLIGHT_MAX: usize = 128;

/// A call at the server.
pub(super) struct Flight {
    pub(super) cookie: Cookie,
    pub(super) command: Command,
    /// `None` once it has timed out: its reply is still awaited, and thrown away.
    pub(super) call: Option<Call>,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) read: ReadProgress,
    /// Part of a read has come, and the buffer holds nothing of an earlier user any more.
    pub(super) cleared: bool,
    pub(super) failure: Option<Error>,
    /// Its reply came before its payload was all sent.
    pub(super) early: Option<Result<()>>,
    /// For a flush: the changes it covers.
    pub(super) covers: u64,
    pub(super) sent: Instant,
}

/// The calls at the server.
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// The upper half of the next cookie, so that a cookie is not used again soon.
    epoch: u32,
}

impl Flights {
    pub(super) fn new() -> Self {
        let slots = std::iter::repeat_with(|| None).take(IN_FLIGHT_MAX).collect();
        Self { slots, free: (0..IN_FLIGHT_MAX).rev().collect(), epoch: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == IN_FLIGHT_MAX
    }

    /// Takes a call on board, where there is room.
    pub(super) fn put(&mut self, call: Call, covers: u64) -> Option<usize> {
        let slot = self.free.pop()?;
        self.epoch = self.epoch.wrapping_add(1);
        let length = u32::try_from(call.data.len()).unwrap_or(u32::MAX);
        let flight = Flight {
            cookie: Cookie(u64::from(self.epoch) << 32 | slot as u64),
            command: call.command,
            offset: call.range.start(),
            length,
            read: ReadProgress::new(call.range.start(), length),
            call: Some(call),
            cleared: false,
            failure: None,
            early: None,
            covers,
            sent: Instant::now(),
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(flight);
        }
        Some(slot)
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Flight> {
        self.slots.get_mut(slot).and_then(Option::as_mut)
    }

    /// The flight a reply is for.
    pub(super) fn find(&mut self, cookie: Cookie) -> Option<(usize, &mut Flight)> {
        let slot = usize::try_from(cookie.0 & 0xffff_ffff).ok()?;
        let flight = self.get_mut(slot)?;
        (flight.cookie == cookie).then_some((slot, flight))
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<Flight> {
        let flight = self.slots.get_mut(slot).and_then(Option::take)?;
        self.free.push(slot);
        Some(flight)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Flight)> {
        self.slots.iter_mut().enumerate().filter_map(|(slot, flight)| Some((slot, flight.as_mut()?)))
    }

    /// All calls, for a connection that has ended.
    pub(super) fn take_calls(&mut self) -> Vec<Call> {
        self.slots.iter_mut().filter_map(|flight| flight.take()?.call).collect()
    }
}
