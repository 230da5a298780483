//! The thread of a journal: takes what was gathered, and makes it durable.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use bowline_block::Result;
use bowline_state::StateFile;

#[cfg(test)]
use super::Damage;
use super::{AHEAD_BYTES, COMPACT_MIN, GROUP_BYTES_MAX, GROUP_RECORDS_MAX, Inner, Job, Write, compact, gone};
use crate::cow::journal::log::FrameBuilder;
use crate::cow::journal::record::Record;
use crate::cow::journal::ticket::Outcome;
use crate::cow::store::Medium;

/// What the thread alone knows.
pub(super) struct Committer {
    pub(super) inner: Arc<Inner>,
    pub(super) file: Arc<dyn StateFile>,
    pub(super) end: u64,
    /// Up to here the file is written, with zeroes behind the end.
    pub(super) zeroed: u64,
    pub(super) sequence: u64,
    /// Bytes of the file after the last compaction.
    pub(super) live: u64,
    /// Whether something was said since then that makes other records dead.
    pub(super) may_have_dead: bool,
    /// The end when a compaction began that still goes on.
    pub(super) compacting: Option<u64>,
}

impl Committer {
    pub(super) fn run(&mut self) {
        while let Some(group) = self.next_group() {
            let compacted = self.inner.lock().compacted.take();
            if let Some(done) = compacted
                && let Err(error) = self.take_over(done)
            {
                self.inner.lock().jobs.extend(group);
                self.inner.doom(&format!("{} cannot be replaced: {error}", self.inner.name));
            } else if !group.is_empty() {
                self.commit(group);
            }
            self.inner.lock().in_flight.clear();
            self.compact_if_due();
        }
    }

    /// Waits for the next group; `None` at the end.
    fn next_group(&self) -> Option<Vec<Job>> {
        let mut queue = self.inner.lock();
        loop {
            if queue.closed {
                let rest = std::mem::take(&mut queue.jobs);
                drop(queue);
                rest.into_iter()
                    .for_each(|job| job.ticket.tell(Outcome::NoJournal("it is closed".to_owned())));
                return None;
            }
            if queue.doomed.is_none() && (!queue.jobs.is_empty() || queue.compacted.is_some()) {
                break;
            }
            queue = self.inner.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let mut group = Vec::new();
        let (mut data, mut records) = (0, 0);
        while let Some(next) = queue.jobs.front() {
            data += next.writes.iter().map(|write| write.window.len() as u64).sum::<u64>();
            records += next.records.iter().map(Record::encoded_bytes).sum::<usize>();
            if !group.is_empty() && (data > GROUP_BYTES_MAX || records > GROUP_RECORDS_MAX) {
                break;
            }
            group.extend(queue.jobs.pop_front());
        }
        queue.in_flight = group.iter().map(|job: &Job| job.ticket.clone()).collect();
        Some(group)
    }

    fn commit(&mut self, group: Vec<Job>) {
        #[cfg(test)]
        if self.inner.has(Damage::RecordFirst) {
            let _ = self.append(&group.iter().collect::<Vec<_>>());
            self.store(&group);
            group.into_iter().for_each(|job| job.ticket.tell(Outcome::Durable));
            return;
        }
        let broken = self.store(&group);
        let without = |job: &Job| {
            let lacks = |(vault, _): &&(Arc<dyn Medium>, String)| {
                job.writes.iter().any(|write| Arc::ptr_eq(&write.vault, vault))
            };
            broken.iter().find(lacks).map(|(_, why)| why.clone())
        };
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for job in group {
            match without(&job) {
                None => good.push(job),
                Some(why) => bad.push((job, why)),
            }
        }
        bad.into_iter().for_each(|(job, why)| job.ticket.tell(Outcome::NoStore(why)));
        match self.append(&good.iter().collect::<Vec<_>>()) {
            Ok(()) => {
                let mut queue = self.inner.lock();
                queue.counts.commits += good.len() as u64;
                queue.counts.groups += 1;
                queue.counts.bytes = self.end;
                drop(queue);
                good.into_iter().for_each(|job| job.ticket.tell(Outcome::Durable));
            }
            // Told when that is marked.
            Err(error) => {
                let mut queue = self.inner.lock();
                queue.jobs.extend(good);
                drop(queue);
                self.inner.doom(&format!("{} cannot be written: {error}", self.inner.name));
            }
        }
    }

    /// Writes and syncs the data; the vaults that could not take theirs.
    fn store(&self, group: &[Job]) -> Vec<(Arc<dyn Medium>, String)> {
        let mut vaults: Vec<Arc<dyn Medium>> = Vec::new();
        let mut broken: Vec<(Arc<dyn Medium>, String)> = Vec::new();
        for write in merged(group.iter().flat_map(|job| &job.writes)) {
            if broken.iter().any(|(vault, _)| Arc::ptr_eq(vault, &write.vault)) {
                continue;
            }
            let put =
                write.source.lend(write.window.clone(), &mut |data| write.vault.write_at(write.at, data));
            if let Some(Err(error)) = put {
                broken.push((write.vault.clone(), error.to_string()));
            }
            if !vaults.iter().any(|vault| Arc::ptr_eq(vault, &write.vault)) {
                vaults.push(write.vault);
            }
        }
        #[cfg(test)]
        if self.inner.has(Damage::NoDataSync) {
            return broken;
        }
        for vault in vaults {
            if !broken.iter().any(|(other, _)| Arc::ptr_eq(other, &vault))
                && let Err(error) = vault.sync()
            {
                broken.push((vault, error.to_string()));
            }
        }
        broken
    }

    fn append(&mut self, jobs: &[&Job]) -> Result<()> {
        let mut frame = FrameBuilder::default();
        for record in jobs.iter().flat_map(|job| &job.records) {
            self.may_have_dead |= kills_others(record);
            if !frame.push(record) {
                let full = frame.finish(self.inner.header.generation, self.sequence);
                self.append_frame(&full)?;
                frame.push(record);
            }
        }
        if frame.is_empty() {
            return Ok(());
        }
        let last = frame.finish(self.inner.header.generation, self.sequence);
        self.append_frame(&last)
    }

    fn append_frame(&mut self, frame: &[u8]) -> Result<()> {
        let end = self.end + frame.len() as u64;
        if end > self.zeroed {
            // No space for more than the frame is no failure yet.
            let ahead = vec![0; usize::try_from(AHEAD_BYTES).unwrap_or(0)];
            if self.file.write_at(end, &ahead).is_ok() {
                self.zeroed = end + AHEAD_BYTES;
            }
        }
        self.file.write_at(self.end, frame)?;
        #[cfg(test)]
        let synced = if self.inner.has(Damage::NoRecordSync) { Ok(()) } else { self.file.sync() };
        #[cfg(not(test))]
        let synced = self.file.sync();
        synced?;
        self.end = end;
        self.sequence += 1;
        Ok(())
    }

    fn compact_if_due(&mut self) {
        if self.inner.lock().doomed.is_some() {
            return;
        }
        let due = self.may_have_dead && self.end > COMPACT_MIN && self.end > self.live.saturating_mul(2);
        if !due || self.compacting.is_some() {
            return;
        }
        let (inner, file) = (self.inner.clone(), self.file.clone());
        let (until, sequence) = (self.end, self.sequence);
        let work = move || {
            let done = compact::compact(&*inner.folder, &inner.name, &*file, until, sequence);
            let done = done.inspect_err(|error| {
                tracing::warn!(journal = inner.name, %error, "cannot be compacted");
            });
            inner.lock().compacted = Some(done.ok());
            inner.bell.notify_one();
        };
        let started = std::thread::Builder::new().name("journal-compaction".to_owned()).spawn(work);
        if started.is_ok() {
            self.compacting = Some(until);
            self.may_have_dead = false;
        }
    }

    /// The new file takes the place of the old one.
    fn take_over(&mut self, done: Option<compact::Compacted>) -> Result<()> {
        let Some(from) = self.compacting.take() else { return Ok(()) };
        // Not before it is as large again.
        let Some(done) = done.filter(|done| copy_tail(&*self.file, from..self.end, done).is_ok()) else {
            self.live = self.end;
            return Ok(());
        };
        // From here on an error leaves open which of the two will be found, so it must not pass.
        let mut file = self.inner.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.before = Some(std::mem::replace(&mut file.now, done.file.clone()));
        self.inner.folder.rename(&done.name, &self.inner.name)?;
        self.inner.folder.sync()?;
        file.before = None;
        drop(file);
        let end = done.end + (self.end - from);
        (self.file, self.live, self.end, self.zeroed) = (done.file, done.end, end, end);
        self.inner.lock().counts.compactions += 1;
        Ok(())
    }
}

fn copy_tail(old: &dyn StateFile, tail: Range<u64>, new: &compact::Compacted) -> Result<()> {
    let mut at = tail.start;
    while at < tail.end {
        let len = usize::try_from(tail.end - at).unwrap_or(usize::MAX).min(1 << 20);
        let mut bytes = vec![0; len];
        let got = old.read_at(at, &mut bytes)?;
        if got == 0 {
            return Err(gone("the journal's tail"));
        }
        new.file.write_at(new.end + (at - tail.start), bytes.get(..got).unwrap_or_default())?;
        at += got as u64;
    }
    new.file.sync()
}

/// Whether records before it may not count any more.
fn kills_others(record: &Record) -> bool {
    matches!(record, Record::Removed { .. } | Record::ImageWritten(_) | Record::ImageZero(_))
}

/// The writes in the order of their places, neighbours of one source in one piece.
fn merged<'a>(writes: impl Iterator<Item = &'a Write>) -> Vec<Write> {
    let mut writes: Vec<&Write> = writes.collect();
    writes.sort_by_key(|write| (Arc::as_ptr(&write.vault).cast::<()>().addr(), write.at));
    let mut merged: Vec<Write> = Vec::with_capacity(writes.len());
    for write in writes {
        if let Some(last) = merged.last_mut()
            && Arc::ptr_eq(&last.vault, &write.vault)
            && Arc::ptr_eq(&last.source, &write.source)
            && last.at + last.window.len() as u64 == write.at
            && last.window.end == write.window.start
        {
            last.window.end = write.window.end;
            continue;
        }
        merged.push(Write {
            vault: write.vault.clone(),
            at: write.at,
            source: write.source.clone(),
            window: write.window.clone(),
        });
    }
    merged
}
