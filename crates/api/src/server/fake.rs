//! A control that has one of everything and remembers what it was asked, for tests of the server, of the client and of
//! the command line (feature `fake`). It keeps nothing of what it is told.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::*;

/// Answers every verb; for names that start with `no-` with the error of that kind, as `no-busy`.
#[derive(Debug, Default)]
pub struct Fake {
    asked: Mutex<Vec<String>>,
    events: Mutex<Vec<Event>>,
}

/// The generation of every device.
pub const GENERATION: Uuid = Uuid::from_u128(0x6f2b_0a52_94f5_4f3c_8a17_5d1f_2b8d_9c01);

impl Fake {
    /// The verbs that were asked and the names they were asked about.
    pub fn asked(&self) -> Vec<String> {
        locked(&self.asked).clone()
    }

    fn ask(&self, verb: &str, name: &str) -> Result<()> {
        locked(&self.asked).push(format!("{verb} {name}").trim().to_owned());
        match name.strip_prefix("no-") {
            None => Ok(()),
            Some(kind) => {
                let kind = serde_json::from_value(kind.into()).unwrap_or(ErrorKind::Internal);
                Err(ApiError::new(
                    kind,
                    format_args!("{verb} {name}"),
                    "it was asked for",
                    "ask for something else",
                ))
            }
        }
    }

    /// Lets an event happen.
    pub fn happen(&self, message: &str) {
        let mut events = locked(&self.events);
        let id = EventId(events.len() as u64 + 1);
        events.push(Event {
            id,
            time: Timestamp::from_unix_us(id.0),
            kind: EventKind::LowSpace,
            device: Some("disk".into()),
            snapshot: id.0.is_multiple_of(2).then(|| "s1".into()),
            message: message.into(),
            numbers: BTreeMap::from([("used".into(), 7)]),
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An export of this id.
pub fn export(id: &str) -> Export {
    Export {
        id: id.into(),
        device: "disk".into(),
        kind: ExportKind::Nbd,
        uri: "nbd+unix:///disk?socket=/run/nbd.sock".into(),
        read_only: false,
        clients: 2,
    }
}

/// A device, or an image where the name has a slash.
pub fn device(name: &str) -> Device {
    let image = name.contains('/');
    Device {
        name: name.into(),
        size: 64 << 20,
        block_size: 512,
        source: "/srv/disk.img".into(),
        read_only: image,
        cache: (!image).then_some(Cache::Buffered),
        notice: None,
        filters: vec![AttachedFilter {
            id: "1".into(),
            kind: "cow".into(),
            altitude: 200,
            offset: 0,
            length: 64 << 20,
        }],
        exports: vec![export("e1")],
        tracking: match image {
            true => Tracking::default(),
            false => Tracking {
                enabled: true,
                durable: true,
                generation: Some(GENERATION),
                epoch: Some(3),
                granularity: Some(4096),
                continuity: Some(Continuity::AfterCrash),
                continuity_reason: Some("the daemon was killed".into()),
                map_bytes: Some(2048),
            },
        },
        rollback: (!image).then(|| rollback(RollbackState::Done)),
        io: IoCounters { reads: 1, written_bytes: u64::MAX, ..IoCounters::default() },
    }
}

/// How far the device `disk` is on its way back to snapshot `s1`.
pub fn rollback(state: RollbackState) -> Rollback {
    let done = if state == RollbackState::Done { 8192 } else { 4096 };
    let reason = (state == RollbackState::Failed).then(|| "the disk is gone".into());
    Rollback { snapshot: "s1".into(), device: "disk".into(), state, done, total: 8192, reason }
}

/// A file system that is mounted.
pub fn mount() -> Mount {
    Mount {
        path: "/mnt/disk".into(),
        file_system: "ext4".into(),
        source: "/dev/nbd0".into(),
        offset: Some(0),
    }
}

/// What changed on every device.
pub const EXTENTS: [Extent; 2] =
    [Extent { offset: 0, length: 4096 }, Extent { offset: 1 << 20, length: 8192 }];

/// A snapshot; the one named `failed` has failed. The device of `s1` goes back to it, that of `failed` could not.
pub fn snapshot(name: &str) -> Snapshot {
    let failed = name == "failed";
    Snapshot {
        name: name.into(),
        id: Uuid::from_u128(1),
        taken_at: Timestamp::from_unix_us(1_767_225_599_123_456),
        frozen_us: 812,
        devices: vec![SnapshotDevice {
            name: "disk".into(),
            image: names::image(name, "disk"),
            epoch: 2,
            generation: GENERATION,
            size: 64 << 20,
            preserved: 4096,
        }],
        state: if failed { SnapshotState::Failed } else { SnapshotState::Active },
        reason: failed.then(|| "diff storage is full".into()),
        on_full: if failed { OnFull::Hold } else { OnFull::Drop },
        hold_timeout_ms: failed.then_some(5000),
        persistent: failed,
        store: SnapshotStore {
            kind: if failed { StoreKind::File } else { StoreKind::Mem },
            used: 4096,
            limit: 1 << 30,
            step: 1 << 26,
            location: failed.then(|| "/var/diff".into()),
        },
        stores: vec![StorePart {
            kind: if failed { StoreKind::File } else { StoreKind::Mem },
            location: failed.then(|| "/var/diff".into()),
            used: Some(4096),
            limit: 1 << 30,
        }],
        frozen_file_systems: if failed { Vec::new() } else { vec!["/mnt/disk".into()] },
        rollback: vec![rollback(if failed { RollbackState::Failed } else { RollbackState::Done })],
    }
}

impl Control for Fake {
    fn status(&self) -> Result<Status> {
        self.ask("status", "")?;
        Ok(Status {
            version: "0.1.0".into(),
            engine: Engine::Uring,
            queues: 2,
            pid: 42,
            started_at: Timestamp::from_unix_us(0),
            uptime_ms: 5,
            listen: vec!["unix:/run/nbd.sock".into()],
            state: Some("/var/lib/bowline".into()),
            limits: BTreeMap::from([("connections".into(), Limit { used: 1, limit: 256 })]),
            absent: Vec::new(),
            devices: vec![device("disk"), device("s1/disk")],
            exports: vec![export("e1")],
            snapshots: vec![snapshot("s1"), snapshot("failed")],
        })
    }

    fn device_list(&self) -> Result<Vec<Device>> {
        self.ask("device list", "")?;
        Ok(vec![device("disk"), device("s1/disk")])
    }

    fn device_show(&self, name: &str) -> Result<Device> {
        self.ask("device show", name)?;
        Ok(device(name))
    }

    fn device_add(&self, request: DeviceAdd) -> Result<Device> {
        self.ask("device add", &request.name)?;
        Ok(device(&request.name))
    }

    fn device_remove(&self, name: &str, force: bool) -> Result<()> {
        self.ask(if force { "device remove --force" } else { "device remove" }, name)
    }

    fn device_resize(&self, name: &str, size: u64, force: bool) -> Result<Device> {
        self.ask(if force { "device resize --force" } else { "device resize" }, name)?;
        Ok(Device { size, ..device(name) })
    }

    fn device_track(&self, name: &str, enabled: bool) -> Result<Device> {
        self.ask(if enabled { "device track" } else { "device untrack" }, name)?;
        Ok(device(name))
    }

    fn device_mounts(&self, name: &str) -> Result<Vec<Mount>> {
        self.ask("device mounts", name)?;
        Ok(vec![mount()])
    }

    fn export_add(&self, request: ExportAdd) -> Result<Export> {
        self.ask("export add", &request.device)?;
        Ok(export("e2"))
    }

    fn export_list(&self) -> Result<Vec<Export>> {
        self.ask("export list", "")?;
        Ok(vec![export("e1")])
    }

    fn export_remove(&self, id: &str) -> Result<()> {
        self.ask("export remove", id)
    }

    fn snapshot_take(&self, request: SnapshotTake) -> Result<Snapshot> {
        let name = request.name.unwrap_or("auto".into());
        self.ask("snapshot take", &name)?;
        Ok(snapshot(&name))
    }

    fn snapshot_list(&self) -> Result<Vec<Snapshot>> {
        self.ask("snapshot list", "")?;
        Ok(vec![snapshot("s1"), snapshot("failed")])
    }

    fn snapshot_show(&self, name: &str) -> Result<Snapshot> {
        self.ask("snapshot show", name)?;
        Ok(snapshot(name))
    }

    fn snapshot_remove(&self, name: &str) -> Result<()> {
        self.ask("snapshot remove", name)
    }

    fn snapshot_extend(&self, name: &str, request: SnapshotExtend) -> Result<Snapshot> {
        self.ask("snapshot extend", name)?;
        locked(&self.asked).push(request.store.to_string());
        Ok(snapshot(name))
    }

    fn snapshot_rollback(&self, name: &str, request: SnapshotRollback) -> Result<Snapshot> {
        self.ask("snapshot rollback", format!("{name} {}", request.devices.join(" ")).trim())?;
        let running = vec![rollback(RollbackState::Running)];
        Ok(Snapshot { rollback: running, ..snapshot(name) })
    }

    fn changes(&self, query: ChangesQuery) -> Result<Changes> {
        self.ask("changes", &format!("{} {}", query.device, query.since.as_deref().unwrap_or("-")))?;
        let size = 64 << 20;
        if query.offset > size {
            let why = format_args!("offset {}", query.offset);
            return Err(ApiError::new(ErrorKind::OutOfRange, "changes", why, "begin within the device"));
        }
        let left = EXTENTS.into_iter().filter(|extent| extent.offset + extent.length > query.offset);
        let left: Vec<Extent> = left.collect();
        let extents: Vec<Extent> = left.iter().copied().take(query.max_results).collect();
        Ok(Changes {
            device: query.device,
            size,
            granularity: 4096,
            generation: query.generation,
            since_epoch: query.since.is_some().then_some(2),
            since: query.since,
            until_epoch: query.until.is_some().then_some(3),
            until: query.until,
            bytes: extents.iter().map(|extent| extent.length).sum(),
            zeroes: extents.iter().filter(|extent| extent.length == 4096).copied().collect(),
            next: extents.last().filter(|_| left.len() > extents.len()).map(|last| last.offset + last.length),
            extents,
        })
    }

    fn changes_mark(&self, device: &str, request: ChangesMark) -> Result<()> {
        self.ask("changes mark", &format!("{device} {} {}", request.offset, request.length))
    }

    fn events(&self, since: EventId, max: usize) -> Result<Vec<Event>> {
        Ok(locked(&self.events).iter().filter(|event| event.id > since).take(max).cloned().collect())
    }

    fn wait_events(&self, since: EventId, timeout: Duration) -> Result<Vec<Event>> {
        let step = Duration::from_millis(5);
        for _ in 0..timeout.as_millis() / step.as_millis() {
            let events = self.events(since, 100)?;
            if !events.is_empty() {
                return Ok(events);
            }
            std::thread::sleep(step);
        }
        Ok(Vec::new())
    }

    fn metrics_text(&self) -> Result<String> {
        Ok("# TYPE bowline_devices gauge\nbowline_devices 2\n# EOF\n".into())
    }
}
