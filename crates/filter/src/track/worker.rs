//! The worker: packs and merges what is closed, and keeps header and sets on disk.

use std::sync::{Arc, PoisonError};

use bowline_block::{Error, ErrorKind, Result};
use uuid::Uuid;

use super::disk::record::Record;
use super::durable::{Durable, HeaderOrder};
use super::epochs::{ClosedSet, Member};
use super::fingerprint::Fingerprint;
use super::sync::{Ordering, lock};
use super::tracker::{History, Inner};

enum Task {
    Pack(Vec<Arc<ClosedSet>>),
    Header { order: HeaderOrder, number: u64 },
    Sets { generation: Uuid, members: Vec<Member> },
    Save(Fingerprint),
    Revoke,
    Stop,
}

/// Starts the threads of a tracker. Without them sets are packed by whoever needs them, and nothing is durable.
pub(crate) fn start(inner: &Arc<Inner>) {
    let spawn = |name: &str, work: fn(&Inner)| {
        let worker = inner.clone();
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&worker));
        if let Err(error) = started {
            inner.degrade(&format!("there is no thread for its tracker: {error}"));
        }
    };
    spawn("track", Inner::work);
    if inner.durable.is_some() {
        spawn("track-intents", |inner| {
            if let Some(durable) = &inner.durable {
                inner.commit_intents(durable);
            }
        });
    }
}

impl Inner {
    fn work(&self) {
        // What was read may be more than is kept.
        let saved = lock(&self.history).disk.saved;
        self.merge(if self.durable.is_some() { saved } else { u64::MAX });
        loop {
            let result = match (self.next_task(), &self.durable) {
                (Task::Stop, _) => return,
                (Task::Pack(sets), _) => {
                    sets.iter().for_each(|set| drop(set.get()));
                    self.merge(u64::MAX);
                    Ok(())
                }
                (_, None) => Ok(()),
                (Task::Header { order, number }, Some(durable)) => self.do_header(durable, &order, number),
                (Task::Sets { generation, members }, Some(durable)) => {
                    self.do_sets(durable, generation, &members)
                }
                (Task::Save(fingerprint), Some(durable)) => self.do_save(durable, &fingerprint),
                (Task::Revoke, Some(durable)) => {
                    self.do_revoke(durable);
                    Ok(())
                }
            };
            if let Err(error) = result {
                self.degrade(&format!("its tracker's files cannot be written: {error}"));
            }
            self.wake_all();
        }
    }

    fn next_task(&self) -> Task {
        let mut history = lock(&self.history);
        loop {
            if std::mem::take(&mut history.disk.revoke) {
                return Task::Revoke;
            }
            if history.stopping {
                return Task::Stop;
            }
            let task = if history.disk.on { self.disk_task(&mut history) } else { memory_task(&mut history) };
            if let Some(task) = task {
                return task;
            }
            history = self.bell.wait(history).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn disk_task(&self, history: &mut History) -> Option<Task> {
        let current = self.current.load();
        let generation = current.generation;
        if history.disk.header_wanted > history.disk.header_done {
            let (shape, epoch) = (current.shape, current.epoch);
            let excluded = history.disk.excluded.clone();
            let order = HeaderOrder { generation, shape, epoch, saved: history.disk.saved, excluded };
            return Some(Task::Header { order, number: history.disk.header_wanted });
        }
        let saved = history.disk.saved;
        let unsaved = history.chain.members().rev().take_while(|member| member.last > saved);
        let mut members: Vec<Member> = unsaved.cloned().collect();
        if !members.is_empty() {
            members.reverse();
            return Some(Task::Sets { generation, members });
        }
        history.disk.save.take().map(Task::Save)
    }

    fn do_header(&self, durable: &Durable, order: &HeaderOrder, number: u64) -> Result<()> {
        let limit = lock(&durable.files).write_header(order, &durable.intents)?;
        let mut history = lock(&self.history);
        history.disk.header_done = number;
        let current = self.current.load();
        if current.generation == order.generation && current.shape == order.shape {
            history.disk.limit = limit;
            if let Some(intents) = &current.intents {
                intents.settle();
            }
        }
        Ok(())
    }

    fn do_sets(&self, durable: &Durable, generation: Uuid, members: &[Member]) -> Result<()> {
        let mut files = lock(&durable.files);
        files.append(members)?;
        let saved = {
            let mut history = lock(&self.history);
            if self.current.load().generation == generation {
                let last = members.last().map_or(0, |member| member.last);
                history.disk.saved = history.disk.saved.max(last);
            }
            history.disk.saved
        };
        self.wake_all();
        self.merge(saved);
        let (members, bytes) = {
            let history = lock(&self.history);
            let kept = history.chain.members().filter(|member| member.last <= saved);
            (kept.cloned().collect::<Vec<_>>(), history.chain.bytes())
        };
        if files.is_long(bytes) && self.current.load().generation == generation {
            files.rewrite(members.iter())?;
        }
        Ok(())
    }

    fn do_save(&self, durable: &Durable, fingerprint: &Fingerprint) -> Result<()> {
        // From here on a change would be one that nobody sees.
        self.closed.store(true, Ordering::SeqCst);
        self.look_closer();
        let current = self.current.load_full();
        for range in self.excluded.load().iter() {
            current.map.set(current.shape.blocks.touched_by(*range));
        }
        let mut set = current.map.to_set();
        set.optimize();
        let (generation, epoch) = (current.generation, current.epoch);
        let live = Record { generation, first: epoch, last: epoch, names: Vec::new(), set: Arc::new(set) };
        let result = lock(&durable.files).write_clean(&live, fingerprint);
        let mut history = lock(&self.history);
        match result {
            Ok(session) if history.disk.on => {
                history.disk.session = Some(session);
                history.disk.outcome = Some(Ok(session));
                Ok(())
            }
            Ok(_) => {
                let why = "the device was written to meanwhile";
                history.disk.outcome = Some(Err(Error::new(ErrorKind::Busy, why)));
                Ok(())
            }
            Err(error) => {
                let why = format!("{error}");
                history.disk.outcome = Some(Err(error));
                Err(Error::new(ErrorKind::Io, why))
            }
        }
    }

    fn do_revoke(&self, durable: &Durable) {
        if let Err(error) = lock(&durable.files).invalidate() {
            let why = format!("its tracker's old files cannot be removed: {error}");
            self.events.not_durable(&self.device, &why);
        }
        self.closed.store(false, Ordering::SeqCst);
        self.look_closer();
    }

    /// Brings closed sets back into their bounds.
    pub(crate) fn merge(&self, settled: u64) {
        loop {
            let surplus = lock(&self.history).chain.surplus(settled, self.set_limits);
            let Some(pairs) = surplus else { return };
            for (older, newer) in pairs {
                let merged = Member::merged(&older, &newer);
                lock(&self.history).chain.replace(&older, merged);
            }
        }
    }
}

fn memory_task(history: &mut History) -> Option<Task> {
    if history.disk.save.take().is_some() {
        let why = "its tracker is kept in memory only since something failed";
        history.disk.outcome = Some(Err(Error::new(ErrorKind::Unsupported, why)));
    }
    let unpacked = history.chain.unpacked();
    (!unpacked.is_empty()).then_some(Task::Pack(unpacked))
}
