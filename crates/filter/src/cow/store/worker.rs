//! The worker of a diff storage.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bowline_block::{Buf, Error, Result};

use super::file::StoreFile;
use super::{Content, Inner, READY_MIN, SEGMENT_BYTES, Segment};

/// Segments written before one sync, at most: 8 MiB. Large, because a sync is dear whatever it covers; smaller than the
/// backlog, so that writers go on while it runs.
const BATCH_MAX: usize = 32;

/// After how long without a request the storage keeps no more memory ready than at first.
const IDLE: Duration = Duration::from_secs(2);

enum Job {
    TellLow,
    Touch,
    Write(Vec<Arc<Segment>>),
    Grow(u64),
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
                Job::Grow(size) => inner.grow(size),
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
            if !work.queue.is_empty() {
                let count = work.queue.len().min(BATCH_MAX);
                work.writing = count;
                return Job::Write(work.queue.drain(..count).collect());
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

    /// Writes full segments to their places and gives their memory back, once none of it can be lost any more.
    fn write(&self, batch: &[Arc<Segment>], number: u64) {
        let Some(file) = &self.file else { return };
        let written =
            batch.iter().zip(number..).try_for_each(|(segment, nth)| self.write_one(file, segment, nth));
        if let Err(error) = written.and_then(|()| self.sync(file)) {
            // All of them stay in memory: of those that were written nobody knows what can still be read.
            self.work().writing = 0;
            self.fail(&format!("cannot write to {}: {error}", file.path.display()));
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
        let waiting = std::mem::take(&mut work.waiting);
        drop(work);
        drop(surplus);
        waiting.into_iter().for_each(std::task::Waker::wake);
    }

    fn write_one(&self, file: &StoreFile, segment: &Segment, number: u64) -> io::Result<()> {
        if segment.is_unused() {
            return Ok(());
        }
        let _ = number;
        #[cfg(test)]
        self.planned(|faults| faults.write.clone(), number)?;
        // Only read-locked: image readers go on from memory while this may be stuck.
        match &*segment.content.read().unwrap_or_else(PoisonError::into_inner) {
            Content::Memory(buf) => file.write(buf, segment.offset()),
            Content::Stored => Ok(()),
        }
    }

    fn sync(&self, file: &StoreFile) -> io::Result<()> {
        #[cfg(test)]
        self.planned(|faults| faults.sync.clone(), 0)?;
        file.sync()
    }

    /// The storage is closed: its file goes.
    fn dispose(&self) {
        if let Some(file) = &self.file {
            #[cfg(test)]
            let _ = self.planned(|faults| faults.dispose.clone(), 0);
            file.dispose();
        }
        self.work().disposed = true;
        self.gone.notify_all();
    }

    #[cfg(test)]
    fn planned(
        &self,
        which: impl FnOnce(&super::Faults) -> Option<super::Fault>,
        number: u64,
    ) -> io::Result<()> {
        let planned = which(&self.faults.lock().unwrap_or_else(PoisonError::into_inner));
        planned.map_or(Ok(()), |fault| fault(number))
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
