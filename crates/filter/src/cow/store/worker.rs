//! The worker of a diff storage.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bowline_block::{Buf, Error, ErrorKind, Result};

use super::medium::Medium;
use super::volume::{State, Volume};
use super::work::{READY_MIN, Work, wake};
use super::{Content, Inner, SEGMENT_BYTES, Segment, Trouble};

/// Segments written before one sync, at most: 8 MiB. Large, because a sync is dear whatever it covers; smaller than the
/// backlog, so that writers go on while it runs.
const BATCH_MAX: usize = 32;

/// After how long without a request the storage keeps no more memory ready than at first.
const IDLE: Duration = Duration::from_secs(2);

/// How often a file that could not grow for lack of space is tried again, while somebody waits.
const RETRY: Duration = Duration::from_millis(200);

enum Job {
    TellLow,
    Touch,
    Write(Vec<Arc<Segment>>),
    Grow(Arc<Volume>, u64),
    /// Memory that a burst has left behind.
    Trim(Vec<Buf>),
    End,
}

/// Starts the worker; it ends when the storage is closed.
pub(super) fn start(inner: Arc<Inner>) -> Result<()> {
    let work = move || {
        inner.work().worker = Some(std::thread::current().id());
        let mut written = 0;
        loop {
            match inner.next_job() {
                Job::TellLow => inner.tell_low(),
                Job::Touch => inner.touch(),
                Job::Grow(volume, size) => inner.grow(&volume, size),
                Job::Trim(surplus) => drop(surplus),
                Job::Write(batch) => {
                    inner.write(&batch, written);
                    written += batch.len() as u64;
                }
                Job::End => return inner.dispose(),
            }
        }
    };
    std::thread::Builder::new()
        .name("diff-storage".to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| Error::from_io("cannot start the diff storage's thread", error))
}

/// Memory of one segment, touched.
pub(super) fn fresh_buf() -> Buf {
    let mut buf = Buf::zeroed(usize::try_from(SEGMENT_BYTES).unwrap_or(0));
    // Zeroed memory may be the kernel's one page of zeroes until it is written to.
    for page in buf.chunks_mut(bowline_block::PAGE_BYTES) {
        if let Some(byte) = page.first_mut() {
            *byte = std::hint::black_box(0);
        }
    }
    buf
}

impl Work {
    /// The volume that is to grow, and the size it is to have.
    fn to_grow(&self) -> Option<(Arc<Volume>, u64)> {
        let due = |state: &State| match &state.stunted {
            None => true,
            Some((at, _)) => !self.waiting.is_empty() && at.elapsed() >= RETRY,
        };
        let healthy = self.volumes.iter().filter(|state| state.broken.is_none() && due(state));
        healthy
            .filter_map(|state| {
                // One that could not grow is asked for more than it has handed out.
                let more = u32::from(state.stunted.is_some());
                Some((state.volume.clone(), state.volume.to_grow(state.next.saturating_add(more))?))
            })
            .next()
    }

    /// Full segments of one medium, as many as are written at once.
    fn next_batch(&mut self) -> Vec<Arc<Segment>> {
        let mut batch: Vec<Arc<Segment>> = Vec::new();
        while let Some(next) = self.queue.front()
            && batch.len() < BATCH_MAX
            && batch.first().is_none_or(|first| first.volume.is_beside(&next.volume))
        {
            batch.extend(self.queue.pop_front());
        }
        self.writing = batch.len();
        batch
    }
}

impl Inner {
    fn next_job(&self) -> Job {
        let mut work = self.work();
        loop {
            if work.closed {
                return Job::End;
            }
            if work.tell_low {
                work.tell_low = false;
                return Job::TellLow;
            }
            if work.failed.is_none()
                && let Some((volume, size)) = work.to_grow()
            {
                return Job::Grow(volume, size);
            }
            if !work.queue.is_empty() {
                return Job::Write(work.next_batch());
            }
            let spare = usize::try_from(work.places().saturating_sub(u64::from(work.used)));
            let wanted = work.ready_target.min(spare.unwrap_or(usize::MAX));
            // Last, because writing gives touched memory back too.
            if work.ready.len() < wanted {
                return Job::Touch;
            }
            if work.stunted().is_some() && !work.waiting.is_empty() {
                work = self.bell.wait_timeout(work, RETRY).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if work.ready.len() <= READY_MIN {
                work = self.bell.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (again, idle) = self.bell.wait_timeout(work, IDLE).unwrap_or_else(PoisonError::into_inner);
            work = again;
            if idle.timed_out() {
                work.ready_target = READY_MIN;
                let keep = READY_MIN.min(work.ready.len());
                return Job::Trim(work.ready.split_off(keep));
            }
        }
    }

    fn tell_low(&self) {
        let (owners, origin) = {
            let work = self.work();
            (work.owners(), work.origin.clone())
        };
        owners.iter().for_each(|owner| owner.low_space(origin.as_deref()));
    }

    fn touch(&self) {
        let buf = fresh_buf();
        let surplus = self.work().keep(buf);
        drop(surplus);
    }

    fn grow(&self, volume: &Arc<Volume>, size: u64) {
        let Some(medium) = volume.medium() else { return };
        let grown = self.try_grow(&**medium, size);
        let mut work = self.work();
        let owners = work.owners();
        let origin = work.origin.clone();
        let Some(state) = work.volumes.iter_mut().find(|state| Arc::ptr_eq(&state.volume, volume)) else {
            return;
        };
        match grown {
            Ok(()) => {
                state.grown();
                work.room_changes += 1;
                let waiting = work.take_waiting();
                drop(work);
                owners.iter().for_each(|owner| owner.grown(origin.as_deref()));
                wake(waiting);
            }
            // What it has is still good, and there may be space later.
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                let known = state.stunted.is_some();
                state.stunt(Trouble::of(&error));
                drop(work);
                if !known {
                    tracing::warn!(%error, "diff storage goes on with what it has");
                }
            }
            Err(error) => {
                drop(work);
                self.fail(volume, &Trouble::of(&error));
            }
        }
    }

    fn try_grow(&self, medium: &dyn Medium, size: u64) -> Result<()> {
        #[cfg(test)]
        self.planned("grow", |faults| faults.grow.clone(), size)?;
        medium.grow(size)
    }

    /// Writes full segments of one medium to their places and gives their memory back, once none of it can be lost any
    /// more.
    fn write(&self, batch: &[Arc<Segment>], number: u64) {
        let Some(volume) = batch.first().map(|segment| &segment.volume) else { return };
        let Some(medium) = volume.medium() else { return };
        let written = batch
            .iter()
            .zip(number..)
            .try_for_each(|(segment, nth)| self.write_one(&**medium, segment, nth))
            .and_then(|()| self.sync(&**medium));
        if let Err(error) = written {
            // All of them stay in memory: of those that were written nobody knows what can still be read.
            self.work().writing = 0;
            self.fail(volume, &Trouble::of(&error));
            return;
        }
        let contents: Vec<Content> = batch
            .iter()
            .map(|segment| {
                let mut content = segment.content.write().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *content, Content::Stored)
            })
            .collect();
        let mut work = self.work();
        work.writing = 0;
        let surplus: Vec<Buf> = contents
            .into_iter()
            .filter_map(|content| match content {
                Content::Memory(buf) => work.keep(buf),
                Content::Stored => None,
            })
            .collect();
        let waiting = work.take_waiting();
        drop(work);
        drop(surplus);
        wake(waiting);
    }

    fn write_one(&self, medium: &dyn Medium, segment: &Segment, number: u64) -> Result<()> {
        // Once others wrote there, it is theirs.
        if segment.is_unused() || self.work().failed.is_some() {
            return Ok(());
        }
        // A journal has seen to it.
        if segment.is_committed() {
            return Ok(());
        }
        let _ = number;
        #[cfg(test)]
        self.planned("write to", |faults| faults.write.clone(), number)?;
        // Only read-locked: image readers go on from memory while this may be stuck.
        match &*segment.content.read().unwrap_or_else(PoisonError::into_inner) {
            Content::Memory(buf) => medium.write_at(segment.offset(), buf),
            Content::Stored => Ok(()),
        }
    }

    fn sync(&self, medium: &dyn Medium) -> Result<()> {
        #[cfg(test)]
        self.planned("write to", |faults| faults.sync.clone(), 0)?;
        medium.sync()
    }

    /// The storage is closed: its files go.
    fn dispose(&self) {
        #[cfg(test)]
        let _ = self.planned("give back", |faults| faults.dispose.clone(), 0);
        self.give_back();
        // Closed, too, before anybody hears of it: the next storage may be in the same place.
        let volumes = std::mem::take(&mut self.work().volumes);
        drop(volumes);
        self.work().disposed = true;
        self.gone.notify_all();
    }

    #[cfg(test)]
    fn planned(
        &self,
        what: &str,
        which: impl FnOnce(&super::Faults) -> Option<super::Fault>,
        number: u64,
    ) -> Result<()> {
        let planned = which(&self.faults.lock().unwrap_or_else(PoisonError::into_inner));
        let done = planned.map_or(Ok(()), |fault| fault(number));
        done.map_err(|error| Error::from_io(format!("cannot {what} {}", self.spec.kind.location()), error))
    }

    /// Nothing more is taken to that medium. What is here can still be read: segments that were not written stay in
    /// memory.
    fn fail(&self, volume: &Arc<Volume>, trouble: &Trouble) {
        let mut work = self.work();
        let beside = |other: &Arc<Volume>| Arc::ptr_eq(other, volume) || other.is_beside(volume);
        for state in work.volumes.iter_mut().filter(|state| beside(&state.volume)) {
            state.broken.get_or_insert_with(|| trouble.clone());
        }
        let lost: VecDeque<_>;
        (lost, work.queue) =
            std::mem::take(&mut work.queue).into_iter().partition(|segment| beside(&segment.volume));
        let waiting = work.take_waiting();
        let owners = work.owners();
        let origin = work.origin.clone();
        drop(work);
        // The last reference to a segment may be the last to the storage, so they go without the lock.
        drop(lost);
        owners.iter().for_each(|owner| owner.store_broke(trouble, origin.as_deref()));
        wake(waiting);
    }
}
