//! Persistent snapshots: taking one, removing one, and putting them away for the next start.
//!
//! The daemon's document decides which are held: see `docs/adr/0009-persistent-snapshots.md`. A take is recorded in all
//! journals when it returns, and is to be put into the document then; a removal is to be taken out of it before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bowline_block::{ByteRange, Error, ErrorKind, Io, Request, Result, Store};
use bowline_device::Device;
use bowline_state::Folder;

use super::SnapshotEvents;
use super::granule::{GRANULE_BYTES, Granules};
use super::history::History;
use super::journal::{Header, Journal, Record, Taken, Ticket, Zero};
use super::keeper::{Keeper, settle};
use super::shared::Shared;
use super::snapshot::{Limits, Origin, Prepared, Snapshot, SnapshotDevice, take_kept};
use super::store::DiffStorage;
use super::wait;

/// What the name of a journal ends with.
pub(crate) const JOURNAL: &str = ".journal";
/// How long the flush of an origin may take at a take.
const FLUSH: Duration = Duration::from_secs(60);

/// Takes a snapshot that outlives the daemon, as [`super::take`] does one that does not; `folder` is for the journals, one per
/// device. The storage is one that can be kept, and nothing is in it.
///
/// # Errors
/// As [`super::take`]; *invalid* for storage in memory or in an unnamed file, or in use; *io* when a journal cannot be
/// written or an origin not be flushed. Then nothing was taken.
pub fn take_persistent(
    name: &str,
    origins: &[Origin],
    storage: &Arc<DiffStorage>,
    on_event: Arc<dyn SnapshotEvents>,
    limits: Limits,
    folder: &Arc<dyn Folder>,
) -> Result<Snapshot> {
    let taken = take_kept(name, origins, storage, on_event, limits, Some(folder));
    if taken.is_err() {
        storage.keep(false);
    }
    taken
}

/// Before the freeze: the journals, and the storage's place in each.
pub(crate) fn prepare(
    prepared: &mut [Prepared],
    shared: &Arc<Shared>,
    folder: &Arc<dyn Folder>,
) -> Result<()> {
    let storage = &shared.storage;
    for spec in storage.stores() {
        spec.to_text()?;
    }
    storage.keep(true);
    storage.label(shared.id)?;
    for spec in storage.stores() {
        spec.sync_name()?;
    }
    for one in prepared {
        let keeper = match one.history.chain.load().keeper.clone() {
            Some(keeper) => keeper,
            None => begin(&one.history, &one.device, folder)?,
        };
        let (number, records) = keeper.number(storage, shared.id)?;
        keeper.record(records)?;
        one.keeper = Some((keeper, number));
    }
    Ok(())
}

/// Begins a history's journal.
fn begin(history: &History, device: &Device, folder: &Arc<dyn Folder>) -> Result<Arc<Keeper>> {
    let geometry = device.geometry();
    let header = Header {
        generation: history.generation(),
        device: device.name().to_owned(),
        size: geometry.size,
        block_bytes: u32::try_from(geometry.block_size.bytes()).unwrap_or(512),
    };
    let name = format!("{}{JOURNAL}", history.generation());
    let first = [Record::Opened { last_epoch: history.last_epoch() }];
    Ok(Keeper::new(Journal::create(folder.clone(), &name, header, &first)?))
}

/// Under the freeze: asks for the take to be recorded, before any copy that it causes.
pub(crate) fn record_take(
    keeper: &Arc<Keeper>,
    shared: &Arc<Shared>,
    taken: Taken,
    excluded: &[ByteRange],
) -> Ticket {
    let epoch = taken.epoch;
    let zero = |range: &ByteRange| {
        let Granules { first, end } = Granules::touched_by(*range);
        let end = end.min(taken.size.div_ceil(GRANULE_BYTES));
        (first < end).then(|| Record::Zero(Zero { epoch, first, count: end - first }))
    };
    let records = std::iter::once(Record::Member(taken)).chain(excluded.iter().filter_map(zero)).collect();
    let ticket = keeper.journal.commit(Vec::new(), records);
    shared.kept_by(keeper, epoch);
    ticket
}

/// After the freeze: what the image shares with its origin must be as durable as the snapshot is.
pub(crate) fn complete(snapshot: &Snapshot, tickets: &[Ticket], limits: Limits) -> Result<()> {
    let flushed = || -> Result<()> {
        for SnapshotDevice { origin, .. } in &snapshot.devices {
            flush(origin)?;
        }
        for (device, ticket) in snapshot.devices.iter().zip(tickets) {
            if let Some(keeper) = &device.history.chain.load().keeper {
                settle(ticket, &keeper.journal)?;
            }
        }
        snapshot.shared.check()
    };
    flushed().inspect_err(|error| {
        snapshot.shared.end(format!("it could not be taken: {error}"));
        if let Err(error) = snapshot.remove(limits.freeze) {
            tracing::warn!(snapshot = snapshot.name(), %error, "cannot be removed again");
        }
    })
}

fn flush(device: &Arc<Device>) -> Result<()> {
    let mut result = Err(Error::new(ErrorKind::Timeout, format!("a flush took longer than {FLUSH:?}")));
    wait::here(async {
        if let Some(done) = wait::bounded(FLUSH, device.submit(Io::bare(Request::flush()))).await {
            result = done.result;
        }
    });
    result.map_err(|error| error.device(device.name()))
}

/// Before a removal: it is recorded. A journal that has failed brings nothing back anyway.
pub(crate) fn record_removal(device: &SnapshotDevice) -> Result<()> {
    let chain = device.history.chain.load_full();
    let Some(keeper) = chain.keeper.as_ref().filter(|_| device.image.snapshot.is_persistent()) else {
        return Ok(());
    };
    if chain.position(device.epoch).is_none() {
        return Ok(());
    }
    match keeper.record(vec![Record::Removed { epoch: device.epoch }]) {
        Err(error) if error.kind() == ErrorKind::Timeout => Err(error),
        _ => Ok(()),
    }
}

/// After a removal: storages in which nothing is left are nobody's.
pub(crate) fn forget(snapshot: &Snapshot) {
    for device in &snapshot.devices {
        let chain = device.history.chain.load();
        if let Some(keeper) = &chain.keeper {
            keeper.drop_unused(|storage| chain.snapshots().any(|one| Arc::ptr_eq(&one.storage, storage)));
        }
    }
    snapshot.shared.not_kept();
    if snapshot.is_persistent() && !snapshot.shared.storage.has_contents() {
        snapshot.shared.storage.keep(false);
    }
}

impl Snapshot {
    /// Makes what was written to its images durable, before [`History::suspend`] of its devices.
    ///
    /// # Errors
    /// What a flush of an image says.
    pub fn save_images(&self) -> Result<()> {
        self.devices.iter().map(|device| device.image.save()).fold(Ok(()), Result::and)
    }
}

impl History {
    /// Puts the persistent snapshots of a device away for the next start: nothing is given back, and when they come back
    /// the origin has to have this fingerprint. The device takes no requests any more; image writes were flushed. Without
    /// persistent snapshots this does nothing.
    ///
    /// # Errors
    /// When it cannot be recorded: they come back as after a crash then.
    pub fn suspend(&self, fingerprint: Vec<u8>) -> Result<()> {
        let Some(keeper) = self.chain.load().keeper.clone() else { return Ok(()) };
        keeper.record(vec![Record::Clean { fingerprint }])?;
        keeper.journal.close(false)?;
        self.is_put_away.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether there are persistent snapshots.
    #[must_use]
    pub fn has_persistent(&self) -> bool {
        self.chain.load().is_durable
    }
}
