//! What a storage's users and its worker share, behind one lock.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::thread::ThreadId;

use bowline_block::Buf;

use super::super::segment::{SEGMENT_BYTES, Segment};
use super::super::shared::Shared;
use super::volume::{State, Trouble, Volume};

/// Full segments that may wait for their files: 16 MiB. Then writers hold.
pub(super) const BACKLOG_MAX: usize = 64;
/// Segments of touched memory that are kept ready, at first and at most.
pub(super) const READY_MIN: usize = 8;
pub(super) const READY_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Work {
    pub(super) volumes: Vec<State>,
    /// The volume that gave the last segment.
    pub(super) at: usize,
    /// Full segments on their way to their files.
    pub(super) queue: VecDeque<Arc<Segment>>,
    /// Segments the worker has taken from the queue and not yet done with.
    pub(super) writing: usize,
    pub(super) worker: Option<ThreadId>,
    pub(super) ready: Vec<Buf>,
    pub(super) ready_target: usize,
    pub(super) used: u32,
    /// How often segments were given back or added.
    pub(super) room_changes: u64,
    pub(super) tell_low: bool,
    /// The numbers when more than four fifths were in use first, since it was extended last: bytes in use, size.
    pub(super) crossed: Option<(u64, u64)>,
    /// The origin whose copy took the last segment.
    pub(super) origin: Option<Arc<str>>,
    pub(super) closed: bool,
    pub(super) disposed: bool,
    /// Nothing more is taken, whatever room there is.
    pub(super) failed: Option<Trouble>,
    /// What was being written then did not come to its end in time.
    pub(super) given_up: bool,
    pub(super) waiting: Vec<Waker>,
    pub(super) owners: Vec<Weak<Shared>>,
    /// Older snapshots that read what is preserved here.
    pub(super) readers: Vec<Weak<Shared>>,
}

impl Work {
    pub(super) fn backlog(&self) -> usize {
        self.queue.len() + self.writing
    }

    /// Segments it may have as things are.
    pub(super) fn places(&self) -> u64 {
        self.volumes.iter().map(|state| u64::from(state.usable)).sum()
    }

    /// Bytes that files, devices and ranges have.
    pub(super) fn size(&self) -> u64 {
        let of_one = |state: &State| match state.volume.medium() {
            None => u64::from(state.next) * SEGMENT_BYTES,
            Some(medium) if state.volume.growth.is_some() => medium.size(),
            Some(_) => u64::from(state.volume.places) * SEGMENT_BYTES,
        };
        self.volumes.iter().map(of_one).sum()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        u64::from(self.used) * SEGMENT_BYTES
    }

    pub(super) fn has_place(&self) -> bool {
        self.volumes.iter().any(State::has_place)
    }

    /// A place for a segment, first where the last one was.
    pub(super) fn take_place(&mut self) -> Option<(Arc<Volume>, u32)> {
        for _ in 0..self.volumes.len() {
            if let Some(state) = self.volumes.get_mut(self.at)
                && let Some(place) = state.take()
            {
                self.used += 1;
                return Some((state.volume.clone(), place));
            }
            self.at = (self.at + 1) % self.volumes.len();
        }
        None
    }

    pub(super) fn give_back_place(&mut self, place: u32) {
        self.used -= 1;
        self.room_changes += 1;
        let after = self.volumes.partition_point(|state| state.volume.first <= place);
        if let Some(state) = after.checked_sub(1).and_then(|at| self.volumes.get_mut(at)) {
            state.give_back(place);
        }
    }

    /// Why there is no more, where it is not the limit.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.failed.as_ref().or_else(|| self.volumes.iter().find_map(|state| state.broken.as_ref()))
    }

    /// Why a file could not grow.
    pub(super) fn stunted(&self) -> Option<&Trouble> {
        self.volumes.iter().find_map(|state| state.stunted.as_ref()).map(|(_, trouble)| trouble)
    }

    /// Keeps touched memory for its next use, or gives it back as surplus.
    pub(super) fn keep(&mut self, buf: Buf) -> Option<Buf> {
        if self.ready.len() >= READY_MAX || self.closed {
            return Some(buf);
        }
        self.ready.push(buf);
        None
    }

    pub(super) fn owners(&self) -> Vec<Arc<Shared>> {
        self.owners.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn take_waiting(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiting)
    }
}

pub(super) fn wake(waiting: Vec<Waker>) {
    waiting.into_iter().for_each(Waker::wake);
}
