//! What a journal comes to: which persistent snapshots there are, and where each one's old contents are.
//!
//! Records carry the epoch in which they were made. An epoch whose snapshot is not held (any more, or was never
//! persistent) belongs to the newest held one before it: that is how a removal hands history to the older neighbour,
//! without a record being touched. Of several records for a block of one snapshot, that of the oldest epoch counts,
//! as in a chain of intervals; of one epoch, the newest.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::extents::{Extents, Piece};
use super::log::Header;
use super::record::{Place, Record, Slots, Taken, Zero};
use crate::cow::granule::GRANULE_BYTES;
use crate::cow::segment::SEGMENT_SLOTS;

/// Members and stores one journal may have.
const MEMBERS_MAX: usize = 65_536;
/// Checksums of a segment's slots.
pub(crate) type Sums = [u32; SEGMENT_SLOTS as usize];

/// A store as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownStore {
    pub(crate) id: Uuid,
    /// What it is found by; more than one when it was extended.
    pub(crate) specs: Vec<String>,
}

/// A persistent snapshot as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) taken: Taken,
    /// Why it failed, if it has.
    pub(crate) failed: Option<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) stores: BTreeMap<u16, KnownStore>,
    /// By epoch; those that were removed are not there.
    pub(crate) members: BTreeMap<u64, Member>,
    /// Members that turned out not to be held.
    pub(crate) dropped: Vec<u64>,
    copied: BTreeMap<u64, Extents>,
    written: BTreeMap<u64, Extents>,
    sums: HashMap<(u16, u32), Box<Sums>>,
    /// The newest epoch that is named.
    pub(crate) last_epoch: u64,
    /// The origin when the journal was put away; `None` after a crash.
    pub(crate) clean: Option<Vec<u8>>,
    /// The most blocks that any image or origin has.
    blocks: u64,
}

/// What one persistent snapshot has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Old contents of its interval, that is until the next held snapshot.
    pub(crate) copied: Extents,
    /// What was written to its image.
    pub(crate) written: Extents,
}

impl Index {
    /// An index of a journal that says nothing yet.
    pub(crate) fn new(header: &Header) -> Self {
        Self { blocks: header.size.div_ceil(GRANULE_BYTES), ..Self::default() }
    }

    /// Takes in what the journal says next.
    pub(crate) fn add(&mut self, record: Record) -> Result<(), String> {
        self.clean = None;
        match record {
            Record::Store { store, id, spec } => {
                if self.stores.len() >= MEMBERS_MAX || self.stores.contains_key(&store) {
                    return Err(format!("store {store} is named twice"));
                }
                self.stores.insert(store, KnownStore { id, specs: vec![spec] });
            }
            Record::MoreStore { store, spec, .. } => self.store(store)?.specs.push(spec),
            Record::NoStore { store } => {
                self.store(store)?;
                self.stores.remove(&store);
            }
            Record::Member(taken) => {
                self.store(taken.store)?;
                if taken.epoch <= self.last_member() || self.members.len() >= MEMBERS_MAX {
                    return Err(format!("epoch {} comes after epoch {}", taken.epoch, self.last_member()));
                }
                self.last_epoch = self.last_epoch.max(taken.epoch);
                self.blocks = self.blocks.max(taken.size.div_ceil(GRANULE_BYTES));
                self.members.insert(taken.epoch, Member { taken, failed: None });
            }
            Record::Removed { epoch } => drop(self.members.remove(&epoch)),
            Record::Failed { epoch, reason } => {
                if let Some(member) = self.members.get_mut(&epoch) {
                    member.failed.get_or_insert(reason);
                }
            }
            Record::Copied(slots) => {
                let piece = self.admit(&slots)?;
                self.copied.entry(slots.epoch).or_default().put(piece);
            }
            Record::ImageWritten(slots) => {
                let piece = self.admit(&slots)?;
                self.written.entry(slots.epoch).or_default().put(piece);
            }
            Record::Zero(zero) => {
                let piece = self.admit_zero(zero)?;
                self.copied.entry(zero.epoch).or_default().put(piece);
            }
            Record::ImageZero(zero) => {
                let piece = self.admit_zero(zero)?;
                self.written.entry(zero.epoch).or_default().put(piece);
            }
            Record::Opened { last_epoch } => self.last_epoch = self.last_epoch.max(last_epoch),
            Record::Clean { fingerprint } => self.clean = Some(fingerprint),
        }
        Ok(())
    }

    fn store(&mut self, store: u16) -> Result<&mut KnownStore, String> {
        self.stores.get_mut(&store).ok_or_else(|| format!("store {store} is not known"))
    }

    fn last_member(&self) -> u64 {
        self.members.last_key_value().map_or(0, |(&epoch, _)| epoch)
    }

    fn admit(&mut self, slots: &Slots) -> Result<Piece, String> {
        self.store(slots.at.store)?;
        let piece = self.inside(slots.epoch, Piece::from(slots))?;
        let sums = self.sums.entry((slots.at.store, slots.at.segment)).or_insert_with(|| Box::new([0; _]));
        for (place, &sum) in sums.iter_mut().skip(usize::from(slots.at.slot)).zip(&slots.crcs) {
            *place = sum;
        }
        Ok(piece)
    }

    fn admit_zero(&mut self, zero: Zero) -> Result<Piece, String> {
        self.inside(zero.epoch, Piece::from(&zero))
    }

    fn inside(&mut self, epoch: u64, piece: Piece) -> Result<Piece, String> {
        if piece.count == 0 || piece.first.checked_add(piece.count).is_none_or(|end| end > self.blocks) {
            let Piece { first, count, .. } = piece;
            return Err(format!("{count} blocks from {first} on are beyond the end at {}", self.blocks));
        }
        self.last_epoch = self.last_epoch.max(epoch);
        Ok(piece)
    }

    /// The checksum of a slot.
    pub(crate) fn sum(&self, at: Place) -> Option<u32> {
        self.sums.get(&(at.store, at.segment))?.get(usize::from(at.slot)).copied()
    }

    /// Those of all slots of a segment.
    pub(crate) fn sums(&self, store: u16, segment: u32) -> Option<&Sums> {
        self.sums.get(&(store, segment)).map(|sums| &**sums)
    }

    /// Members that are not among the held ones are removed ones.
    pub(crate) fn keep(&mut self, is_held: impl Fn(&Taken) -> bool) {
        let dropped = self.members.iter().filter(|(_, member)| !is_held(&member.taken));
        self.dropped = dropped.map(|(&epoch, _)| epoch).collect();
        self.members.retain(|_, member| is_held(&member.taken));
    }

    /// What each member has, by epoch.
    ///
    /// # Errors
    /// Says so when a slot has two blocks: then the journal is not what was written.
    pub(crate) fn resolve(&self) -> Result<BTreeMap<u64, Holding>, String> {
        let mut holdings: BTreeMap<u64, Holding> =
            self.members.keys().map(|&epoch| (epoch, Holding::default())).collect();
        // The oldest last, so that it lies on top.
        for (&epoch, extents) in self.copied.iter().rev() {
            if let Some((_, owner)) = holdings.range_mut(..=epoch).next_back() {
                extents.pieces().for_each(|piece| owner.copied.put(piece));
            }
        }
        for (epoch, extents) in &self.written {
            if let Some(owner) = holdings.get_mut(epoch) {
                owner.written = extents.clone();
            }
        }
        let mut used: HashMap<(u16, u32), u64> = HashMap::new();
        let pieces = holdings.values().flat_map(|one| one.copied.pieces().chain(one.written.pieces()));
        for piece in pieces {
            let Some(at) = piece.at else { continue };
            let slots =
                super::super::granule::mask_of(0, u64::from(at.slot), u64::from(at.slot) + piece.count);
            let before = used.entry((at.store, at.segment)).or_default();
            if *before & slots != 0 {
                return Err(format!("a slot of segment {} of store {} has two blocks", at.segment, at.store));
            }
            *before |= slots;
        }
        Ok(holdings)
    }

    /// A journal that says the same, without what does not count any more. Epochs that belong to a member become the
    /// member's.
    pub(super) fn compact(&self, mut each: impl FnMut(Record)) -> Result<(), String> {
        let holdings = self.resolve()?;
        each(Record::Opened { last_epoch: self.last_epoch });
        for (&store, known) in &self.stores {
            for (nth, spec) in known.specs.iter().enumerate() {
                let (id, spec) = (known.id, spec.clone());
                each(if nth == 0 {
                    Record::Store { store, id, spec }
                } else {
                    Record::MoreStore { store, id, spec }
                });
            }
        }
        for (epoch, member) in &self.members {
            each(Record::Member(member.taken));
            if let Some(reason) = &member.failed {
                each(Record::Failed { epoch: *epoch, reason: reason.clone() });
            }
        }
        for (&epoch, holding) in &holdings {
            for piece in holding.copied.pieces() {
                each(self.record_of(epoch, &piece, false));
            }
            for piece in holding.written.pieces() {
                each(self.record_of(epoch, &piece, true));
            }
        }
        Ok(())
    }

    fn record_of(&self, epoch: u64, piece: &Piece, image: bool) -> Record {
        let Piece { first, count, at } = *piece;
        let Some(at) = at else {
            let zero = Zero { epoch, first, count };
            return if image { Record::ImageZero(zero) } else { Record::Zero(zero) };
        };
        let crcs = (0..count).map(|slot| self.sum(at.plus(slot)).unwrap_or(0)).collect();
        let slots = Slots { epoch, first, at, crcs };
        if image { Record::ImageWritten(slots) } else { Record::Copied(slots) }
    }
}
