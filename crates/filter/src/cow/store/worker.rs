//! The worker of a diff storage.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bowline_block::{Buf, Error, Result};

use super::{Content, Inner, READY_MIN, SEGMENT_BYTES, Segment};

/// After how long without a request the storage keeps no more memory ready than at first.
const IDLE: Duration = Duration::from_secs(2);

enum Job {
    TellLow,
    Touch,
    Write(Arc<Segment>),
    Grow(u64),
    /// Memory that a burst has left behind.
    Trim(Vec<Buf>),
    End,
}

/// Starts the worker; it ends when the storage is closed.
pub(super) fn start(inner: Arc<Inner>) -> Result<()> {
    let work = move || {
        let mut written = 0;
        loop {
            match inner.next_job() {
                Job::TellLow => inner.tell_low(),
                Job::Touch => inner.touch(),
                Job::Grow(size) => inner.grow(size),
                Job::Trim(surplus) => drop(surplus),
                Job::Write(segment) => {
                    inner.write(&segment, written);
                    written += 1;
                }
                Job::End => return,
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
            let wanted = work.ready_target.min((self.places - work.used) as usize);
            if let Some(size) = self.file_to_grow(work.next_place).filter(|_| work.failed.is_none()) {
                return Job::Grow(size);
            }
            if let Some(segment) = work.queue.pop_front() {
                work.writing = true;
                return Job::Write(segment);
            }
            // Last, because writing gives touched memory back too.
            if work.ready.len() < wanted {
                return Job::Touch;
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
        let (owners, used) = {
            let work = self.work();
            (work.owners(), u64::from(work.used) * SEGMENT_BYTES)
        };
        owners.iter().for_each(|owner| owner.low_space(used, self.spec.limit));
    }

    fn touch(&self) {
        let buf = fresh_buf();
        let surplus = self.work().keep(buf);
        drop(surplus);
    }

    /// The size the file is to have, when that is more than it has: half a step ahead of what is in use.
    fn file_to_grow(&self, places: u32) -> Option<u64> {
        let file = self.file.as_ref()?;
        let limit = u64::from(self.places) * SEGMENT_BYTES;
        let wanted = (u64::from(places) * SEGMENT_BYTES + self.spec.step / 2).min(limit);
        let size = file.size();
        (wanted > size)
            .then(|| (size + (wanted - size).div_ceil(self.spec.step) * self.spec.step).min(self.spec.limit))
    }

    fn grow(&self, size: u64) {
        let Some(file) = &self.file else { return };
        match file.grow(size) {
            Ok(()) => {
                let owners = self.work().owners();
                owners.iter().for_each(|owner| owner.grown(size));
            }
            Err(error) => self.fail(&format!("cannot grow {} to {size} bytes: {error}", file.path.display())),
        }
    }

    /// Writes a full segment to its place and gives its memory back.
    fn write(&self, segment: &Segment, number: u64) {
        let Some(file) = &self.file else { return };
        let _ = number;
        let result = if segment.is_unused() {
            Ok(())
        } else {
            #[cfg(test)]
            let planned = self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
            #[cfg(test)]
            let before = planned.map_or(Ok(()), |faults| faults(number));
            #[cfg(not(test))]
            let before = Ok(());
            before.and_then(|()| {
                // Only read-locked: image readers go on from memory while this may be stuck.
                match &*segment.content.read().unwrap_or_else(PoisonError::into_inner) {
                    Content::Memory(buf) => file.write(buf, segment.offset()),
                    Content::Stored => Ok(()),
                }
            })
        };
        if let Err(error) = result {
            self.work().writing = false;
            self.fail(&format!("cannot write to {}: {error}", file.path.display()));
            return;
        }
        let content = {
            let mut content = segment.content.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *content, Content::Stored)
        };
        let mut work = self.work();
        work.writing = false;
        let surplus = match content {
            Content::Memory(buf) => work.keep(buf),
            Content::Stored => None,
        };
        let waiting = std::mem::take(&mut work.waiting);
        drop(work);
        drop(surplus);
        waiting.into_iter().for_each(std::task::Waker::wake);
    }

    /// Nothing more is taken. What is here can still be read: segments that were not written stay in memory.
    fn fail(&self, reason: &str) {
        let mut work = self.work();
        work.failed.get_or_insert_with(|| reason.to_owned());
        let queue = std::mem::take(&mut work.queue);
        let waiting = std::mem::take(&mut work.waiting);
        let owners = work.owners();
        drop(work);
        // The last reference to a segment may be the last to the storage, so they go without the lock.
        drop(queue);
        owners.iter().for_each(|owner| owner.fail(reason.to_owned()));
        waiting.into_iter().for_each(std::task::Waker::wake);
    }
}
