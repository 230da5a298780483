//! Devices that come and go, with what was there for them only.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use super::*;

fn export_at(device: &str, address: ListenAddr) -> ExportAdd {
    ExportAdd { device: device.to_owned(), kind: ExportKind::Nbd, address: Some(address), read_only: false }
}

/// A listener that was started for an export ends with it, however the export goes.
#[test]
fn a_listener_goes_with_the_last_device_it_was_started_for() {
    let Fixture { daemon, folder } = fixture();
    add(&daemon, "d", "mem:16M");
    add(&daemon, "e", "mem:16M");
    take(&daemon, "s", &["d"]).unwrap();
    let socket = |name: &str| folder.path().join(name);
    for (name, devices) in [("image.sock", &["s/d"][..]), ("both.sock", &["d", "e"])] {
        for device in devices {
            daemon.export_add(export_at(device, ListenAddr::Unix(socket(name)))).unwrap();
        }
    }
    let answers = |name: &str| UnixStream::connect(socket(name)).is_ok();
    assert!(answers("image.sock") && answers("both.sock"));
    daemon.snapshot_remove("s").unwrap();
    assert!(!answers("image.sock") && !socket("image.sock").exists());
    daemon.device_remove("d", false).unwrap();
    assert!(answers("both.sock"), "e is still exported there");
    daemon.device_remove("e", false).unwrap();
    assert!(!answers("both.sock") && !socket("both.sock").exists());
    assert!(answers("nbd.sock"), "the daemon's own stays");
    assert_eq!(daemon.read().listeners.len(), 1);
}

/// I8: one server that never answers costs only who asked for it.
#[test]
fn a_source_that_hangs_blocks_no_other_verb() {
    let Fixture { daemon, folder } = fixture();
    let path = folder.path().join("hangs.sock");
    let server = UnixListener::bind(&path).unwrap();
    let source = format!("nbd+unix:///x?socket={}", path.display());
    let adder = {
        let daemon = daemon.clone();
        std::thread::spawn(move || daemon.device_add(&request("hangs", &source)))
    };
    let (client, _) = server.accept().unwrap();
    let before = Instant::now();
    add(&daemon, "d", "mem:16M");
    take(&daemon, "s", &["d"]).unwrap();
    assert!(before.elapsed() < Duration::from_secs(5), "it waited {:?}", before.elapsed());
    drop((client, server));
    assert!(adder.join().unwrap().is_err());
    assert!(daemon.device_show("hangs").is_err());
}

/// What the stop has taken out is not taken for what there is to keep.
#[test]
fn a_verb_that_comes_after_the_stop_leaves_the_state_alone() {
    let folder = tempfile::tempdir().unwrap();
    let queues = Queues::start(QueuesConfig { count: 1, engine: EngineKind::Sync }).unwrap();
    let address = ListenAddr::Unix(folder.path().join("nbd.sock"));
    let nbd = NbdDefaults { address, tls: None, insecure: false };
    let state = StateFolder::open(folder.path()).unwrap();
    let daemon = Daemon::new(queues, nbd, Some(state));
    add(&daemon, "d", "mem:16M");
    let kept = std::fs::read(folder.path().join("state.json")).unwrap();
    daemon.end_changes();
    daemon.take_out_device("d").unwrap();
    let late = daemon.device_add(&request("late", "mem:16M")).unwrap_err();
    assert_eq!(late.kind, ErrorKind::Unavailable, "{}", late.message);
    assert!(daemon.device_list().is_empty());
    assert_eq!(daemon.save("it is late").unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(std::fs::read(folder.path().join("state.json")).unwrap(), kept);
}

/// The name is looked at again when the store is open: of two that ask for it at once, one gets it.
#[test]
fn a_name_that_was_taken_meanwhile_is_refused() {
    let Fixture { daemon, .. } = fixture();
    let adders: Vec<_> = (0..8)
        .map(|_| {
            let daemon = daemon.clone();
            std::thread::spawn(move || daemon.device_add(&request("d", "mem:16M")).map(drop))
        })
        .collect();
    let added: Vec<_> = adders.into_iter().map(|adder| adder.join().unwrap()).collect();
    assert_eq!(added.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        added.iter().filter_map(|result| result.as_ref().err()).all(|e| e.kind == ErrorKind::AlreadyExists)
    );
    assert_eq!(daemon.events.since(EventId(0), 100).len(), 1, "one device was added");
}

/// Neither a device nor diff storage overwrites what the daemon keeps of its own.
#[test]
fn nothing_is_put_into_the_state_folder() {
    let folder = tempfile::tempdir().unwrap();
    let queues = Queues::start(QueuesConfig { count: 1, engine: EngineKind::Sync }).unwrap();
    let address = ListenAddr::Unix(folder.path().join("nbd.sock"));
    let nbd = NbdDefaults { address, tls: None, insecure: false };
    let state = folder.path().join("state");
    let daemon = Daemon::new(queues, nbd, Some(StateFolder::open(&state).unwrap()));
    std::fs::create_dir_all(state.join("trackers")).unwrap();
    std::fs::write(state.join("trackers/live"), [0; 4096]).unwrap();
    std::os::unix::fs::symlink(&state, folder.path().join("link")).unwrap();
    add(&daemon, "d", "mem:16M");
    let refused = |error: bowline_api::ApiError| {
        assert!(error.to_string().contains("is in the state folder of this daemon"), "{error}");
    };
    let take = |store: &str| {
        daemon.snapshot_take(&SnapshotTake {
            devices: vec!["d".to_owned()],
            store: store.parse().unwrap(),
            ..SnapshotTake::default()
        })
    };
    for place in
        ["state/trackers/live", "state/new", "link/trackers/live", "link/new", "state/trackers/../new"]
    {
        let path = folder.path().join(place).display().to_string();
        refused(daemon.device_add(&request("x", &path)).unwrap_err());
        refused(take(&path).unwrap_err());
        refused(take(&format!("ranges:{path}@0+4096")).unwrap_err());
    }
    refused(take(&state.display().to_string()).unwrap_err());
    let beside = folder.path().join("state.diff").display().to_string();
    take(&beside).unwrap();
}

/// I8: whoever asks for the status while others change things gets an answer, and so does everybody after.
#[test]
fn the_status_is_told_while_snapshots_come_and_go() {
    let Fixture { daemon, folder: _folder } = fixture();
    add(&daemon, "d", "mem:16M");
    let until = Instant::now() + Duration::from_millis(300);
    std::thread::scope(|scope| {
        for taker in 0..4 {
            let daemon = &daemon;
            scope.spawn(move || {
                for round in 0.. {
                    let name = format!("s{taker}-{round}");
                    take(daemon, &name, &["d"]).unwrap();
                    daemon.describe_status();
                    daemon.snapshot_remove(&name).unwrap();
                    if Instant::now() > until {
                        return;
                    }
                }
            });
        }
    });
    assert!(daemon.describe_status().snapshots.is_empty());
}
