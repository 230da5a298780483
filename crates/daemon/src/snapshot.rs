//! `bowline snapshot`: take, list, show, remove; and what is kept of it for each origin.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bowline_api::snapshot::LIMIT_DEFAULT;
use bowline_api::{
    ApiError, ErrorKind, EventKind, OnFull, Snapshot, SnapshotDevice, SnapshotState, SnapshotStore,
    SnapshotTake, StoreKind, StorePart, Timestamp, Tracking,
};
use bowline_block::Store;
use bowline_device::{Device, freeze_all};
use bowline_filter::cow;

use crate::daemon::{Daemon, FREEZE_LIMIT};
use crate::error::failed;
use crate::events::EventLog;
use crate::export::stop_all;
use crate::tables::{DeviceEntry, Tables};

/// Bytes a file grows by when nothing else is said.
const STEP_DEFAULT: u64 = 64 << 20;

/// What snapshots keep of a device: its history, as long as there is a snapshot of it.
#[derive(Clone, Default)]
pub(crate) struct OriginState(Arc<Mutex<Option<Arc<cow::History>>>>);

impl OriginState {
    fn history(&self) -> Option<Arc<cow::History>> {
        let history = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        history.filter(|history| !history.is_over())
    }

    fn keep(&self, history: Option<Arc<cow::History>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = history;
    }

    pub(crate) fn tracking(&self) -> Tracking {
        self.history().map_or_else(Tracking::default, |history| Tracking {
            generation: Some(history.generation()),
            epoch: Some(history.last_epoch() + 1),
            granularity: Some(cow::GRANULE_BYTES),
            ..Tracking::default()
        })
    }

    /// Memory of the index, bits included.
    pub(crate) fn index_bytes(&self) -> u64 {
        self.history().map_or(0, |history| {
            let memory = history.memory();
            memory.index_bytes + memory.bit_bytes
        })
    }
}

/// A snapshot with the names the daemon knows it by.
#[derive(Clone)]
pub(crate) struct SnapshotEntry {
    pub(crate) name: String,
    pub(crate) taken: Arc<cow::Snapshot>,
    pub(crate) removing: bool,
}

impl SnapshotEntry {
    /// Whether it has an image of the device.
    pub(crate) fn has(&self, device: &str) -> bool {
        self.taken.device(device).is_some()
    }

    /// Blocks of 4 KiB that were preserved for it.
    pub(crate) fn preserved_blocks(&self) -> u64 {
        self.taken.devices().iter().map(|device| device.stats().blocks).sum()
    }

    pub(crate) fn describe(&self) -> Snapshot {
        let taken = &self.taken;
        let (state, reason) = match taken.state() {
            _ if self.removing => (SnapshotState::Removing, None),
            cow::SnapshotState::Active => (SnapshotState::Active, None),
            cow::SnapshotState::Failed { reason } => (SnapshotState::Failed, Some(reason)),
        };
        let storage = taken.storage();
        let (kind, location) = match &storage.spec().kind {
            cow::StoreKind::Memory => (StoreKind::Mem, None),
            _ => (StoreKind::File, Some(storage.location())),
        };
        Snapshot {
            name: self.name.clone(),
            id: taken.id(),
            taken_at: Timestamp::from_system(taken.taken_at()),
            frozen_us: u64::try_from(taken.frozen_for().as_micros()).unwrap_or(u64::MAX),
            devices: taken.devices().iter().map(|device| self.describe_device(device)).collect(),
            state,
            reason,
            on_full: OnFull::Drop,
            hold_timeout_ms: None,
            persistent: false,
            stores: vec![StorePart {
                kind,
                location: location.clone(),
                used: Some(storage.used()),
                limit: storage.limit(),
            }],
            frozen_file_systems: Vec::new(),
            rollback: Vec::new(),
            store: SnapshotStore {
                kind,
                used: storage.used(),
                limit: storage.limit(),
                step: storage.spec().step,
                location,
            },
        }
    }

    fn describe_device(&self, device: &cow::SnapshotDevice) -> SnapshotDevice {
        let name = device.origin().name();
        SnapshotDevice {
            name: name.to_owned(),
            image: bowline_api::names::image(&self.name, name),
            epoch: device.epoch(),
            generation: device.generation(),
            size: device.size(),
            preserved: device.stats().blocks * cow::GRANULE_BYTES,
        }
    }
}

/// Turns what a snapshot tells about itself into events.
struct Teller(Arc<EventLog>);

impl Teller {
    /// An event about diff storage, with its numbers.
    fn post_space(&self, kind: EventKind, message: String, snapshot: &str, space: &cow::Space<'_>) {
        let mut event = self.0.draft(kind, message).snapshot(snapshot);
        if let Some(device) = space.device {
            event = event.device(device);
        }
        if let Some(errno) = space.cause.and_then(|cause| cause.errno) {
            event = event.number("errno", u64::from(errno.unsigned_abs()));
        }
        event.number("used", space.used).number("size", space.size).number("limit", space.limit).post();
    }
}

impl cow::SnapshotEvents for Teller {
    fn low_space(&self, snapshot: &str, space: &cow::Space<'_>) {
        let cow::Space { used, limit, .. } = space;
        let message = format!("diff storage of snapshot {snapshot} is nearly full: {used} of {limit} bytes");
        self.post_space(EventKind::LowSpace, message, snapshot, space);
    }

    fn grown(&self, snapshot: &str, space: &cow::Space<'_>) {
        let message = format!("diff storage of snapshot {snapshot} has grown to {} bytes", space.size);
        self.post_space(EventKind::Grown, message, snapshot, space);
    }

    fn no_space(&self, snapshot: &str, space: &cow::Space<'_>) {
        let cow::Space { used, limit, .. } = space;
        let cause = space.cause.map_or(String::new(), |cause| format!(": {}", cause.kind.name()));
        let message =
            format!("diff storage of snapshot {snapshot} takes no more: {used} of {limit} bytes{cause}");
        self.post_space(EventKind::NoSpace, message, snapshot, space);
    }

    fn holding(&self, snapshot: &str, space: &cow::Space<'_>, timeout: std::time::Duration) {
        let message = format!(
            "writers wait for room in the diff storage of snapshot {snapshot}, for {} s at most",
            timeout.as_secs()
        );
        self.post_space(EventKind::Holding, message, snapshot, space);
    }

    fn failed(&self, snapshot: &str, failure: &cow::Failure<'_>) {
        let message = format!("snapshot {snapshot} failed, its devices go on: {}", failure.reason);
        let mut event = self.0.draft(EventKind::Failed, message).snapshot(snapshot);
        if let Some(errno) = failure.cause.and_then(|cause| cause.errno) {
            event = event.number("errno", u64::from(errno.unsigned_abs()));
        }
        if let [device] = failure.devices {
            event = event.device(device);
        }
        event.number("used", failure.used).number("limit", failure.limit).post();
    }

    fn device_gone(&self, snapshot: &str, device: &str, cause: Option<cow::Cause>) {
        let cause = cause.map_or(String::new(), |cause| format!(": {}", cause.kind.name()));
        let message = format!("device {device} of snapshot {snapshot} is gone{cause}");
        self.0.draft(EventKind::DeviceGone, message).snapshot(snapshot).device(device).post();
    }
}

impl Daemon {
    pub(crate) fn snapshot_take(&self, request: &SnapshotTake) -> Result<Snapshot, ApiError> {
        request.check()?;
        crate::unwired::check_take(request)?;
        let _turn = self.change();
        let name = self.snapshot_name(request.name.as_deref())?;
        let what = format!("take snapshot {name}");
        let origins = self.origins(&request.devices)?;
        let storage = cow::DiffStorage::open(store_spec(request)).map_err(|error| failed(&what, &error))?;
        let limits = cow::Limits { freeze: FREEZE_LIMIT, ..cow::Limits::default() };
        let teller = Arc::new(Teller(self.events.clone()));
        let taken_of: Vec<_> = origins
            .iter()
            .map(|entry| cow::Origin::new(entry.device.clone(), entry.origin.history()))
            .collect();
        let taken =
            cow::take(&name, &taken_of, &storage, teller, limits).map_err(|error| failed(&what, &error))?;
        for (entry, device) in origins.iter().zip(taken.devices()) {
            entry.origin.keep(Some(device.history().clone()));
        }
        let entry = SnapshotEntry { name: name.clone(), taken: Arc::new(taken), removing: false };
        let snapshot = entry.describe();
        self.note_snapshot(entry);
        self.events
            .draft(
                EventKind::SnapshotTaken,
                format!("snapshot {name} of {} was taken", request.devices.join(", ")),
            )
            .snapshot(&name)
            .number("frozen_us", snapshot.frozen_us)
            .post();
        self.save(format_args!("snapshot {name} is taken"))?;
        Ok(snapshot)
    }

    /// The name asked for, if it is free, or one made from the time.
    fn snapshot_name(&self, asked: Option<&str>) -> Result<String, ApiError> {
        let tables = self.read();
        let taken = |name: &str| tables.snapshots.iter().any(|snapshot| snapshot.name == name);
        if let Some(name) = asked {
            if taken(name) {
                let what = format!("take snapshot {name}");
                let why = "there is a snapshot of that name";
                return Err(ApiError::new(ErrorKind::AlreadyExists, what, why, "choose another name"));
            }
            return Ok(name.to_owned());
        }
        let now = Timestamp::now().to_string();
        let base: String = now.chars().take(19).filter(|c| *c != '-' && *c != ':').collect();
        let numbered = (2..).map(|n: u32| format!("{base}-{n}"));
        Ok(std::iter::once(base.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(base))
    }

    fn origins(&self, names: &[String]) -> Result<Vec<DeviceEntry>, ApiError> {
        let tables = self.read();
        names.iter().map(|name| tables.device(name).cloned()).collect()
    }

    /// Notes a snapshot, and its images as devices.
    fn note_snapshot(&self, entry: SnapshotEntry) {
        let mut tables = self.write();
        for device in entry.taken.devices() {
            let name = bowline_api::names::image(&entry.name, device.origin().name());
            let image: Arc<dyn Store> = device.image().clone();
            let image = DeviceEntry {
                device: Device::new(name.clone(), image),
                source: format!("image:{name}"),
                cache: None,
                notice: None,
                memory: None,
                read_only: true,
                asked: None,
                origin: OriginState::default(),
            };
            tables.devices.insert(name, image);
        }
        tables.snapshots.push(entry);
    }

    pub(crate) fn snapshot_list(&self) -> Vec<Snapshot> {
        self.read().snapshots.iter().map(SnapshotEntry::describe).collect()
    }

    pub(crate) fn snapshot_show(&self, name: &str) -> Result<Snapshot, ApiError> {
        Ok(self.read().snapshot(name)?.describe())
    }

    pub(crate) fn snapshot_remove(&self, name: &str) -> Result<(), ApiError> {
        let _turn = self.change();
        self.remove_snapshot(name)?;
        self.save(format_args!("snapshot {name} is removed"))
    }

    /// Takes out the images, then the snapshot; the caller has the turn. What fails on the way leaves the snapshot
    /// listed, and removing it can be tried again.
    pub(crate) fn remove_snapshot(&self, name: &str) -> Result<(), ApiError> {
        let what = format!("remove snapshot {name}");
        let taken = self.read().snapshot(name)?.taken.clone();
        self.mark_removing(name);
        for device in taken.devices() {
            self.take_out_image(&bowline_api::names::image(name, device.origin().name()))?;
        }
        taken.remove(FREEZE_LIMIT).map_err(|error| failed(&what, &error))?;
        let mut tables = self.write();
        tables.snapshots.retain(|snapshot| snapshot.name != name);
        forget_histories(&tables, &taken);
        drop(tables);
        self.events
            .draft(EventKind::SnapshotRemoved, format!("snapshot {name} was removed"))
            .snapshot(name)
            .post();
        Ok(())
    }

    fn mark_removing(&self, name: &str) {
        for snapshot in self.write().snapshots.iter_mut().filter(|snapshot| snapshot.name == name) {
            snapshot.removing = true;
        }
    }

    /// Ends an image's device: readers inside finish, later ones hear that it is gone.
    fn take_out_image(&self, image: &str) -> Result<(), ApiError> {
        let Some(device) = self.read().devices.get(image).map(|entry| entry.device.clone()) else {
            return Ok(());
        };
        let frozen = freeze_all(std::slice::from_ref(&device), FREEZE_LIMIT)
            .map_err(|error| failed(format_args!("remove image {image}"), &error))?;
        let ended = self.forget_device(&mut self.write(), image);
        frozen.into_iter().for_each(bowline_device::Frozen::remove);
        self.disconnect(image);
        stop_all(ended);
        Ok(())
    }
}

/// Histories that have come to their end are let go.
fn forget_histories(tables: &Tables, taken: &cow::Snapshot) {
    for device in taken.devices() {
        if let Some(entry) = tables.devices.get(device.origin().name())
            && entry.origin.history().is_none()
        {
            entry.origin.keep(None);
        }
    }
}

fn store_spec(request: &SnapshotTake) -> cow::StoreSpec {
    let limit = request.limit.unwrap_or(LIMIT_DEFAULT);
    let step = request.step.unwrap_or(STEP_DEFAULT.min(limit));
    let kind = match &request.store {
        bowline_api::StoreSpec::Memory | bowline_api::StoreSpec::Ranges(_) => cow::StoreKind::Memory,
        bowline_api::StoreSpec::Path(path) => {
            cow::StoreKind::File(std::path::absolute(path).unwrap_or_else(|_| Path::new(path).to_owned()))
        }
    };
    cow::StoreSpec { kind, limit, step }
}
