//! A history's side of its journal: which storages it has numbers for, and how copies become commits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bowline_block::{Error, ErrorKind, Result};
use uuid::Uuid;

use super::granule::GRANULE_BYTES;
use super::journal::{Journal, Outcome, Place, Record, Slots, Ticket, Write, Zero};
use super::segment::{SEGMENT_SLOTS, Segment, SegmentTable};
use super::store::DiffStorage;
use super::zone::SlotId;

/// How long a take or a removal waits for the journal.
const WAIT: Duration = Duration::from_secs(20);

/// A storage with a number.
struct Numbered {
    number: u16,
    storage: Weak<DiffStorage>,
    /// Stores of it that are recorded.
    recorded: usize,
}

/// See the module.
pub(crate) struct Keeper {
    pub(crate) journal: Journal,
    stores: Mutex<Vec<Numbered>>,
}

impl Keeper {
    pub(crate) fn new(journal: Journal) -> Arc<Self> {
        Arc::new(Self { journal, stores: Mutex::default() })
    }

    fn stores(&self) -> MutexGuard<'_, Vec<Numbered>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a storage that the journal knows under that number.
    pub(crate) fn knows(&self, number: u16, storage: &Arc<DiffStorage>) {
        let recorded = storage.stores().len();
        self.stores().push(Numbered { number, storage: Arc::downgrade(storage), recorded });
    }

    /// The number of a storage; the record that gives it one first, if it has none.
    pub(crate) fn number(&self, storage: &Arc<DiffStorage>, id: Uuid) -> Result<(u16, Vec<Record>)> {
        let mut stores = self.stores();
        if let Some(found) = stores.iter().find(|one| is(&one.storage, storage)) {
            return Ok((found.number, Vec::new()));
        }
        let last = stores.iter().map(|one| one.number).max();
        let number = last.map_or(Some(0), |last| last.checked_add(1));
        let number =
            number.ok_or_else(|| Error::new(ErrorKind::NoSpace, "the journal has too many stores"))?;
        let specs = storage.stores();
        let texts = specs.iter().map(super::store::StoreSpec::to_text).collect::<Result<Vec<_>>>()?;
        let record = |(nth, spec): (usize, String)| {
            if nth == 0 {
                Record::Store { store: number, id, spec }
            } else {
                Record::MoreStore { store: number, id, spec }
            }
        };
        stores.push(Numbered { number, storage: Arc::downgrade(storage), recorded: specs.len() });
        Ok((number, texts.into_iter().enumerate().map(record).collect()))
    }

    /// Asks for what a storage was extended by since the last time to be recorded: by itself, because a copy that comes with
    /// it may fail, and under the lock, because nobody's copy may be recorded before.
    fn record_extensions(&self, storage: &Arc<DiffStorage>) {
        let mut stores = self.stores();
        let Some(one) = stores.iter_mut().find(|one| is(&one.storage, storage)) else { return };
        let specs = storage.stores();
        let new = specs.iter().skip(one.recorded).filter_map(|spec| spec.to_text().ok());
        let store = one.number;
        let records: Vec<_> = new.map(|spec| Record::MoreStore { store, id: Uuid::nil(), spec }).collect();
        one.recorded = specs.len();
        if !records.is_empty() {
            self.journal.commit(Vec::new(), records);
        }
    }

    /// Storages in which nothing is any more: they go with their last user.
    pub(crate) fn drop_unused(&self, is_needed: impl Fn(&Arc<DiffStorage>) -> bool) {
        let mut stores = self.stores();
        let mut records = Vec::new();
        stores.retain(|one| {
            let storage = one.storage.upgrade();
            let used = storage.as_ref().is_some_and(|storage| is_needed(storage) || storage.has_contents());
            if !used {
                storage.iter().for_each(|storage| storage.keep(false));
                records.push(Record::NoStore { store: one.number });
            }
            used
        });
        drop(stores);
        if !records.is_empty() {
            self.journal.commit(Vec::new(), records);
        }
    }

    /// No persistent snapshot is left: the journal goes, and the storages with their last users.
    pub(crate) fn end(&self) -> Result<()> {
        self.stores().iter().filter_map(|one| one.storage.upgrade()).for_each(|storage| storage.keep(false));
        self.journal.close(true)
    }

    fn number_of(&self, storage: &Arc<DiffStorage>) -> Option<u16> {
        self.stores().iter().find(|one| is(&one.storage, storage)).map(|one| one.number)
    }

    /// Asks for blocks in consecutive slots, or of zeroes, to be made durable.
    pub(crate) fn commit(
        &self,
        table: &SegmentTable,
        what: Kept,
        epoch: u64,
        first: u64,
        at: &Stored,
    ) -> Ticket {
        let Stored { slot, count, sums } = at;
        let placed = self.place(table, *slot, *count, sums);
        if placed.is_none() && *slot != SlotId::ZERO {
            return Ticket::told(Outcome::NoStore("its diff storage is not known to the journal".to_owned()));
        }
        let (writes, record) = match placed {
            None => {
                let zero = Zero { epoch, first, count: *count };
                let record = if what == Kept::Image { Record::ImageZero(zero) } else { Record::Zero(zero) };
                (Vec::new(), record)
            }
            Some((segment, at, write)) => {
                let slots = Slots { epoch, first, at, crcs: sums.clone() };
                let record =
                    if what == Kept::Image { Record::ImageWritten(slots) } else { Record::Copied(slots) };
                self.record_extensions(&segment.storage);
                (vec![write], record)
            }
        };
        self.journal.commit(writes, vec![record])
    }

    fn place(
        &self,
        table: &SegmentTable,
        slot: SlotId,
        count: u64,
        sums: &[u32],
    ) -> Option<(Arc<Segment>, Place, Write)> {
        if slot == SlotId::ZERO {
            return None;
        }
        let (segment, at) = table.find(slot)?;
        let first = u8::try_from(at / GRANULE_BYTES).ok()?;
        let store = self.number_of(&segment.storage)?;
        let place = Place { store, segment: segment.place, slot: first };
        segment.know_sums(first, sums);
        let write = segment.write_of(first, count)?;
        Some((segment, place, write))
    }

    /// Records something and waits until it is durable. On a thread that may wait.
    pub(crate) fn record(&self, records: Vec<Record>) -> Result<()> {
        settle(&self.journal.commit(Vec::new(), records), &self.journal)
    }
}

/// What a journal keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Old contents of the origin.
    Old,
    /// What was written to an image.
    Image,
}

/// Blocks that are in consecutive slots, with their checksums, or zero.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) slot: SlotId,
    pub(crate) count: u64,
    pub(crate) sums: Vec<u32>,
}

/// Waits for a commit on a thread that may wait.
pub(crate) fn settle(ticket: &Ticket, journal: &Journal) -> Result<()> {
    let why = match ticket.wait(WAIT) {
        Some(Outcome::Durable) => return Ok(()),
        Some(Outcome::NoStore(why) | Outcome::NoJournal(why)) => why,
        None => {
            let why = format!("{} took longer than {WAIT:?}", journal.name());
            return Err(Error::new(ErrorKind::Timeout, why));
        }
    };
    Err(Error::new(ErrorKind::Io, format!("the snapshots' journal cannot be written: {why}")))
}

fn is(weak: &Weak<DiffStorage>, storage: &Arc<DiffStorage>) -> bool {
    std::ptr::eq(weak.as_ptr(), Arc::as_ptr(storage))
}

const _: () = assert!(SEGMENT_SLOTS <= u8::MAX as u32);
