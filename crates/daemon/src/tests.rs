use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::{
    Cache, ChangesQuery, DeviceAdd, ErrorKind, EventId, EventKind, ExportAdd, ExportKind, ListenAddr,
    SnapshotTake, Uuid,
};
use bowline_io::{EngineKind, Queues, QueuesConfig};

use crate::daemon::{Daemon, NbdDefaults};
use crate::events::EventLog;
use crate::state::{Hidden, KeptDevice, KeptSnapshot, StateFolder, Stored};

fn golden() -> Stored {
    let device = |name: &str, source: &str| DeviceAdd {
        name: name.to_owned(),
        source: source.to_owned(),
        read_only: false,
        block_size: None,
        cache: None,
        size: None,
        track: false,
    };
    let export = |device: &str, address: Option<ListenAddr>, read_only| ExportAdd {
        device: device.to_owned(),
        kind: ExportKind::Nbd,
        address,
        read_only,
    };
    Stored {
        version: 2,
        devices: vec![
            DeviceAdd {
                block_size: Some(4096),
                cache: Some(Cache::Direct),
                track: true,
                ..device("disk.img", "/var/lib/disks/disk.img")
            },
            device("scratch", "mem:1073741824"),
        ],
        exports: vec![
            export("disk.img", Some(ListenAddr::Tcp { host: "127.0.0.1".to_owned(), port: 10809 }), true),
            export("scratch", None, false),
        ],
        hidden: vec![
            Hidden { device: "disk.img".to_owned(), address: None },
            Hidden {
                device: "scratch".to_owned(),
                address: Some(ListenAddr::Tcp { host: "127.0.0.1".to_owned(), port: 10809 }),
            },
        ],
        plain_snapshots: vec!["monday".to_owned()],
        persistent_snapshots: vec![golden_snapshot()],
        tracker_sessions: BTreeMap::from([("disk.img".to_owned(), Uuid::from_u128(0x11))]),
        events_reserved: 65_540,
    }
}

fn golden_snapshot() -> KeptSnapshot {
    KeptSnapshot {
        name: "weekly".to_owned(),
        id: Uuid::from_u128(0x22),
        taken_at: bowline_api::Timestamp::from_unix_us(1_767_225_599_123_456),
        frozen_us: 812,
        hold_timeout_ms: Some(30_000),
        frozen: vec!["/srv".to_owned()],
        devices: vec![KeptDevice {
            name: "disk.img".to_owned(),
            generation: Some(Uuid::from_u128(0x33)),
            epoch: Some(7),
            excluded: vec![bowline_api::Extent { offset: 1 << 20, length: 1 << 30 }],
        }],
        failed: Some("diff storage is full".to_owned()),
    }
}

/// What version 1 had.
fn golden_v1() -> Stored {
    let mut golden = Stored {
        version: 1,
        persistent_snapshots: Vec::new(),
        tracker_sessions: BTreeMap::new(),
        events_reserved: 0,
        ..golden()
    };
    golden.devices.iter_mut().for_each(|device| device.track = false);
    golden
}

/// The sample is what version 2 is; changing the form means another version, its own sample, and reading all of them.
#[test]
fn the_state_document_is_read_and_written_as_its_golden_sample() {
    let sample = include_str!("tests/state-v2.json");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state.json"), sample).unwrap();
    let state = StateFolder::open(folder.path()).unwrap();
    assert_eq!(state.load().unwrap(), golden());
    state.save(&golden()).unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("state.json")).unwrap(), sample.trim_end());
}

#[test]
fn a_state_document_of_version_1_is_read_and_written_as_version_2() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state.json"), include_str!("tests/state-v1.json")).unwrap();
    let state = StateFolder::open(folder.path()).unwrap();
    assert_eq!(state.load().unwrap(), golden_v1());
    state.save(&golden_v1()).unwrap();
    assert_eq!(state.load().unwrap(), Stored { version: 2, ..golden_v1() });
}

#[test]
fn a_damaged_state_document_is_refused_and_left_alone() {
    let sample = include_str!("tests/state-v2.json");
    let of_version = |version: u32| sample.replace("\"version\": 2", &format!("\"version\": {version}"));
    let damaged = ["", "{", "[]", &of_version(0), &of_version(3), &sample[..sample.len() / 2]];
    for text in damaged {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        std::fs::write(&path, text).unwrap();
        let error = StateFolder::open(folder.path()).unwrap().load().unwrap_err();
        assert!(error.message.contains("state.json"), "{}", error.message);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_state_folder_has_one_daemon_and_a_crash_leaves_old_or_new() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateFolder::open(folder.path()).unwrap();
    assert_eq!(StateFolder::open(folder.path()).unwrap_err().kind, ErrorKind::Busy);
    state.save(&golden()).unwrap();
    // What a crash in the midst of the next save leaves.
    std::fs::write(folder.path().join("state.json.new"), "{\"vers").unwrap();
    assert_eq!(state.load().unwrap(), golden());
    drop(state);
    assert!(StateFolder::open(folder.path()).is_ok());
}

#[test]
fn events_are_in_order_bounded_and_waited_for() {
    let log = Arc::new(EventLog::default());
    for n in 0..10_050u64 {
        log.draft(EventKind::Notice, format!("event {n}")).number("n", n).post();
    }
    let kept = log.since(EventId(0), usize::MAX);
    assert_eq!((kept.len(), kept[0].id, kept[9_999].id), (10_000, EventId(51), EventId(10_050)));
    assert!(kept.windows(2).all(|pair| pair[0].id.0 + 1 == pair[1].id.0));
    assert!(log.wait(EventId(10_050), 10, Duration::from_millis(20)).is_empty());
    let waiting = log.clone();
    let waiter = std::thread::spawn(move || waiting.wait(EventId(10_050), 10, Duration::from_secs(30)));
    log.draft(EventKind::Notice, "late").post();
    assert_eq!(waiter.join().unwrap()[0].message, "late");
}

mod devices;
mod tracking;

struct Fixture {
    daemon: Arc<Daemon>,
    folder: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let queues = Queues::start(QueuesConfig { count: 2, engine: EngineKind::Sync }).unwrap();
    let address = ListenAddr::Unix(folder.path().join("nbd.sock"));
    let nbd = NbdDefaults { address, tls: None, insecure: false };
    let daemon = Daemon::new(queues, nbd, None);
    daemon.listener_at(None).unwrap();
    Fixture { daemon, folder }
}

fn add(daemon: &Daemon, name: &str, source: &str) {
    daemon.device_add(&request(name, source)).unwrap();
}

fn request(name: &str, source: &str) -> DeviceAdd {
    DeviceAdd {
        name: name.to_owned(),
        source: source.to_owned(),
        read_only: false,
        block_size: None,
        cache: None,
        size: None,
        track: false,
    }
}

fn take(
    daemon: &Daemon,
    name: &str,
    devices: &[&str],
) -> Result<bowline_api::Snapshot, bowline_api::ApiError> {
    daemon.snapshot_take(&SnapshotTake {
        devices: devices.iter().map(ToString::to_string).collect(),
        name: Some(name.to_owned()),
        ..SnapshotTake::default()
    })
}

fn changes(
    daemon: &Daemon,
    device: &str,
    since: &str,
) -> Result<bowline_api::Changes, bowline_api::ApiError> {
    let since = Some(since.to_owned());
    daemon.changes_of(&query(device, since, None))
}

fn query(device: &str, since: Option<String>, generation: Option<bowline_api::Uuid>) -> ChangesQuery {
    let device = device.to_owned();
    ChangesQuery { device, since, until: None, generation, offset: 0, max_results: usize::MAX }
}

/// Writes a block through the device, as a client would.
fn write(daemon: &Daemon, device: &str, offset: u64) {
    use bowline_block::{ByteRange, Flags, Now, Store};
    let device = daemon.read().device(device).unwrap().device.clone();
    let written = device.write_now(ByteRange::new(offset, 4096), &[7; 4096], Flags::empty());
    assert!(matches!(written, Now::Done(Ok(()))), "{written:?}");
}

#[test]
fn changes_between_snapshots_are_those_of_the_intervals_between() {
    let Fixture { daemon, .. } = fixture();
    add(&daemon, "d", "mem:64M");
    take(&daemon, "a", &["d"]).unwrap();
    write(&daemon, "d", 4096);
    take(&daemon, "b", &["d"]).unwrap();
    write(&daemon, "d", 1 << 20);
    let extents = |changes: bowline_api::Changes| {
        changes.extents.iter().map(|extent| (extent.offset, extent.length)).collect::<Vec<_>>()
    };
    assert_eq!(extents(changes(&daemon, "d", "a").unwrap()), [(4096, 4096), (1 << 20, 4096)]);
    assert_eq!(extents(changes(&daemon, "d", "b").unwrap()), [(1 << 20, 4096)]);
    // An image ends with its own snapshot.
    assert_eq!(extents(changes(&daemon, "b/d", "a").unwrap()), [(4096, 4096)]);
    let back = changes(&daemon, "a/d", "b").unwrap_err();
    assert_eq!(back.kind, ErrorKind::InvalidRequest, "{}", back.message);
    // The one between goes, what it preserved stays known to the older (I4).
    daemon.snapshot_remove("b").unwrap();
    assert_eq!(extents(changes(&daemon, "d", "a").unwrap()), [(4096, 4096), (1 << 20, 4096)]);
    assert_eq!(changes(&daemon, "d", "b").unwrap_err().kind, ErrorKind::FullReadNeeded);
}

#[test]
fn a_device_with_snapshots_stays_until_they_are_gone_or_it_is_forced() {
    let Fixture { daemon, .. } = fixture();
    add(&daemon, "d", "mem:16M");
    take(&daemon, "s", &["d"]).unwrap();
    let refused = daemon.device_remove("d", false).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Busy);
    assert!(refused.message.contains("has snapshots: s"), "{}", refused.message);
    assert_eq!(daemon.device_remove("s/d", false).unwrap_err().kind, ErrorKind::Busy);
    assert_eq!(daemon.device_resize("d", 8 << 20, true).unwrap_err().kind, ErrorKind::Busy);
    daemon.device_remove("d", true).unwrap();
    assert!(daemon.device_list().is_empty() && daemon.snapshot_list().is_empty());
    // The name is free again, with nothing left of the old device.
    add(&daemon, "d", "mem:16M");
    assert!(daemon.device_show("d").unwrap().filters.is_empty());
}

#[test]
fn what_is_asked_wrongly_changes_nothing() {
    let Fixture { daemon, folder } = fixture();
    add(&daemon, "d", "mem:16M");
    take(&daemon, "s", &["d"]).unwrap();
    let kind = |result: Result<bowline_api::Snapshot, bowline_api::ApiError>| result.unwrap_err().kind;
    assert_eq!(kind(take(&daemon, "s", &["d"])), ErrorKind::AlreadyExists);
    assert_eq!(kind(take(&daemon, "t", &["d", "nobody"])), ErrorKind::NotFound);
    assert_eq!(kind(take(&daemon, "t", &["d", "d"])), ErrorKind::InvalidRequest);
    assert_eq!(kind(take(&daemon, "t", &["s/d"])), ErrorKind::InvalidRequest);
    assert_eq!(daemon.device_add(&request("d", "mem:16M")).unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(daemon.snapshot_remove("t").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(daemon.export_remove("77").unwrap_err().kind, ErrorKind::NotFound);
    let missing: PathBuf = folder.path().join("missing");
    let refused = daemon.device_add(&request("m", missing.to_str().unwrap())).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound, "{}", refused.message);
    assert_eq!(daemon.snapshot_list().len(), 1);
    assert_eq!(daemon.device_list().len(), 2);
}

#[test]
fn an_export_that_was_removed_is_not_served_until_it_is_added_again() {
    use crate::catalog::Catalog;
    use bowline_export_nbd::Exports;
    let Fixture { daemon, .. } = fixture();
    add(&daemon, "d", "mem:16M");
    let listener = daemon.listener_at(None).unwrap();
    let catalog = Catalog { tables: daemon.tables.clone(), listener };
    assert!(catalog.find("d").is_some() && catalog.find("").is_some());
    let asked =
        |read_only| ExportAdd { device: "d".to_owned(), kind: ExportKind::Nbd, address: None, read_only };
    let export = daemon.export_add(asked(true)).unwrap();
    assert!(catalog.find("d").is_some_and(|target| target.read_only));
    assert_eq!(daemon.export_add(asked(false)).unwrap_err().kind, ErrorKind::AlreadyExists);
    daemon.export_remove(&export.id).unwrap();
    assert!(catalog.find("d").is_none() && catalog.list().is_empty());
    daemon.export_add(asked(false)).unwrap();
    assert!(catalog.find("d").is_some_and(|target| !target.read_only));
}

#[test]
fn metrics_tell_of_every_device_and_snapshot() {
    let Fixture { daemon, .. } = fixture();
    add(&daemon, "d", "mem:16M");
    take(&daemon, "s", &["d"]).unwrap();
    write(&daemon, "d", 0);
    let text = daemon.metrics().unwrap();
    for line in [
        "bowline_device_writes_total{device=\"d\"} 1",
        "bowline_device_written_bytes_total{device=\"d\"} 4096",
        "bowline_snapshot_active{snapshot=\"s\"} 1",
        "bowline_limit{limit=\"connections\"} 256",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
