//! `bowline device`: add, list, show, remove, resize.

use std::path::Path;
use std::sync::Arc;

use bowline_api::{ApiError, AttachedFilter, Cache, DeviceAdd, ErrorKind, EventKind, IoCounters, Source};
use bowline_block::{BlockSize, ByteRange, Store};
use bowline_device::{Attachment, Device, freeze_all};
use bowline_store::{CacheMode, FileOptions, FileStore, NbdOptions, NbdStore, NullStore, ReadOnly};

use crate::daemon::{Daemon, FREEZE_LIMIT};
use crate::error::failed;
use crate::export::stop_all;
use crate::snapshot::OriginState;
use crate::status::memory_bytes;
use crate::tables::{DeviceEntry, Tables};
use crate::tracking::Before;

/// An opened store, with what is told about it.
struct Bottom {
    store: Arc<dyn Store>,
    source: String,
    cache: Option<Cache>,
    notice: Option<String>,
    memory: Option<Arc<FileStore>>,
}

impl Daemon {
    pub(crate) fn device_add(&self, request: &DeviceAdd) -> Result<bowline_api::Device, ApiError> {
        // Opening can take as long as a server does not answer: nobody else waits for that.
        let entry = self.open_device(request.clone())?;
        let _turn = self.change();
        self.insert_device(&entry, Before::IsForgotten)?;
        self.write().forget_absent(&request.name);
        self.save(format_args!("device {} is added", request.name))?;
        self.device_show(&request.name)
    }

    /// Opens the store and notes the device; the caller has the turn.
    pub(crate) fn add_device(&self, request: DeviceAdd) -> Result<(), ApiError> {
        let entry = self.open_device(request)?;
        self.insert_device(&entry, Before::Counts)
    }

    /// Opens the store; nobody knows of it yet.
    fn open_device(&self, mut request: DeviceAdd) -> Result<DeviceEntry, ApiError> {
        let asked = request.check()?;
        self.may_add(&request.name)?;
        let Bottom { store, source, cache, notice, memory } = self.open_bottom(&asked, &request)?;
        if let Source::Path(_) = asked {
            // Kept as an absolute path, and created only once: the next start may be in another folder.
            request.source.clone_from(&source);
        }
        request.size = None;
        Ok(DeviceEntry {
            read_only: store.geometry().read_only,
            device: Device::new(request.name.clone(), store),
            source,
            cache,
            notice,
            memory,
            asked: Some(request),
            origin: OriginState::default(),
        })
    }

    fn may_add(&self, name: &str) -> Result<(), ApiError> {
        if !self.read().devices.contains_key(name) {
            return Ok(());
        }
        let what = format!("add device {name}");
        let why = "there is a device of that name";
        Err(ApiError::new(ErrorKind::AlreadyExists, what, why, "choose another name, or remove it first"))
    }

    /// Notes the device; the caller has the turn. The name may have been taken while the store was opened.
    fn insert_device(&self, entry: &DeviceEntry, before: Before) -> Result<(), ApiError> {
        let name = entry.device.name().to_owned();
        let may = self.is_running(format_args!("add device {name}")).and_then(|()| self.may_add(&name));
        if may.is_err() {
            entry.device.close();
            return may;
        }
        // Before anybody can write to it.
        if entry.asked.as_ref().is_some_and(|asked| asked.track)
            && let Err(error) = self.track(&format!("track device {name}"), entry, before)
        {
            entry.device.close();
            return Err(error);
        }
        self.losses.watch(&entry.device);
        let geometry = entry.device.geometry();
        let notice = entry.notice.clone();
        self.write().devices.insert(name.clone(), entry.clone());
        self.events
            .draft(EventKind::DeviceAdded, format!("device {name} was added"))
            .device(&name)
            .number("size", geometry.size)
            .post();
        if let Some(notice) = notice {
            self.events.draft(EventKind::Notice, format!("device {name}: {notice}")).device(&name).post();
        }
        self.tell_tracking(entry);
        Ok(())
    }

    fn open_bottom(&self, source: &Source, request: &DeviceAdd) -> Result<Bottom, ApiError> {
        let block_size = request.block_size.and_then(|bytes| BlockSize::from_bytes(bytes.into()));
        let what = format!("add device {}", request.name);
        let plain = |store: Arc<dyn Store>| Bottom {
            store,
            source: source.to_string(),
            cache: None,
            notice: None,
            memory: None,
        };
        match source {
            Source::Path(path) => {
                self.state.as_ref().map_or(Ok(()), |state| state.refuse_own(&what, path))?;
                open_file(path, block_size, request).map_err(|error| failed(&what, &error))
            }
            Source::Memory(size) => {
                let store = FileStore::memory(size.0, block_size.unwrap_or_default(), request.read_only);
                let store = Arc::new(store.map_err(|error| failed(&what, &error))?);
                let total = memory_bytes();
                let notice = (total > 0 && size.0 > total)
                    .then(|| format!("it can take more than the memory of this machine, {total} bytes"));
                Ok(Bottom { memory: Some(store.clone()), notice, ..plain(store) })
            }
            Source::Null(size) => {
                Ok(plain(Arc::new(NullStore::new(size.0, block_size.unwrap_or_default(), request.read_only))))
            }
            Source::Nbd(uri) => {
                let uri = uri.parse().map_err(|error: bowline_nbd::UriError| {
                    ApiError::invalid(
                        &what,
                        error,
                        "write it as nbd://HOST/NAME or nbd+unix:///NAME?socket=PATH",
                    )
                })?;
                let store = NbdStore::connect(&uri, self.queues.handles(), NbdOptions::default())
                    .map_err(|error| failed(&what, &error))?;
                let own = store.geometry().block_size;
                if block_size.is_some_and(|wanted| wanted != own) {
                    let why = format!("the server's block size is {}", own.bytes());
                    return Err(ApiError::invalid(what, why, "leave out --block-size"));
                }
                if request.read_only {
                    return Ok(plain(Arc::new(ReadOnly(store))));
                }
                Ok(plain(store))
            }
        }
    }

    pub(crate) fn device_list(&self) -> Vec<bowline_api::Device> {
        let tables = self.read();
        tables.devices.keys().filter_map(|name| self.describe_device(&tables, name)).collect()
    }

    pub(crate) fn device_show(&self, name: &str) -> Result<bowline_api::Device, ApiError> {
        self.describe_device(&self.read(), name).ok_or_else(|| ApiError::not_found("device", name))
    }

    pub(crate) fn describe_device(&self, tables: &Tables, name: &str) -> Option<bowline_api::Device> {
        let entry = tables.devices.get(name)?;
        let geometry = entry.device.geometry();
        let stats = entry.device.stats();
        Some(bowline_api::Device {
            name: name.to_owned(),
            size: geometry.size,
            block_size: u32::try_from(geometry.block_size.bytes()).unwrap_or(0),
            source: entry.source.clone(),
            read_only: entry.read_only,
            cache: entry.cache,
            notice: entry.notice.clone(),
            filters: entry
                .device
                .filters()
                .iter()
                .map(|filter| describe_filter(filter, geometry.size))
                .collect(),
            exports: self.describe_exports(tables, Some(name)),
            tracking: entry.origin.tracking(),
            rollback: tables.rollbacks.get(name).map(|entry| entry.describe(name)),
            io: IoCounters {
                reads: stats.reads,
                writes: stats.writes,
                flushes: stats.flushes,
                discards: stats.discards,
                write_zeroes: stats.write_zeroes,
                read_bytes: stats.read_bytes,
                written_bytes: stats.written_bytes,
                errors: stats.errors,
                in_flight: stats.in_flight,
            },
        })
    }

    pub(crate) fn device_remove(&self, name: &str, force: bool) -> Result<(), ApiError> {
        let _turn = self.change();
        if self.write().forget_absent(name) {
            self.forget_tracker(name);
            return self.save(format_args!("device {name} is forgotten"));
        }
        let snapshots = self.may_remove(name, force)?;
        if force {
            self.give_up_rollback(name)?;
        }
        self.is_not_rolling_back(&format!("remove device {name}"), name)?;
        for snapshot in snapshots {
            self.remove_snapshot(&snapshot)?;
        }
        self.take_out_device(name)?;
        self.forget_tracker(name);
        self.write().rollbacks.remove(name);
        self.events.draft(EventKind::DeviceRemoved, format!("device {name} was removed")).device(name).post();
        self.save(format_args!("device {name} is removed"))
    }

    /// Whether the device may go; the snapshots that go with it.
    fn may_remove(&self, name: &str, force: bool) -> Result<Vec<String>, ApiError> {
        let tables = self.read();
        let what = format!("remove device {name}");
        if tables.device(name)?.asked.is_none() {
            let hint = format!(
                "remove the snapshot: bowline snapshot remove {}",
                name.split('/').next().unwrap_or(name)
            );
            return Err(ApiError::new(ErrorKind::Busy, what, "it is an image of a snapshot", hint));
        }
        let snapshots: Vec<String> =
            tables.snapshots_of(name).map(|snapshot| snapshot.name.clone()).collect();
        if !snapshots.is_empty() && !force {
            let why = format!("it has snapshots: {}", snapshots.join(", "));
            return Err(ApiError::new(
                ErrorKind::Busy,
                what,
                why,
                "remove them first, or use --force to lose them",
            ));
        }
        let clients = tables.clients_of(name);
        if clients > 0 && !force {
            let why = format!("{clients} clients are connected");
            return Err(ApiError::new(ErrorKind::Busy, what, why, "disconnect them, or use --force"));
        }
        Ok(snapshots)
    }

    /// Flushes the device, ends it, and closes its connections. Everything acknowledged is on its store.
    pub(crate) fn take_out_device(&self, name: &str) -> Result<(), ApiError> {
        let entry = self.read().device(name)?.clone();
        // A store that cannot flush any more must not keep the device for ever; it is told, and goes.
        if !entry.read_only
            && let Err(error) = self.flush(&entry.device)
        {
            tracing::error!("{error}");
            self.events.draft(EventKind::DeviceFailed, error.to_string()).device(name).post();
        }
        self.end_device(name)
    }

    /// Ends the device without a flush: its caller has done that, or tried to.
    pub(crate) fn end_device(&self, name: &str) -> Result<(), ApiError> {
        let what = format!("remove device {name}");
        let entry = self.read().device(name)?.clone();
        let frozen = freeze_all(std::slice::from_ref(&entry.device), FREEZE_LIMIT)
            .map_err(|error| failed(&what, &error))?;
        let ended = self.forget_device(&mut self.write(), name);
        frozen.into_iter().for_each(bowline_device::Frozen::remove);
        self.disconnect(name);
        stop_all(ended);
        Ok(())
    }

    /// Whether the device may get that size.
    fn may_resize(&self, name: &str, size: u64, force: bool) -> Result<DeviceEntry, ApiError> {
        let what = format!("resize device {name}");
        let tables = self.read();
        let entry = tables.device(name)?.clone();
        if entry.asked.is_none() {
            let why = "it is an image: its size is that of the instant it was taken";
            return Err(ApiError::new(ErrorKind::Unsupported, what, why, "resize the device itself"));
        }
        if entry.read_only {
            let hint = "remove it and add it without --read-only";
            return Err(ApiError::new(ErrorKind::Unsupported, what, "it is read-only", hint));
        }
        if size >= entry.device.geometry().size {
            return Ok(entry);
        }
        if tables.snapshots_of(name).next().is_some() {
            let why = "it has snapshots, which need what would be cut off";
            return Err(ApiError::new(ErrorKind::Busy, what, why, "remove them first"));
        }
        let clients = tables.clients_of(name);
        if clients > 0 && !force {
            let why = format!("{clients} clients are connected, and do not expect it to shrink");
            return Err(ApiError::new(ErrorKind::Busy, what, why, "disconnect them, or use --force"));
        }
        Ok(entry)
    }

    pub(crate) fn device_resize(
        &self,
        name: &str,
        size: u64,
        force: bool,
    ) -> Result<bowline_api::Device, ApiError> {
        let _turn = self.change();
        let what = format!("resize device {name}");
        self.is_not_rolling_back(&what, name)?;
        let entry = self.may_resize(name, size, force)?;
        bowline_api::device::check_size(
            &what,
            size,
            u32::try_from(entry.device.geometry().block_size.bytes()).ok(),
        )?;
        let frozen = freeze_all(std::slice::from_ref(&entry.device), FREEZE_LIMIT)
            .map_err(|error| failed(&what, &error))?;
        for frozen in &frozen {
            frozen.resize(size).map_err(|error| failed(&what, &error))?;
            if let Some(tracker) = entry.origin.tracker() {
                tracker.resized(size);
            }
        }
        drop(frozen);
        self.events
            .draft(EventKind::DeviceResized, format!("device {name} has {size} bytes now"))
            .device(name)
            .number("size", size)
            .post();
        if let Some(entry) = self.write().devices.get_mut(name) {
            note_size(entry, size);
        }
        self.save(format_args!("device {name} is resized"))?;
        self.device_show(name)
    }
}

/// Memory and null devices carry their size in their source.
fn note_size(entry: &mut DeviceEntry, size: u64) {
    for kind in ["mem:", "null:"] {
        if entry.source.starts_with(kind) {
            entry.source = format!("{kind}{size}");
            if let Some(asked) = &mut entry.asked {
                asked.source.clone_from(&entry.source);
            }
        }
    }
}

fn open_file(
    path: &Path,
    block_size: Option<BlockSize>,
    request: &DeviceAdd,
) -> bowline_block::Result<Bottom> {
    let options = FileOptions {
        read_only: request.read_only,
        block_size,
        cache: request.cache.map(|cache| match cache {
            Cache::Direct => CacheMode::Direct,
            Cache::Buffered => CacheMode::Buffered,
        }),
        create_size: request.size,
    };
    let opened = FileStore::open(path, &options)?;
    let cache = match opened.store.cache() {
        CacheMode::Direct => Cache::Direct,
        CacheMode::Buffered => Cache::Buffered,
    };
    let source = opened.store.location();
    Ok(Bottom {
        store: Arc::new(opened.store),
        source,
        cache: Some(cache),
        notice: opened.notice,
        memory: None,
    })
}

fn describe_filter(filter: &Attachment, size: u64) -> AttachedFilter {
    let range = filter.range.unwrap_or(ByteRange::new(0, size));
    AttachedFilter {
        id: filter.id.to_string(),
        kind: filter.kind.to_owned(),
        altitude: filter.altitude.0,
        offset: range.start(),
        length: range.len(),
    }
}
