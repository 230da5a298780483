//! What a tracker has on disk, and the worker's part of it: header and sets.
//!
//! * An epoch's set is appended to `sets` and synced after the take that closed it; only then may the half of `intents`
//!   that the epoch used be used by the one after next.
//! * The header grants epochs ahead, so that a number that was given out is never given out again after a crash.
//! * Whatever fails costs persistence, never the device (I1): the tracker goes on in memory, under a new generation.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_block::{ByteRange, Result};
use bowline_state::{Folder, StateFile};
use uuid::Uuid;

use super::current::Shape;
use super::disk::header::{Header, State};
use super::disk::record::Record;
use super::disk::sector::{Sector, file_bytes, generation_part, sectors_of};
use super::disk::{HEADER_FILE, INTENTS_FILE, LIVE_FILE, SETS_FILE, SETS_NEW_FILE};
use super::epochs::Member;
use super::fingerprint::Fingerprint;
use super::intents::Desk;
use super::sync::lock;

/// Epochs that the header grants ahead.
pub(crate) const GRANT: u64 = 64;
/// `sets` is replaced by a shorter one when it is longer than twice what it would be, and by as much more.
const SLACK_BYTES: u64 = 4 << 20;

pub(crate) struct Durable {
    pub(crate) desk: Desk,
    pub(crate) hold: Duration,
    pub(crate) files: Mutex<Files>,
    /// Held over a commit, and while the file is laid out anew.
    pub(crate) intents: Mutex<Arc<dyn StateFile>>,
    /// Planted damage: intents are written but not synced.
    #[cfg(test)]
    pub(crate) skip_sync: std::sync::atomic::AtomicBool,
}

/// The files that the worker writes.
pub(crate) struct Files {
    pub(crate) folder: Arc<dyn Folder>,
    pub(crate) sets: Arc<dyn StateFile>,
    pub(crate) sets_len: u64,
    pub(crate) header: Header,
}

/// What the header is to say.
#[derive(Clone)]
pub(crate) struct HeaderOrder {
    pub(crate) generation: Uuid,
    pub(crate) shape: Shape,
    pub(crate) epoch: u64,
    pub(crate) saved: u64,
    pub(crate) excluded: Vec<ByteRange>,
}

pub(crate) fn record_of(generation: Uuid, member: &Member) -> Record {
    let Member { first, last, names, set } = member.clone();
    Record { generation, first, last, names, set: set.get() }
}

/// Writes a whole file of empty intents.
pub(crate) fn lay_out_intents(file: &dyn StateFile, header: &Header) -> Result<()> {
    let regions = header.shape().region_count();
    let sectors = sectors_of(regions);
    let mut all = Vec::with_capacity(usize::try_from(file_bytes(regions)).unwrap_or(0));
    for index in (0..sectors).chain(0..sectors) {
        let sector = Sector {
            epoch: 0,
            generation: generation_part(header.generation),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            words: Vec::new(),
        };
        all.extend(sector.encode());
    }
    file.set_len(all.len() as u64)?;
    file.write_at(0, &all)?;
    file.sync()
}

impl Files {
    /// Makes the header say what is ordered. A new generation needs other files too; nothing of the old one counts once
    /// the header is there.
    pub(crate) fn write_header(
        &mut self,
        order: &HeaderOrder,
        intents: &Mutex<Arc<dyn StateFile>>,
    ) -> Result<u64> {
        let mut header = self.header.clone();
        let renewed = header.generation != order.generation;
        let reshaped = header.shape() != order.shape;
        header.generation = order.generation;
        header.identity.size = order.shape.size;
        (header.blocks, header.regions) = (order.shape.blocks, order.shape.regions);
        header.epoch = order.epoch;
        header.epoch_limit = order.epoch + GRANT;
        header.saved_epoch = order.saved;
        header.excluded.clone_from(&order.excluded);
        header.state = State::Running;
        if renewed {
            header.live_epoch = 0;
        }
        self.folder.replace(HEADER_FILE, &header.encode())?;
        self.header = header;
        if renewed {
            self.sets.set_len(0)?;
            self.sets.sync()?;
            self.sets_len = 0;
        }
        if reshaped {
            lay_out_intents(&**lock(intents), &self.header)?;
        }
        Ok(self.header.epoch_limit)
    }

    /// Appends records of what was closed, durably.
    pub(crate) fn append(&mut self, members: &[Member]) -> Result<()> {
        let mut end = self.sets_len;
        for member in members {
            let record = record_of(self.header.generation, member).encode();
            self.sets.write_at(end, &record)?;
            end += record.len() as u64;
        }
        self.sets.sync()?;
        self.sets_len = end;
        Ok(())
    }

    /// Whether `sets` has become much longer than what it says.
    pub(crate) fn is_long(&self, set_bytes: u64) -> bool {
        self.sets_len > set_bytes.saturating_mul(2).saturating_add(SLACK_BYTES)
    }

    /// Replaces `sets` by these records.
    pub(crate) fn rewrite<'a>(&mut self, members: impl Iterator<Item = &'a Member>) -> Result<()> {
        let new = self.folder.create(SETS_NEW_FILE)?;
        let mut end = 0;
        for member in members {
            let record = record_of(self.header.generation, member).encode();
            new.write_at(end, &record)?;
            end += record.len() as u64;
        }
        new.sync()?;
        self.folder.rename(SETS_NEW_FILE, SETS_FILE)?;
        self.folder.sync()?;
        self.sets = new;
        self.sets_len = end;
        Ok(())
    }

    /// The end of a run, in order. Gives the new session.
    pub(crate) fn write_clean(&mut self, live: &Record, fingerprint: &Fingerprint) -> Result<Uuid> {
        let record = live.encode();
        let live_crc = super::disk::bytes::crc32c(&[&record]);
        self.folder.replace(LIVE_FILE, &record)?;
        let mut header = self.header.clone();
        header.previous_session = std::mem::replace(&mut header.session, Uuid::new_v4());
        header.epoch = live.last;
        header.epoch_limit = header.epoch_limit.max(live.last + 1);
        header.live_epoch = live.last;
        header.saved_epoch = live.last - 1;
        header.excluded.clear();
        header.state = State::Clean { sets_len: self.sets_len, live_crc, fingerprint: fingerprint.clone() };
        self.folder.replace(HEADER_FILE, &header.encode())?;
        self.header = header;
        Ok(self.header.session)
    }

    /// Removes what could be believed.
    pub(crate) fn invalidate(&self) -> Result<()> {
        self.folder.remove(HEADER_FILE)?;
        self.folder.sync()?;
        for name in [SETS_FILE, SETS_NEW_FILE, LIVE_FILE, INTENTS_FILE] {
            self.folder.remove(name)?;
        }
        self.folder.sync()
    }
}
