//! Bringing persistent snapshots back.
//!
//! 1. The journals are read, and the stores opened in which they have anything: each block is at one place of one store.
//! 2. What speaks against a snapshot is found: it comes back failed, with the reason. All others are exact.
//! 3. Histories are built and attached before their devices are used. By then it is on stable storage which snapshots
//!    came back and which failed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bowline_block::{ByteRange, Error, ErrorKind, Filter, Result, Store};
use bowline_device::{Device, freeze_all};
use bowline_state::Folder;
use uuid::Uuid;

use super::SnapshotEvents;
use super::chain::{Chain, Member};
use super::exclude;
use super::history::{Attachment, COW_ALTITUDE, History};
use super::image::ImageStore;
use super::interval::Interval;
use super::journal::{Extents, Holding, Index, Journal, Record, Scan, scan};
use super::keeper::Keeper;
use super::persist::JOURNAL;
use super::segment::{SEGMENT_BYTES, SEGMENT_SLOTS, Segment};
use super::shared::{OnFull, Shared};
use super::snapshot::{Limits, Snapshot, SnapshotDevice, lanes};
use super::store::{DiffStorage, StoreKind, StoreSpec};
use super::zone::{SlotId, ZONE_GRANULES};
use crate::track::{Closed, Tracker};

/// A persistent snapshot as the daemon's document has it.
#[derive(Clone, Debug)]
pub struct HeldSnapshot {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: Uuid,
    /// The instant.
    pub taken_at: SystemTime,
    /// What happens when its storage is full.
    pub on_full: OnFull,
    /// Its devices, in the order they were named.
    pub devices: Vec<HeldDevice>,
    /// Why it failed, if the document says that it has.
    pub failed: Option<String>,
}

/// One device of it.
#[derive(Clone, Debug)]
pub struct HeldDevice {
    /// Its name.
    pub name: String,
    /// The epoch of its tracker that the take closed.
    pub tracked: Option<Closed>,
    /// Where the snapshot's storage lies on the device itself.
    pub excluded: Vec<ByteRange>,
}

/// A device that is there again, and is not used yet.
#[derive(Clone)]
pub struct Returned {
    /// The device.
    pub device: Arc<Device>,
    /// Its tracker.
    pub tracker: Option<Arc<Tracker>>,
    /// Its fingerprint now, as [`History::suspend`] was given it.
    pub fingerprint: Vec<u8>,
}

/// What there is to go on with.
pub struct Recovery<'a> {
    /// The journals'.
    pub folder: &'a Arc<dyn Folder>,
    /// The devices.
    pub devices: &'a [Returned],
    /// The snapshots.
    pub held: &'a [HeldSnapshot],
    /// Opens a storage as it was left: [`DiffStorage::reopen`].
    pub open: &'a dyn Fn(&[StoreSpec]) -> Result<Arc<DiffStorage>>,
    /// Who is told of each snapshot's fate.
    pub events: &'a dyn Fn(&HeldSnapshot) -> Arc<dyn SnapshotEvents>,
    /// As for takes.
    pub limits: Limits,
}

/// A journal that was read.
struct Read {
    name: String,
    scan: Scan,
    index: Index,
    /// By epoch; empty where `wrong` says why.
    holdings: BTreeMap<u64, Holding>,
    /// Why nothing comes back of it.
    wrong: Option<String>,
    /// Whether that is not the journal's fault.
    is_good: bool,
}

/// A store that was opened again.
struct Opened {
    storage: Arc<DiffStorage>,
    segments: HashMap<u32, Arc<Segment>>,
}

/// What came back of a device: its history, and where the segments are in that.
type Histories = HashMap<String, (Arc<History>, Slots)>;
type Named = (String, (Arc<History>, Slots));
type Stores = HashMap<Uuid, std::result::Result<Opened, String>>;

/// Brings all held snapshots back, in their order; those that cannot be exact as failed ones. Must not be called on a queue
/// thread.
///
/// # Errors
/// When the folder cannot be read, or a device not be frozen.
pub fn recover(recovery: &Recovery<'_>) -> Result<Vec<Snapshot>> {
    let AllRead { mut journals, stale, unreadable } = read_all(recovery)?;
    for journal in &mut journals {
        let is_held = |id: Uuid| recovery.held.iter().any(|held| held.id == id);
        journal.index.keep(|taken| is_held(taken.snapshot));
        let found = recovery.devices.iter().find(|one| one.device.name() == journal.scan.header.device);
        match journal.index.resolve() {
            Ok(holdings) => journal.holdings = holdings,
            Err(why) => journal.wrong = Some(why),
        }
        journal.wrong = journal.scan.failed.take().or_else(|| journal.wrong.take());
        journal.is_good = journal.wrong.is_none();
        if let Some(found) = found {
            journal.wrong = journal.wrong.take().or_else(|| speaks_against(found, &journal.index));
        }
    }
    let stores = open_stores(recovery, &journals, &stale, unreadable.is_empty());
    for journal in &stale {
        recovery.folder.remove(&journal.name)?;
    }
    let shared: Vec<Arc<Shared>> = recovery.held.iter().map(|held| share(recovery, held, &stores)).collect();
    let reasons: Vec<Option<String>> =
        recovery.held.iter().map(|held| reason(recovery, held, &journals, &stores, &unreadable)).collect();
    let mut histories = Histories::new();
    for journal in &journals {
        match bring_back(recovery, journal, &shared, &stores) {
            Ok(Some((name, history))) => drop(histories.insert(name, history)),
            Ok(None) => {}
            Err(error) => {
                let members = journal.index.members.values().map(|member| member.taken.snapshot);
                let of_it: Vec<_> = members.collect();
                let why = format!("its journal cannot be used: {error}");
                shared.iter().filter(|one| of_it.contains(&one.id)).for_each(|one| one.fail(why.clone()));
            }
        }
    }
    for ((held, shared), reason) in recovery.held.iter().zip(&shared).zip(reasons) {
        match (&held.failed, reason) {
            // Known already.
            (Some(reason), _) => drop(shared.end(reason.clone())),
            (None, Some(reason)) => shared.fail(reason),
            (None, None) => {}
        }
    }
    drop_empty_stores(stores, &shared);
    let snapshots = recovery.held.iter().zip(shared);
    Ok(snapshots.map(|(held, shared)| snapshot(recovery, held, shared, &journals, &histories)).collect())
}

/// The journals of the folder.
struct AllRead {
    journals: Vec<Read>,
    /// Those that know no held snapshot.
    stale: Vec<Read>,
    /// What is wrong with those that cannot be read.
    unreadable: Vec<String>,
}

fn read_all(recovery: &Recovery<'_>) -> Result<AllRead> {
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    for name in recovery.folder.names()? {
        if name.ends_with(&format!("{JOURNAL}.new")) {
            recovery.folder.remove(&name)?;
        }
        if !name.ends_with(JOURNAL) {
            continue;
        }
        match read_one(recovery.folder, &name) {
            Ok(Some(one)) => read.push(one),
            Ok(None) => {}
            // It can bring nothing back, and nobody waits for it.
            Err(_) if recovery.held.is_empty() => recovery.folder.remove(&name)?,
            Err(error) => unreadable.push(format!("{name}: {error}")),
        }
    }
    let (journals, stale) = read.into_iter().partition(|one: &Read| {
        let known = |id| one.index.members.values().any(|member| member.taken.snapshot == id);
        recovery.held.iter().any(|held| known(held.id))
    });
    Ok(AllRead { journals, stale, unreadable })
}

fn read_one(folder: &Arc<dyn Folder>, name: &str) -> Result<Option<Read>> {
    let Some(file) = folder.open(name)? else { return Ok(None) };
    let mut records = Vec::new();
    let scan = scan(&*file, None, |record| {
        records.push(record);
        Ok(())
    })?;
    let mut index = Index::new(&scan.header);
    for record in records {
        index.add(record).map_err(|why| Error::new(ErrorKind::Corrupt, why))?;
    }
    Ok(Some(Read {
        name: name.to_owned(),
        scan,
        index,
        holdings: BTreeMap::new(),
        wrong: None,
        is_good: true,
    }))
}

/// What a device itself says against its snapshots.
fn speaks_against(found: &Returned, index: &Index) -> Option<String> {
    let (name, size) = (found.device.name(), found.device.geometry().size);
    let needed = index.members.values().map(|member| member.taken.size).max().unwrap_or(0);
    if size < needed {
        return Some(format!("device {name} has {size} bytes now, and had {needed}"));
    }
    let changed = index.clean.as_ref().is_some_and(|clean| *clean != found.fingerprint);
    changed.then(|| format!("device {name} was changed while no daemon was watching it"))
}

/// A store as all journals know it.
#[derive(Default)]
struct Known {
    specs: Vec<String>,
    /// The segments in which anything is.
    places: BTreeSet<u32>,
    wrong: Option<String>,
}

/// Opens the stores in which anything is.
fn open_stores(recovery: &Recovery<'_>, journals: &[Read], stale: &[Read], all_read: bool) -> Stores {
    let mut all: BTreeMap<Uuid, Known> = BTreeMap::new();
    for journal in journals.iter().chain(stale) {
        for known in journal.index.stores.values() {
            let Known { specs, .. } = all.entry(known.id).or_default();
            if specs.len() < known.specs.len() {
                specs.clone_from(&known.specs);
            }
        }
        let mut own: BTreeSet<(Uuid, u32)> = BTreeSet::new();
        for extents in journal.holdings.values().flat_map(|one| [&one.copied, &one.written]) {
            let used = extents.pieces().filter_map(|piece| piece.at);
            let known = used.filter_map(|at| Some((journal.index.stores.get(&at.store)?.id, at.segment)));
            own.extend(known);
        }
        for (id, place) in own {
            let Known { places, wrong, .. } = all.entry(id).or_default();
            // A segment is one history's.
            if !places.insert(place) {
                *wrong = Some(format!("two journals have segment {place} of its diff storage"));
            }
        }
    }
    let mut stores = HashMap::new();
    for (id, Known { specs, places, wrong }) in all {
        let needed = !places.is_empty() || recovery.held.iter().any(|held| held.id == id);
        let opened = match wrong {
            Some(why) => Err(why),
            None => open_store(recovery, id, &specs, places).map_err(|error| error.to_string()),
        };
        match opened {
            // Left by a removal that was cut short.
            Ok(opened) if !needed => opened.storage.keep(!all_read),
            Err(error) if !needed => tracing::warn!(store = specs.join(" + "), error, "cannot be given back"),
            opened => drop(stores.insert(id, opened)),
        }
    }
    stores
}

fn open_store(
    recovery: &Recovery<'_>,
    id: Uuid,
    specs: &[String],
    mut places: BTreeSet<u32>,
) -> Result<Opened> {
    let specs = specs.iter().map(|spec| StoreSpec::from_text(spec)).collect::<Result<Vec<_>>>()?;
    let storage = (recovery.open)(&specs)?;
    storage.keep(true);
    storage.check_label(id)?;
    places.insert(0);
    let segments = storage.adopt(&places)?.into_iter().map(|segment| (segment.place, segment));
    Ok(Opened { segments: segments.filter(|(place, _)| *place != 0).collect(), storage })
}

fn share(recovery: &Recovery<'_>, held: &HeldSnapshot, stores: &Stores) -> Arc<Shared> {
    let names = held.devices.iter().map(|device| device.name.clone()).collect();
    let storage = match stores.get(&held.id) {
        Some(Ok(opened)) => opened.storage.clone(),
        // It has failed; something has to stand there.
        _ => DiffStorage::nowhere(),
    };
    let shared =
        Shared::new((&held.name, held.id), names, storage, held.on_full, (recovery.events)(held), true);
    shared.storage.serve(&shared);
    shared
}

/// Why a snapshot cannot be exact.
fn reason(
    recovery: &Recovery<'_>,
    held: &HeldSnapshot,
    journals: &[Read],
    stores: &Stores,
    unreadable: &[String],
) -> Option<String> {
    if let Some(reason) = &held.failed {
        return Some(reason.clone());
    }
    for HeldDevice { name, .. } in &held.devices {
        if !recovery.devices.iter().any(|one| one.device.name() == name) {
            return Some(format!("device {name} is not there"));
        }
        let Some((journal, epoch)) = journal_of(journals, name, held.id) else {
            let damaged = unreadable.first().map(|why| format!(" ({why})")).unwrap_or_default();
            return Some(format!("no journal of device {name} knows it{damaged}"));
        };
        if let Some(wrong) = &journal.wrong {
            return Some(wrong.clone());
        }
        if let Some(failed) = journal.index.members.get(&epoch).and_then(|member| member.failed.clone()) {
            return Some(failed);
        }
        // It reads from its own interval on.
        for holding in journal.holdings.range(epoch..).map(|(_, holding)| holding) {
            // Of what was written to images, its own.
            let written = journal.holdings.get(&epoch).into_iter().flat_map(|own| own.written.pieces());
            for at in holding.copied.pieces().chain(written).filter_map(|piece| piece.at) {
                let id = journal.index.stores.get(&at.store).map(|known| known.id);
                if let Some(Err(why)) = id.and_then(|id| stores.get(&id)) {
                    return Some(why.clone());
                }
            }
        }
    }
    match stores.get(&held.id) {
        Some(Ok(_)) => None,
        Some(Err(why)) => Some(why.clone()),
        None => Some("no journal knows its diff storage".to_owned()),
    }
}

fn journal_of<'a>(journals: &'a [Read], device: &str, id: Uuid) -> Option<(&'a Read, u64)> {
    journals.iter().filter(|one| one.scan.header.device == device).find_map(|one| {
        let member = one.index.members.iter().find(|(_, member)| member.taken.snapshot == id);
        member.map(|(&epoch, _)| (one, epoch))
    })
}

/// Builds and attaches the history of one journal.
fn bring_back(
    recovery: &Recovery<'_>,
    journal: &Read,
    shared: &[Arc<Shared>],
    stores: &Stores,
) -> Result<Option<Named>> {
    let header = &journal.scan.header;
    let Some(found) = recovery.devices.iter().find(|one| one.device.name() == header.device) else {
        return Ok(None);
    };
    let opened = Record::Opened { last_epoch: journal.index.last_epoch };
    let removed = journal.index.dropped.iter().map(|&epoch| Record::Removed { epoch });
    let mut records: Vec<Record> = std::iter::once(opened).chain(removed).collect();
    if let Some(wrong) = &journal.wrong {
        // The device is used from now on without anything being preserved: that must not be believed next time.
        if journal.is_good {
            let failed = |&epoch: &u64| Record::Failed { epoch, reason: wrong.clone() };
            records.extend(journal.index.members.keys().map(failed));
            Journal::resume(recovery.folder.clone(), &journal.name, &journal.scan, records)?;
        }
        return Ok(None);
    }
    let device = &found.device;
    let history = History::again(header.generation, journal.index.last_epoch);
    history.set_origin(device.name());
    let slots = adopt(&history, journal, stores);
    let keeper =
        Keeper::new(Journal::resume(recovery.folder.clone(), &journal.name, &journal.scan, records)?);
    for (&number, known) in &journal.index.stores {
        if let Some(Ok(opened)) = stores.get(&known.id) {
            keeper.knows(number, &opened.storage);
        }
    }
    let cover = journal.index.members.values().map(|member| member.taken.size);
    let cover = cover.chain([device.geometry().size]).max().unwrap_or(0);
    let mut members = Vec::new();
    for (&epoch, holding) in &journal.holdings {
        let id = journal.index.members.get(&epoch).map(|member| member.taken.snapshot);
        let Some(snapshot) = shared.iter().find(|one| Some(one.id) == id) else { continue };
        let mut interval = Interval::new(cover, lanes(&snapshot.storage, snapshot.devices.len()));
        interval.epoch = epoch;
        fill(&interval, &holding.copied, &slots);
        let excluded = excluded_of(recovery, snapshot.id, device.name());
        exclude::leave_out(&interval, &excluded);
        history.exclusions.add(&excluded, &snapshot.storage);
        members.iter().for_each(|older: &Member| {
            older.snapshot.iter().for_each(|older| snapshot.storage.is_read_by(older));
        });
        snapshot.kept_by(&keeper, epoch);
        members.push(Member { interval: Arc::new(interval), snapshot: Some(snapshot.clone()) });
    }
    let chain = Chain::new(members, recovery.limits.hold, Some(keeper));
    attach(device, &history, chain, recovery.limits.freeze)?;
    Ok(Some((header.device.clone(), (history, slots))))
}

fn attach(device: &Arc<Device>, history: &Arc<History>, chain: Chain, freeze: Duration) -> Result<()> {
    let frozen = freeze_all(std::slice::from_ref(device), freeze)?;
    history.chain.store(Arc::new(chain));
    let filter: Arc<dyn Filter> = history.clone();
    for one in &frozen {
        *history.attachment() = Attachment::Attached(one.attach(filter.clone(), COW_ALTITUDE, None)?);
    }
    Ok(())
}

fn excluded_of(recovery: &Recovery<'_>, id: Uuid, device: &str) -> Vec<ByteRange> {
    let held = recovery.held.iter().find(|held| held.id == id);
    let of_device = held.and_then(|held| held.devices.iter().find(|one| one.name == device));
    of_device.map(|one| one.excluded.clone()).unwrap_or_default()
}

/// Where the first slot of each segment is in the history's numbers.
type Slots = HashMap<(u16, u32), u32>;

/// Gives the history the segments in which it has anything.
fn adopt(history: &History, journal: &Read, stores: &Stores) -> Slots {
    let mut slots = Slots::new();
    for extents in journal.holdings.values().flat_map(|one| [&one.copied, &one.written]) {
        for piece in extents.pieces() {
            let Some(at) = piece.at else { continue };
            let id = journal.index.stores.get(&at.store).map(|known| known.id);
            let Some(Ok(opened)) = id.and_then(|id| stores.get(&id)) else { continue };
            let Some(segment) = opened.segments.get(&at.segment) else { continue };
            segment.hold(u32::try_from(piece.count).unwrap_or(0));
            if slots.contains_key(&(at.store, at.segment)) {
                continue;
            }
            if let Some(sums) = journal.index.sums(at.store, at.segment) {
                segment.know_sums(0, sums);
            }
            if let Some(number) = history.table.insert(segment.clone()) {
                slots.insert((at.store, at.segment), number * SEGMENT_SLOTS);
            }
        }
    }
    slots
}

/// Puts blocks into an interval, those whose store is there.
fn fill(interval: &Interval, extents: &Extents, slots: &Slots) {
    let mut entries: Vec<(u16, SlotId)> = Vec::new();
    let mut zone = 0;
    for piece in extents.pieces() {
        let base = match piece.at {
            None => None,
            Some(at) => match slots.get(&(at.store, at.segment)) {
                Some(first) => Some(first + u32::from(at.slot)),
                None => continue,
            },
        };
        for (nth, granule) in (0u32..).zip(piece.first..piece.end()) {
            if granule / ZONE_GRANULES != zone {
                put(interval, zone, &mut entries);
                zone = granule / ZONE_GRANULES;
            }
            let slot = base.map_or(SlotId::ZERO, |base| SlotId(base + nth));
            entries.push((u16::try_from(granule % ZONE_GRANULES).unwrap_or(u16::MAX), slot));
        }
    }
    put(interval, zone, &mut entries);
}

fn put(interval: &Interval, zone: u64, entries: &mut Vec<(u16, SlotId)>) {
    let entries = std::mem::take(entries);
    if let Some(zone) = interval.zone_or_new(zone).filter(|_| !entries.is_empty()) {
        zone.absorb(&entries);
    }
}

/// Storages that only a snapshot that was removed had anything in.
fn drop_empty_stores(stores: Stores, shared: &[Arc<Shared>]) {
    for opened in stores.into_values().flatten() {
        let owned = shared.iter().any(|one| Arc::ptr_eq(&one.storage, &opened.storage));
        if !owned && !opened.storage.has_contents() {
            opened.storage.keep(false);
        }
    }
}

fn snapshot(
    recovery: &Recovery<'_>,
    held: &HeldSnapshot,
    shared: Arc<Shared>,
    journals: &[Read],
    histories: &Histories,
) -> Snapshot {
    let device = |device: &HeldDevice| {
        let found = recovery.devices.iter().find(|one| one.device.name() == device.name)?;
        let known = journal_of(journals, &device.name, held.id);
        let there = known.and_then(|_| histories.get(&device.name));
        let history = there.map_or_else(History::over, |(history, _)| history.clone());
        let epoch = known.map_or(0, |(_, epoch)| epoch);
        let mut geometry = found.device.geometry();
        if let Some(member) = known.and_then(|(journal, epoch)| journal.index.members.get(&epoch)) {
            geometry.size = member.taken.size;
        }
        let image =
            ImageStore::new(&found.device, &history, &shared, found.tracker.as_ref(), epoch, geometry);
        let written = known.and_then(|(journal, epoch)| Some(&journal.holdings.get(&epoch)?.written));
        if let (Some(written), Some((_, slots))) = (written, there)
            && !written.is_empty()
        {
            // Cannot fail: it was not removed.
            let _ = image.restore(|interval| fill(interval, written, slots));
        }
        let origin = found.device.clone();
        Some(SnapshotDevice { origin, history, image, epoch, tracked: device.tracked })
    };
    let devices = held.devices.iter().filter_map(device).collect();
    Snapshot { taken_at: held.taken_at, frozen_for: Duration::ZERO, devices, shared }
}

impl History {
    /// One that nothing happens to any more.
    fn over() -> Arc<Self> {
        let this = Self::again(Uuid::new_v4(), 0);
        *this.attachment() = Attachment::Over;
        this
    }
}

impl DiffStorage {
    /// What a failed snapshot has whose storage is not there.
    fn nowhere() -> Arc<Self> {
        let spec = StoreSpec { kind: StoreKind::Memory, limit: SEGMENT_BYTES, step: SEGMENT_BYTES };
        Self::of_nothing(spec)
    }
}
