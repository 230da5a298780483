//! A small world for a journal: blocks with recognisable contents, a store of slots, and a ledger of promises.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bowline_block::Result;
use bowline_sim::Rng;
use bowline_state::{Folder, SimFolder, StateFile};
use uuid::Uuid;

use crate::cow::journal::commit::Damage;
use crate::cow::journal::*;
use crate::cow::{Medium, StateMedium};

pub(crate) const BLOCKS: u64 = 24;
pub(crate) const BLOCK: usize = 4096;
const SEGMENTS: u32 = 3;
pub(crate) const NAME: &str = "disk.journal";
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn header() -> Header {
    Header {
        generation: Uuid::from_u128(7),
        device: "disk".to_owned(),
        size: BLOCKS * BLOCK as u64,
        block_bytes: 512,
    }
}

pub(crate) fn store_record() -> Record {
    Record::Store { store: 0, id: Uuid::from_u128(9), spec: "file store".to_owned() }
}

pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Source for Bytes {
    fn lend(&self, window: Range<usize>, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Option<Result<()>> {
        Some(take(&self.0[window]))
    }
}

/// The contents that are preserved of a block in an epoch.
pub(crate) fn contents(number: u64) -> Vec<u8> {
    let mut bytes = vec![number as u8 | 1; BLOCK];
    bytes.chunks_mut(512).for_each(|sector| sector[..8].copy_from_slice(&number.to_le_bytes()));
    bytes
}

pub(crate) fn offset(at: Place) -> u64 {
    u64::from(at.segment) * crate::cow::SEGMENT_BYTES + u64::from(at.slot) * BLOCK as u64
}

/// A promise: what it is about, and the moment from which on it holds.
#[derive(Clone, Debug)]
struct Promise {
    /// Of an image instead of an interval.
    image: bool,
    epoch: u64,
    block: u64,
    /// `None` is zeroes.
    number: Option<u64>,
    begun: u64,
    acked: Option<u64>,
}

/// The take of a snapshot, and its end in the daemon's document.
#[derive(Clone, Debug)]
struct Held {
    epoch: u64,
    from: u64,
    until: Option<u64>,
}

/// See the module.
pub(crate) struct World {
    pub(crate) folder: SimFolder,
    pub(crate) journal: Journal,
    vault: Arc<dyn Medium>,
    rng: Rng,
    epoch: u64,
    numbers: u64,
    free: Vec<Place>,
    held: Vec<Held>,
    promises: Vec<Promise>,
    /// When a commit was first answered with *no journal*.
    pub(crate) lost: Option<u64>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let folder = SimFolder::new();
        let store = folder.create("store").unwrap();
        Folder::sync(&folder).unwrap();
        let first = [Record::Opened { last_epoch: 0 }, store_record()];
        let journal = Journal::create(Arc::new(folder.clone()), NAME, header(), &first).unwrap();
        let free = (0..SEGMENTS)
            .flat_map(|segment| (0..64).map(move |slot| Place { store: 0, segment, slot }))
            .rev()
            .collect();
        let vault = Arc::new(StateMedium::new(store, "store").unwrap());
        Self {
            folder,
            journal,
            vault,
            rng: Rng::new(seed),
            epoch: 0,
            numbers: 0,
            free,
            held: Vec::new(),
            promises: Vec::new(),
            lost: None,
        }
    }

    pub(crate) fn plant(self, damage: Damage) -> Self {
        self.journal.plant(damage);
        self
    }

    fn now(&self) -> u64 {
        self.folder.power().now()
    }

    /// Whether it was made durable.
    fn settle(&mut self, ticket: &Ticket) -> bool {
        match ticket.wait(LIMIT).expect("I1: an answer in time") {
            Outcome::Durable => true,
            Outcome::NoStore(_) => false,
            Outcome::NoJournal(_) => {
                let now = self.now();
                self.lost.get_or_insert(now);
                false
            }
        }
    }

    fn held_now(&self) -> Vec<u64> {
        self.held.iter().filter(|held| held.until.is_none()).map(|held| held.epoch).collect()
    }

    pub(crate) fn take(&mut self) {
        self.epoch += 1;
        let taken = Taken {
            epoch: self.epoch,
            snapshot: Uuid::from_u128(self.epoch.into()),
            size: header().size,
            store: 0,
        };
        let ticket = self.journal.commit(Vec::new(), vec![Record::Member(taken)]);
        if self.settle(&ticket) {
            // Some takes are of plain snapshots: the daemon does not list them.
            if self.rng.below(4) > 0 || self.held_now().is_empty() {
                self.held.push(Held { epoch: self.epoch, from: self.now(), until: None });
            } else {
                let ticket = self.journal.commit(Vec::new(), vec![Record::Removed { epoch: self.epoch }]);
                self.settle(&ticket);
            }
        }
    }

    pub(crate) fn remove(&mut self) {
        let held = self.held_now();
        if held.len() < 2 {
            return;
        }
        let epoch = held[self.rng.index(held.len())];
        let now = self.now();
        self.held.iter_mut().filter(|held| held.epoch == epoch).for_each(|held| held.until = Some(now));
        let ticket = self.journal.commit(Vec::new(), vec![Record::Removed { epoch }]);
        if self.settle(&ticket) {
            self.free_unused();
        }
    }

    /// Slots that no snapshot has any more are used again.
    fn free_unused(&mut self) {
        let file = self.folder.open(NAME).unwrap().unwrap();
        let mut index = Index::new(&header());
        scan(&*file, None, |record| index.add(record)).unwrap();
        let mut used = BTreeSet::new();
        for holding in index.resolve().unwrap().values() {
            for piece in holding.copied.pieces().chain(holding.written.pieces()) {
                used.extend(piece.at.iter().flat_map(|at| (0..piece.count).map(|slot| at.plus(slot))));
            }
        }
        let all =
            (0..SEGMENTS).flat_map(|segment| (0..64).map(move |slot| Place { store: 0, segment, slot }));
        self.free = all.filter(|at| !used.contains(at)).collect();
        self.rng.shuffle(&mut self.free);
    }

    /// Copies of some blocks, asked for at once: most go into one group.
    pub(crate) fn copy(&mut self) {
        if self.held_now().is_empty() {
            return;
        }
        let mut asked = Vec::new();
        for _ in 0..=self.rng.below(6) {
            let image = self.rng.once_in(5);
            let held = self.held_now();
            let epoch = if image { held[self.rng.index(held.len())] } else { self.epoch };
            let block = self.rng.below(BLOCKS);
            // A block is preserved once in an epoch; images are written to again and again, but one write at a time.
            let same = |one: &Promise| (one.image, one.epoch, one.block) == (image, epoch, block);
            let clash = self.promises.iter().any(|one| same(one) && (!image || one.acked.is_none()));
            if clash || self.free.len() < 2 {
                continue;
            }
            asked.push((self.promises.len(), self.ask(image, epoch, block)));
        }
        for (promise, ticket) in asked {
            if self.settle(&ticket) {
                let now = self.now();
                self.promises[promise].acked = Some(now);
            }
        }
        if self.free.len() < 30 {
            self.free_unused();
        }
    }

    fn ask(&mut self, image: bool, epoch: u64, block: u64) -> Ticket {
        let begun = self.now();
        if self.rng.once_in(5) {
            self.promises.push(Promise { image, epoch, block, number: None, begun, acked: None });
            let zero = Zero { epoch, first: block, count: 1 };
            let record = if image { Record::ImageZero(zero) } else { Record::Zero(zero) };
            return self.journal.commit(Vec::new(), vec![record]);
        }
        self.numbers += 1;
        let number = self.numbers;
        self.promises.push(Promise { image, epoch, block, number: Some(number), begun, acked: None });
        let at = self.free.pop().unwrap();
        let bytes = contents(number);
        let slots = Slots { epoch, first: block, at, crcs: vec![crc(&bytes)] };
        let record = if image { Record::ImageWritten(slots) } else { Record::Copied(slots) };
        let source = Arc::new(Bytes(bytes));
        let write = Write { vault: self.vault.clone(), at: offset(at), source, window: 0..BLOCK };
        self.journal.commit(vec![write], vec![record])
    }

    /// Some of everything.
    pub(crate) fn live(&mut self, steps: u64) {
        self.take();
        for _ in 0..steps {
            match self.rng.below(8) {
                0 => self.take(),
                1 => self.remove(),
                _ => self.copy(),
            }
        }
    }

    /// What is left of the world at that moment must keep what was promised by then.
    pub(crate) fn check(&self, left: &SimFolder, moment: u64) -> std::result::Result<(), String> {
        let gone = self.lost.is_some_and(|lost| lost <= moment);
        let Some(file) = left.open(NAME).unwrap() else {
            // How a journal is marked that cannot be written: before anybody is told.
            return if self.lost.is_some() { Ok(()) } else { Err("the journal is gone".to_owned()) };
        };
        let mut index = Index::new(&header());
        let scan = scan(&*file, None, |record| index.add(record)).map_err(|error| error.to_string())?;
        if scan.failed.is_some() && self.lost.is_some() {
            return Ok(());
        }
        if gone {
            return Err("I2: the journal has failed and does not say so".to_owned());
        }
        let held: Vec<u64> = self
            .held
            .iter()
            .filter(|held| held.from <= moment && held.until.is_none_or(|until| until > moment))
            .map(|held| held.epoch)
            .collect();
        index.keep(|taken| held.contains(&taken.epoch));
        let holdings = index.resolve()?;
        if !holdings.keys().eq(held.iter()) {
            return Err(format!("held are {held:?}, not {:?}", holdings.keys()));
        }
        let store = left.open("store").unwrap().ok_or("the store is gone")?;
        for (at, &epoch) in held.iter().enumerate() {
            let next = held.get(at + 1).copied().unwrap_or(u64::MAX);
            let holding = &holdings[&epoch];
            for block in 0..BLOCKS {
                let found = find(&index, &holding.copied, block, &*store)?;
                self.check_copied(epoch..next, block, found, moment)?;
                let found = find(&index, &holding.written, block, &*store)?;
                self.check_written(epoch, block, found, moment)?;
            }
        }
        Ok(())
    }

    fn check_copied(
        &self,
        epochs: Range<u64>,
        block: u64,
        found: Option<Option<u64>>,
        moment: u64,
    ) -> std::result::Result<(), String> {
        let mut of_epoch: BTreeMap<u64, &Promise> = BTreeMap::new();
        let known =
            self.promises.iter().filter(|one| !one.image && one.block == block && one.begun <= moment);
        known.filter(|one| epochs.contains(&one.epoch)).for_each(|one| {
            of_epoch.insert(one.epoch, one);
        });
        for promise in of_epoch.values() {
            if found == Some(promise.number) {
                return Ok(());
            }
            if promise.acked.is_some_and(|acked| acked <= moment) {
                return Err(format!("I2: block {block} has {found:?} instead of {promise:?}"));
            }
        }
        match found {
            None => Ok(()),
            Some(_) => Err(format!("I2: block {block} of {epochs:?} has {found:?}, which nobody wrote")),
        }
    }

    fn check_written(
        &self,
        epoch: u64,
        block: u64,
        found: Option<Option<u64>>,
        moment: u64,
    ) -> std::result::Result<(), String> {
        let same =
            |one: &&Promise| one.image && (one.epoch, one.block) == (epoch, block) && one.begun <= moment;
        for promise in self.promises.iter().rev().filter(same) {
            if found == Some(promise.number) {
                return Ok(());
            }
            if promise.acked.is_some_and(|acked| acked <= moment) {
                return Err(format!("I7: image {epoch} has {found:?} at {block} instead of {promise:?}"));
            }
        }
        if found.is_none() { Ok(()) } else { Err(format!("image {epoch} has {found:?} at {block}")) }
    }

    /// Checks every cut, each with `seeds` seeds, and what a kill leaves.
    pub(crate) fn check_every_cut(&self, seeds: u64) -> std::result::Result<u64, String> {
        let from = self.held.first().map_or(self.now(), |held| held.from);
        let mut walk = self.folder.walk();
        for moment in from..self.folder.cut_points() {
            walk.go_to(moment);
            let failed = |how: String| move |why: String| format!("cut at {moment}, {how}: {why}");
            for seed in 0..seeds {
                let seed = if seed < 2 { seed } else { seed ^ (moment << 8) };
                let left = walk.cut(seed);
                self.check(&left, moment).map_err(failed(format!("seed {seed}")))?;
            }
            self.check(&walk.kill(), moment).map_err(failed("killed".to_owned()))?;
        }
        Ok(self.folder.cut_points() - from)
    }
}

/// The number of what is preserved of a block: `None` for nothing, `Some(None)` for zeroes.
fn find(
    index: &Index,
    extents: &Extents,
    block: u64,
    store: &dyn StateFile,
) -> std::result::Result<Option<Option<u64>>, String> {
    let Some(piece) = extents.pieces().find(|piece| (piece.first..piece.end()).contains(&block)) else {
        return Ok(None);
    };
    let Some(at) = piece.at.map(|at| at.plus(block - piece.first)) else { return Ok(Some(None)) };
    let mut bytes = vec![0; BLOCK];
    let got = store.read_at(offset(at), &mut bytes).unwrap();
    if got < BLOCK || index.sum(at) != Some(crc(&bytes)) {
        return Err(format!("I2: block {block} at {at:?} is damaged"));
    }
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    if bytes != contents(number) {
        return Err(format!("I2: block {block} is of nobody"));
    }
    Ok(Some(Some(number)))
}
