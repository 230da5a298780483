//! `bowline snapshot`: take, list, show, remove, extend.

mod entry;
pub(crate) mod kept;
mod origin;
mod storage;
mod teller;

use std::sync::Arc;
use std::time::Duration;

use bowline_api::snapshot::FREEZE_TIMEOUT_MS_DEFAULT;
use bowline_api::{
    ApiError, ErrorKind, EventKind, OnFull, Snapshot, SnapshotExtend, SnapshotTake, Timestamp,
};
use bowline_block::Store;
use bowline_device::{Device, freeze_all};
use bowline_filter::cow;
use bowline_kernel::freeze::try_thaw_all;

use crate::daemon::{Daemon, FREEZE_LIMIT};
use crate::error::{failed, failed_io};
use crate::export::stop_all;
use crate::state::KeptSnapshot;
use crate::tables::{DeviceEntry, Tables};

pub(crate) use entry::SnapshotEntry;
pub(crate) use origin::OriginState;
use storage::spec_of;
use teller::Teller;

/// A snapshot on its way to be taken.
struct Taking<'a> {
    name: &'a str,
    request: &'a SnapshotTake,
    origins: &'a [DeviceEntry],
    /// For each of these, where the storage lies on it.
    excluded: &'a [Vec<bowline_block::ByteRange>],
    storage: &'a Arc<cow::DiffStorage>,
    /// Where it is recorded, if it is to outlive the daemon.
    journals: Option<Arc<dyn bowline_state::Folder>>,
}

impl Daemon {
    pub(crate) fn snapshot_take(&self, request: &SnapshotTake) -> Result<Snapshot, ApiError> {
        request.check()?;
        let _turn = self.change();
        let name = self.snapshot_name(request.name.as_deref())?;
        let what = format!("take snapshot {name}");
        let origins = self.origins(&request.devices)?;
        origins.iter().for_each(|entry| self.note_loss_of(entry));
        let spec = spec_of(&request.store, request.limit, request.step)?;
        let excluded = self.check_storage(&what, &spec, &origins)?;
        self.check_ancestors(&what, &spec, &origins, false)?;
        let journals = self.journals_for(&what, request, &origins)?;
        let storage = cow::DiffStorage::open(spec).map_err(|error| failed(&what, &error))?;
        let own = || origins.iter().zip(&excluded).filter(|(_, ranges)| !ranges.is_empty());
        own().for_each(|(entry, ranges)| self.exclude_from_tracking(entry, ranges));
        let taken = self.take_clean(&Taking {
            name: &name,
            request,
            origins: &origins,
            excluded: &excluded,
            storage: &storage,
            journals,
        });
        let entry =
            taken.inspect_err(|_| own().for_each(|(entry, _)| self.exclude_from_tracking(entry, &[])));
        let entry = entry?;
        if let Err(error) = self.flush_all(&origins) {
            self.take_back(&entry);
            own().for_each(|(entry, _)| self.exclude_from_tracking(entry, &[]));
            return Err(error);
        }
        let snapshot = entry.describe(&self.read());
        self.note_snapshot(entry);
        let message = format!("snapshot {name} of {} was taken", request.devices.join(", "));
        let event = self.events.draft(EventKind::SnapshotTaken, message).snapshot(&name);
        event.number("frozen_us", snapshot.frozen_us).post();
        self.save(format_args!("snapshot {name} is taken"))?;
        Ok(snapshot)
    }

    /// The instant, with the file systems on the devices at rest where that was asked for.
    fn take_clean(&self, taking: &Taking<'_>) -> Result<SnapshotEntry, ApiError> {
        let Taking { name, request, origins, .. } = taking;
        if !request.freeze {
            return self.take_frozen(taking);
        }
        let what = format!("take snapshot {name}");
        let limit = Duration::from_millis(request.freeze_timeout_ms.unwrap_or(FREEZE_TIMEOUT_MS_DEFAULT));
        let frozen = self.freeze_mounts(&what, origins, limit)?;
        let paths: Vec<String> =
            frozen.iter().map(|one| one.mount_point().to_string_lossy().into_owned()).collect();
        let taken = self.take_frozen(taking);
        let thawed = try_thaw_all(frozen);
        let entry = taken?;
        match thawed {
            Ok(()) => {
                let kept = entry.kept.map(|kept| entry::Kept {
                    document: KeptSnapshot { frozen: paths.clone(), ..kept.document },
                    ..kept
                });
                Ok(SnapshotEntry { frozen: paths, kept, ..entry })
            }
            Err(error) => {
                // They were not at rest all the time: it is not what was asked for.
                self.take_back(&entry);
                let hint = "raise --freeze-timeout, or take it when there is less load";
                Err(ApiError::new(ErrorKind::Timeout, what, error, hint))
            }
        }
    }

    /// What an image shows must not be lost by a power cut: a copy of it would differ from the device where nothing says
    /// that anything changed (I4). So it is on disk before anybody hears of the take. Behind the freeze, for it takes long.
    ///
    /// All at once: disks that hang cost the time of one.
    fn flush_all(&self, origins: &[DeviceEntry]) -> Result<(), ApiError> {
        if let [one] = origins {
            return self.flush(&one.device);
        }
        std::thread::scope(|scope| {
            let flush = |entry| scope.spawn(move || self.flush(entry));
            let flushes: Vec<_> = origins.iter().map(|entry| flush(&entry.device)).collect();
            let ended = flushes.into_iter().map(|one| {
                let lost = |_| failed_io("flush devices", std::io::Error::other("a flush was lost"));
                one.join().map_err(lost)?
            });
            // Waits for all of them, whatever the first says.
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// Lets go of a snapshot that nobody has heard of.
    fn take_back(&self, entry: &SnapshotEntry) {
        if let Err(error) = entry.taken.remove(FREEZE_LIMIT) {
            tracing::error!(
                snapshot = entry.name,
                "a take that failed costs copies and space until its devices go: {error}"
            );
        }
        forget_histories(&self.read(), &entry.taken);
    }

    /// The instant itself.
    fn take_frozen(&self, taking: &Taking<'_>) -> Result<SnapshotEntry, ApiError> {
        let Taking { name, request, origins, excluded, storage, journals } = taking;
        let hold = (request.on_full == OnFull::Hold)
            .then(|| request.hold_timeout_ms.map_or(cow::HOLD_TIMEOUT_DEFAULT, Duration::from_millis));
        let on_full = hold.map_or(cow::OnFull::Drop, |timeout| cow::OnFull::Hold { timeout });
        let limits = cow::Limits { freeze: FREEZE_LIMIT, on_full, ..cow::Limits::default() };
        let teller = Arc::new(Teller(self.events.clone()));
        let each = origins.iter().zip(*excluded).map(|(entry, excluded)| cow::Origin {
            device: entry.device.clone(),
            history: entry.origin.history(),
            tracker: entry.origin.tracker(),
            excluded: excluded.clone(),
        });
        let each: Vec<_> = each.collect();
        let taken = match journals {
            None => cow::take(name, &each, storage, teller, limits),
            Some(journals) => cow::take_persistent(name, &each, storage, teller, limits, journals),
        };
        let taken = taken.map_err(|error| failed(format_args!("take snapshot {name}"), &error))?;
        for (entry, device) in origins.iter().zip(taken.devices()) {
            entry.origin.keep(Some(device.history().clone()));
        }
        Ok(SnapshotEntry {
            name: (*name).to_owned(),
            kept: journals
                .as_ref()
                .map(|_| entry::Kept { document: kept::document_of(&taken, excluded, hold), is_whole: true }),
            taken: Arc::new(taken),
            removing: false,
            hold_timeout_ms: hold.map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
            frozen: Vec::new(),
        })
    }

    /// Adds diff storage to a snapshot that is held.
    pub(crate) fn snapshot_extend(&self, name: &str, request: &SnapshotExtend) -> Result<Snapshot, ApiError> {
        let _turn = self.change();
        let what = format!("extend snapshot {name}");
        let entry = self.read().snapshot(name)?.clone();
        if let cow::SnapshotState::Failed { reason } = entry.taken.state() {
            let why = format!("it has failed, and more space does not bring it back: {reason}");
            return Err(ApiError::new(ErrorKind::InvalidRequest, what, why, "remove it, and take another"));
        }
        let origins: Vec<_> =
            entry.taken.devices().iter().map(|device| device.origin().name().to_owned()).collect();
        let origins = self.origins(&origins)?;
        let spec = spec_of(&request.store, request.limit, None)?;
        if self.check_storage(&what, &spec, &origins)?.iter().any(|ranges| !ranges.is_empty()) {
            let why = format!("{} is on a device of the snapshot", spec.kind.location());
            let hint = "ranges of its own devices are given when it is taken; name another place";
            return Err(ApiError::new(ErrorKind::InvalidRequest, what, why, hint));
        }
        self.check_ancestors(&what, &spec, &origins, entry.hold_timeout_ms.is_some())?;
        let location = spec.kind.location();
        let storage = entry.taken.storage();
        storage.extend(spec).map_err(|error| failed(&what, &error))?;
        let message = format!("diff storage of snapshot {name} was extended by {location}");
        let event = self.events.draft(EventKind::SnapshotExtended, message).snapshot(name);
        event.number("used", storage.used()).number("limit", storage.limit()).post();
        self.save(format_args!("snapshot {name} is extended"))?;
        self.snapshot_show(name)
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
                read_only: false,
                asked: None,
                origin: OriginState::default(),
            };
            self.losses.watch(&image.device);
            tables.devices.insert(name, image);
        }
        tables.snapshots.push(entry);
    }

    pub(crate) fn snapshot_list(&self) -> Vec<Snapshot> {
        {
            let tables = self.read();
            tables.snapshots.iter().map(|entry| entry.describe(&tables)).collect()
        }
    }

    pub(crate) fn snapshot_show(&self, name: &str) -> Result<Snapshot, ApiError> {
        let tables = self.read();
        Ok(tables.snapshot(name)?.describe(&tables))
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
        let entry = self.read().snapshot(name)?.clone();
        let taken = entry.taken.clone();
        for part in taken.devices().iter().filter(|part| part.is_rolling_back()) {
            self.is_not_rolling_back(&what, part.origin().name())?;
        }
        self.mark_removing(name);
        if entry.is_persistent() {
            // The document first: what it does not name any more does not come back.
            self.save(format_args!("snapshot {name} is being removed"))?;
        }
        for device in taken.devices() {
            self.take_out_image(&bowline_api::names::image(name, device.origin().name()))?;
        }
        taken.remove(FREEZE_LIMIT).map_err(|error| failed(&what, &error))?;
        let mut tables = self.write();
        tables.snapshots.retain(|snapshot| snapshot.name != name);
        forget_histories(&tables, &taken);
        drop(tables);
        self.give_back_ranges(&taken);
        self.events
            .draft(EventKind::SnapshotRemoved, format!("snapshot {name} was removed"))
            .snapshot(name)
            .post();
        Ok(())
    }

    /// What lay on a device of the snapshot has other contents than at the take: it counts as changed.
    fn give_back_ranges(&self, taken: &cow::Snapshot) {
        let stores = taken.storage().stores();
        if stores.iter().any(|store| matches!(store.kind, cow::StoreKind::Ranges(_))) {
            for device in taken.devices() {
                let entry = self.read().devices.get(device.origin().name()).cloned();
                if let Some(entry) = entry {
                    self.exclude_from_tracking(&entry, &[]);
                }
            }
        }
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
