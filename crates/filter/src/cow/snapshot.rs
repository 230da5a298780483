//! Taking a snapshot, and what it can be asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bowline_block::{ByteRange, Error, ErrorKind, Filter, Result, Store};
use bowline_device::{Device, Frozen, freeze_all};
use bowline_state::Folder;
use uuid::Uuid;

use super::chain::{Chain, Member};
use super::events::SnapshotEvents;
use super::exclude;
use super::history::{Attachment, COW_ALTITUDE, History};
use super::image::ImageStore;
use super::interval::Interval;
use super::journal::{self, Record, Ticket};
use super::keeper::Keeper;
use super::persist;
use super::segment::SEGMENT_BYTES;
use super::shared::{OnFull, Shared, SnapshotState};
use super::store::DiffStorage;
use crate::track::{Closed, Tracker};

/// Lanes of an interval, where diff storage is large enough.
const LANES_MAX: usize = 8;

/// How long a snapshot may keep others waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight at the take, and with them all new ones.
    pub freeze: Duration,
    /// A write whose old contents are being preserved; then the snapshot fails and the write goes on.
    pub hold: Duration,
    /// A write for which there is no room in diff storage.
    pub on_full: OnFull,
}

impl Default for Limits {
    fn default() -> Self {
        Self { freeze: Duration::from_secs(5), hold: Duration::from_secs(10), on_full: OnFull::Drop }
    }
}

/// A device that is to be taken, with what earlier takes left of it.
#[derive(Clone)]
pub struct Origin {
    /// The device.
    pub device: Arc<Device>,
    /// The history that an earlier snapshot of it gave, as long as there is one.
    pub history: Option<Arc<History>>,
    /// Its tracker, if it has one: the take closes an epoch of it.
    pub tracker: Option<Arc<Tracker>>,
    /// Where the diff storage lies on the device itself, in bytes of the device: see [`StoreSpec::ranges_on`]. Images read
    /// zeroes there, and a write to it through the device fails the snapshot.
    ///
    /// [`StoreSpec::ranges_on`]: super::StoreSpec::ranges_on
    pub excluded: Vec<ByteRange>,
}

impl Origin {
    /// A device without a tracker, all of it.
    #[must_use]
    pub fn new(device: Arc<Device>, history: Option<Arc<History>>) -> Self {
        Self { device, history, tracker: None, excluded: Vec::new() }
    }
}

/// A snapshot: images of one or several devices at one instant.
///
/// It ends by [`Snapshot::remove`]. Dropping this handle alone leaves it in its origins' histories, where it goes on to
/// cost copies and space until the origins themselves go.
pub struct Snapshot {
    pub(crate) shared: Arc<Shared>,
    pub(crate) taken_at: SystemTime,
    pub(crate) frozen_for: Duration,
    pub(crate) devices: Vec<SnapshotDevice>,
}

/// One device of a snapshot.
pub struct SnapshotDevice {
    pub(crate) origin: Arc<Device>,
    pub(crate) history: Arc<History>,
    pub(crate) image: Arc<ImageStore>,
    /// That of the history.
    pub(crate) epoch: u64,
    pub(crate) tracked: Option<Closed>,
}

/// What a snapshot's take of one device costs so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PreservedStats {
    /// Blocks of 4 KiB preserved from this take to the next.
    pub blocks: u64,
    /// Of these, blocks that are kept in diff storage; the rest were zero.
    pub stored_blocks: u64,
}

impl SnapshotDevice {
    /// The origin.
    #[must_use]
    pub fn origin(&self) -> &Arc<Device> {
        &self.origin
    }

    /// The origin's history, to be given to the next take of it.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The image, to be made a device.
    #[must_use]
    pub fn image(&self) -> &Arc<ImageStore> {
        &self.image
    }

    /// The epoch of the device's tracker that this take closed, if it had one.
    #[must_use]
    pub fn tracked(&self) -> Option<Closed> {
        self.tracked
    }

    /// Whether the device goes back to this snapshot just now. Then it must not be removed.
    #[must_use]
    pub fn is_rolling_back(&self) -> bool {
        self.history.rollback_of() == Some(self.image.snapshot_id())
    }

    /// The number of this take among those of the generation: the tracker's where there is one, else the history's.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.tracked.map_or(self.epoch, |closed| closed.epoch)
    }

    /// Under which epochs are comparable.
    #[must_use]
    pub fn generation(&self) -> Uuid {
        self.tracked.map_or_else(|| self.history.generation(), |closed| closed.generation)
    }

    /// Bytes of the origin at the take.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.image.size
    }

    /// What was preserved so far.
    #[must_use]
    pub fn stats(&self) -> PreservedStats {
        let chain = self.history.chain.load();
        let own = chain.position(self.epoch).and_then(|own| chain.members.get(own));
        let (blocks, stored_blocks) = own.map_or((0, 0), |member| member.interval.counts());
        PreservedStats { blocks, stored_blocks }
    }
}

impl Snapshot {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Unique for ever.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.shared.id
    }

    /// The instant.
    #[must_use]
    pub fn taken_at(&self) -> SystemTime {
        self.taken_at
    }

    /// How long the devices took no requests for it.
    #[must_use]
    pub fn frozen_for(&self) -> Duration {
        self.frozen_for
    }

    /// Its devices, in the order they were named.
    #[must_use]
    pub fn devices(&self) -> &[SnapshotDevice] {
        &self.devices
    }

    /// Its part of that origin.
    #[must_use]
    pub fn device(&self, origin: &str) -> Option<&SnapshotDevice> {
        self.devices.iter().find(|device| device.origin.name() == origin)
    }

    /// Whether its images can be read.
    #[must_use]
    pub fn state(&self) -> SnapshotState {
        self.shared.state()
    }

    /// Whether it outlives the daemon.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.shared.is_persistent()
    }

    /// Its diff storage.
    #[must_use]
    pub fn storage(&self) -> &Arc<DiffStorage> {
        &self.shared.storage
    }
}

/// Takes a snapshot of the devices, all at one instant, and closes an epoch of each one's tracker. Either all are taken
/// or nothing changes. Must not be called on a queue thread.
///
/// # Errors
/// *Invalid* for no device or one named twice; *unsupported* for a read-only device; *exists* when a
/// device has another history than the one given; *busy* while a rollback of a device is not over; *timeout* when
/// requests in flight did not end in time; *gone* for a device that was removed.
pub fn take(
    name: &str,
    origins: &[Origin],
    storage: &Arc<DiffStorage>,
    on_event: Arc<dyn SnapshotEvents>,
    limits: Limits,
) -> Result<Snapshot> {
    take_kept(name, origins, storage, on_event, limits, None)
}

/// The same, and with a folder for its journals it outlives the daemon.
pub(crate) fn take_kept(
    name: &str,
    origins: &[Origin],
    storage: &Arc<DiffStorage>,
    on_event: Arc<dyn SnapshotEvents>,
    limits: Limits,
    folder: Option<&Arc<dyn Folder>>,
) -> Result<Snapshot> {
    check(origins)?;
    let names = origins.iter().map(|origin| origin.device.name().to_owned()).collect();
    let id = (name, Uuid::new_v4());
    let shared = Shared::new(id, names, storage.clone(), limits.on_full, on_event, folder.is_some());
    let lanes = lanes(storage, origins.len());
    // All that takes time is made ready before: what remains under the freeze does not depend on any size.
    let mut prepared: Vec<Prepared> = origins.iter().map(|origin| Prepared::new(origin, lanes)).collect();
    prepared.iter().for_each(Prepared::preserve_excluded);
    if let Some(folder) = folder {
        persist::prepare(&mut prepared, &shared, folder)?;
    }
    let devices: Vec<_> = origins.iter().map(|origin| origin.device.clone()).collect();

    let begun = Instant::now();
    let frozen = freeze_all(&devices, limits.freeze)?;
    let taken_at = SystemTime::now();
    attach_all(&mut prepared, &frozen)?;
    storage.serve(&shared);
    // From now on it may be written to.
    prepared.iter().for_each(|one| one.history.exclusions.add(&one.excluded, storage));
    let taken: Vec<_> = prepared.into_iter().map(|one| one.commit(&shared, lanes, limits.hold)).collect();
    drop(frozen);
    let frozen_for = begun.elapsed();

    let (mut devices, mut tickets) = (Vec::with_capacity(taken.len()), Vec::new());
    for Taken { device, earlier, ticket } in taken {
        // The interval before this one is over: what its lanes hold may go to its file.
        if let Some(earlier) = earlier {
            earlier.lanes.seal(&device.history.table);
        }
        devices.push(device);
        tickets.extend(ticket);
    }
    let snapshot = Snapshot { shared, taken_at, frozen_for, devices };
    if folder.is_some() {
        persist::complete(&snapshot, &tickets, limits)?;
    }
    Ok(snapshot)
}

/// Lanes of an interval for that storage.
pub(crate) fn lanes(storage: &DiffStorage, origins: usize) -> usize {
    let lanes = (storage.limit() / SEGMENT_BYTES / 8 / origins.max(1) as u64).clamp(1, LANES_MAX as u64);
    usize::try_from(lanes).unwrap_or(1)
}

/// A device that was taken.
struct Taken {
    device: SnapshotDevice,
    earlier: Option<Arc<Interval>>,
    /// That the journal knows of it.
    ticket: Option<Ticket>,
}

fn check(origins: &[Origin]) -> Result<()> {
    let refuse = |kind, why: &str| Err(Error::new(kind, why).op("take a snapshot"));
    if origins.is_empty() {
        return refuse(ErrorKind::Invalid, "no device is named");
    }
    for (at, Origin { device, history, excluded, .. }) in origins.iter().enumerate() {
        if origins.iter().take(at).any(|other| Arc::ptr_eq(&other.device, device)) {
            return refuse(ErrorKind::Invalid, &format!("device {} is named twice", device.name()));
        }
        if device.is_gone() {
            return refuse(ErrorKind::Gone, &format!("device {} was removed", device.name()));
        }
        if device.geometry().read_only {
            let why = format!("device {} is read-only: it never changes anyway", device.name());
            return refuse(ErrorKind::Unsupported, &why);
        }
        if history.as_ref().is_some_and(|history| history.rollback().is_some()) {
            let why = format!("a rollback of device {} is not over", device.name());
            return refuse(ErrorKind::Busy, &why);
        }
        exclude::check(excluded, device.name(), device.geometry().size)?;
    }
    Ok(())
}

/// A device on its way to be taken.
pub(crate) struct Prepared {
    pub(crate) device: Arc<Device>,
    pub(crate) history: Arc<History>,
    interval: Interval,
    tracker: Option<Arc<Tracker>>,
    excluded: Vec<ByteRange>,
    /// Where a persistent snapshot is recorded, and the number of its store there.
    pub(crate) keeper: Option<(Arc<Keeper>, u16)>,
}

impl Prepared {
    fn new(origin: &Origin, lanes: usize) -> Self {
        let Origin { device, history, tracker, excluded } = origin.clone();
        let history = history.filter(|history| !history.is_over()).unwrap_or_else(History::new);
        let interval = Self::interval(&device, &history, lanes, &excluded);
        if let Some(tracker) = &tracker {
            tracker.prepare_close();
        }
        Self { device, history, interval, tracker, excluded, keeper: None }
    }

    fn preserve_excluded(&self) {
        if !self.excluded.is_empty() && self.history.chain.load().is_copying() {
            self.history.preserve_excluded(&self.excluded, &self.device);
        }
    }

    fn interval(device: &Device, history: &History, lanes: usize, excluded: &[ByteRange]) -> Interval {
        let chain = history.chain.load();
        // Older images may be larger than the device is now, should it have shrunk beneath us.
        let cover = chain.current().map_or(0, |current| current.cover).max(device.geometry().size);
        let interval = Interval::new(cover, lanes);
        exclude::leave_out(&interval, excluded);
        // Others may have contents there.
        exclude::leave_out(&interval, &history.exclusions.ranges());
        interval
    }

    /// Begins the new interval; gives the part of the snapshot, and the interval before.
    fn commit(mut self, shared: &Arc<Shared>, lanes: usize, hold: Duration) -> Taken {
        let geometry = self.device.geometry();
        let chain = self.history.chain.load_full();
        let cover = chain.current().map_or(0, |current| current.cover).max(geometry.size);
        if self.interval.cover < cover {
            // Resized since it was prepared.
            self.interval = Self::interval(&self.device, &self.history, lanes, &self.excluded);
        }
        // Nobody else counts: the device is frozen.
        let epoch = self.history.last_epoch.fetch_add(1, Ordering::Relaxed) + 1;
        self.interval.epoch = epoch;
        self.history.set_origin(self.device.name());
        chain.snapshots().for_each(|older| shared.storage.is_read_by(older));
        let earlier = chain.current_interval();
        let excluded = [self.excluded, self.history.exclusions.ranges()].concat();
        let ticket = self.keeper.as_ref().map(|(keeper, store)| {
            let taken = journal::Taken { epoch, snapshot: shared.id, size: geometry.size, store: *store };
            persist::record_take(keeper, shared, taken, &excluded)
        });
        let keeper = self.keeper.map(|(keeper, _)| keeper).or_else(|| chain.keeper.clone());
        if let Some(keeper) = keeper.as_ref().filter(|_| ticket.is_none()) {
            // The number is not used again, also if nothing else ever names it.
            keeper.journal.commit(Vec::new(), vec![Record::Opened { last_epoch: epoch }]);
        }
        let member = Member { interval: Arc::new(self.interval), snapshot: Some(shared.clone()) };
        self.history.chain.store(Arc::new(Chain::with(&chain, member, hold, keeper)));
        let image =
            ImageStore::new(&self.device, &self.history, shared, self.tracker.as_ref(), epoch, geometry);
        let tracked = self.tracker.map(|tracker| tracker.close_epoch(&shared.name));
        let device = SnapshotDevice { origin: self.device, history: self.history, image, epoch, tracked };
        Taken { device, earlier, ticket }
    }
}

/// Attaches the histories that are new, or none.
pub(crate) fn attach_all(prepared: &mut [Prepared], frozen: &[Frozen]) -> Result<()> {
    let mut attached: Vec<(&Frozen, Arc<History>)> = Vec::new();
    let mut result = Ok(());
    for one in prepared {
        let Some(frozen) = frozen.iter().find(|frozen| Arc::ptr_eq(frozen.device(), &one.device)) else {
            continue;
        };
        let state = *one.history.attachment();
        if let Attachment::Attached(id) = state {
            if one.device.filters().iter().any(|filter| filter.id == id) {
                continue;
            }
            let why = "the history given is that of another device";
            result = Err(Error::new(ErrorKind::Invalid, why).device(one.device.name()));
            break;
        }
        if state == Attachment::Over && one.keeper.is_some() {
            let why = "its last snapshot was removed just now; take again";
            result = Err(Error::new(ErrorKind::Busy, why).device(one.device.name()));
            break;
        }
        if state == Attachment::Over {
            // Its last snapshot was removed since it was prepared.
            one.history = History::new();
        }
        let filter: Arc<dyn Filter> = one.history.clone();
        match frozen.attach(filter, COW_ALTITUDE, None) {
            Ok(id) => {
                *one.history.attachment() = Attachment::Attached(id);
                attached.push((frozen, one.history.clone()));
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    if result.is_err() {
        for (frozen, history) in attached {
            let before = std::mem::replace(&mut *history.attachment(), Attachment::Over);
            if let Attachment::Attached(id) = before {
                let _ = frozen.detach(id);
            }
        }
    }
    result
}
