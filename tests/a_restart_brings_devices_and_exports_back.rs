//! `--state`: what outlives the daemon, whether it was stopped or killed, and what is told about what does not.
#![cfg(test)]

mod common;

use common::tools::{first_difference, noise};
use common::writer::Writers;
use common::{Daemon, MIB, Nbd, Start, file_bytes, sparse_file};
use serde_json::Value;

fn stateful() -> Start {
    let start = Start::new();
    let state = start.path("state");
    start.arg("--state").arg(state)
}

/// Some devices and exports of each kind.
fn fill(daemon: &Daemon) -> Vec<u8> {
    daemon.add_file("a", 4 * MIB);
    let path = daemon.path("b.raw");
    sparse_file(&path, MIB);
    let path = path.to_str().unwrap();
    daemon.ok(&["device", "add", "b", path, "--read-only", "--block-size", "4096"]);
    daemon.ok(&["device", "add", "gone", "mem:1M"]);
    daemon.ok(&["device", "remove", "gone"]);
    daemon.ok(&["export", "add", "a", "--nbd"]);
    let extra = format!("unix:{}", daemon.path("extra.sock").display());
    daemon.ok(&["export", "add", "a", "--nbd", &extra, "--read-only"]);
    daemon.ok(&["snapshot", "take", "a", "--name", "plain"]);
    let bytes = noise(1, MIB);
    let mut client = daemon.connect("a");
    client.write(MIB, &bytes).unwrap();
    client.flush().unwrap();
    bytes
}

fn stripped(mut devices: Value) -> Value {
    for device in devices.as_array_mut().unwrap() {
        let device = device.as_object_mut().unwrap();
        // Counters and the generation begin anew; exports are compared on their own.
        for field in ["io", "tracking", "filters", "exports"] {
            device.remove(field);
        }
    }
    let list = devices.as_array().unwrap();
    list.iter().filter(|device| !device["name"].as_str().unwrap().contains('/')).cloned().collect()
}

fn exports(daemon: &Daemon) -> Vec<(Value, Value, Value)> {
    let list = daemon.json(&["export", "list"]);
    let mut list: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|export| (export["device"].clone(), export["uri"].clone(), export["read_only"].clone()))
        .collect();
    list.sort_by_key(|export| export.1.to_string());
    list
}

fn comes_back(end: impl Fn(Daemon) -> Start) {
    let daemon = stateful().start();
    let bytes = fill(&daemon);
    let (devices, exported) = (stripped(daemon.json(&["device", "list"])), exports(&daemon));
    assert_eq!((devices.as_array().unwrap().len(), exported.len()), (2, 2));
    let daemon = end(daemon).start();

    assert_eq!(stripped(daemon.json(&["device", "list"])), devices);
    assert_eq!(exports(&daemon), exported);
    assert_eq!(daemon.connect("a").read(MIB, MIB).unwrap(), bytes, "I7");
    let mut extra = Nbd::connect_unix(&daemon.path("extra.sock"), "a").unwrap();
    assert_eq!(extra.read(MIB, MIB).unwrap(), bytes);
    assert!(extra.write(0, &[1; 512]).is_err(), "the export was read-only");
    // What did not outlive it is not silently missing.
    assert_eq!(daemon.json(&["snapshot", "list"]), Value::Array(vec![]));
    let told = daemon.events().iter().any(|event| event["snapshot"] == "plain");
    assert!(told, "nobody is told that the snapshot is gone: {:#?}", daemon.events());
    assert!(daemon.refused(&["changes", "a", "--since", "plain"]).contains("plain"));
}

#[test]
fn after_a_clean_stop() {
    comes_back(Daemon::stop);
}

#[test]
fn after_kill_9_over_the_sockets_it_left() {
    comes_back(|daemon| {
        let (control, nbd) = (daemon.socket(), daemon.nbd_socket());
        let start = daemon.kill();
        assert!(control.exists() && nbd.exists(), "a killed daemon leaves its sockets");
        start
    });
}

#[test]
fn what_was_acknowledged_before_kill_9_is_in_the_file() {
    let daemon = stateful().start();
    let disk = daemon.add_file("disk", 8 * MIB);
    let writers = Writers::start((0..3).map(|_| daemon.connect("disk")).collect());
    writers.let_write(200);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    writers.let_write(100);
    let daemon = daemon.kill().start();
    let ended = writers.end();
    let bytes = daemon.read_all("disk");
    assert_eq!(first_difference(&bytes, &file_bytes(&disk)), None);
    for written in ended {
        written.log.survives_in(&bytes, written.acknowledged).unwrap_or_else(|why| panic!("I7: {why}"));
    }
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
}

#[test]
fn a_missing_disk_keeps_only_itself_down() {
    let daemon = stateful().start();
    daemon.add_file("here", MIB);
    let away = daemon.add_file("away", MIB);
    daemon.ok(&["export", "add", "away", "--nbd"]);
    let start = daemon.stop();
    let hidden = start.path("hidden");
    std::fs::rename(&away, &hidden).unwrap();
    let daemon = start.start();
    daemon.connect("here").read(0, 512).unwrap();
    let failed = daemon.events().into_iter().find(|event| event["kind"] == "device-failed").unwrap();
    assert_eq!(failed["device"], "away", "{failed}");
    let absent = daemon.json(&["status"])["absent"].clone();
    assert_eq!((&absent[0]["name"], absent.as_array().unwrap().len()), (&Value::from("away"), 1), "{absent}");
    assert!(absent[0]["reason"].as_str().unwrap().contains("away.raw"), "{absent}");
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("away")), "{log}");
    // It is back once its disk is.
    let start = daemon.stop();
    std::fs::rename(&hidden, &away).unwrap();
    let daemon = start.start();
    daemon.connect("away").read(0, 512).unwrap();
    assert_eq!(exports(&daemon)[0].0, "away", "its export is forgotten");
}

#[test]
fn a_damaged_state_is_refused_and_left_alone() {
    let daemon = stateful().start();
    daemon.add_file("disk", MIB);
    let start = daemon.stop();
    let file = start.path("state/state.json");
    let sound = std::fs::read(&file).unwrap();
    for damaged in
        [&sound[..sound.len() / 2], b"", b"[]", b"{\"version\": 99, \"devices\": [], \"exports\": []}"]
    {
        std::fs::write(&file, damaged).unwrap();
        let line = start.refused();
        assert!(line.contains("state.json"), "{line}");
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "what could be repaired is overwritten");
    }
    std::fs::write(&file, &sound).unwrap();
    start.start().connect("disk").read(0, 512).unwrap();
}

#[test]
fn an_export_that_was_removed_stays_removed() {
    let daemon = stateful().start();
    daemon.add_file("shown", MIB);
    daemon.add_file("taken", MIB);
    let away = daemon.add_file("away", MIB);
    let extra = format!("unix:{}", daemon.path("extra.sock").display());
    for device in ["shown", "taken", "away"] {
        daemon.ok(&["export", "add", device, "--nbd"]);
    }
    daemon.ok(&["export", "add", "shown", "--nbd", &extra]);
    daemon.ok(&["export", "add", "taken", "--nbd", &extra]);
    let remove = |device: &str| {
        for export in daemon.json(&["export", "list"]).as_array().unwrap() {
            if export["device"] == device {
                daemon.ok(&["export", "remove", export["id"].as_str().unwrap()]);
            }
        }
    };
    remove("taken");
    remove("away");
    let hidden = |daemon: &Daemon, device: &str| {
        let at = |socket: &std::path::Path| Nbd::connect_unix(socket, device).is_err();
        assert!(at(&daemon.nbd_socket()) && at(&daemon.path("extra.sock")), "{device} is served");
    };
    hidden(&daemon, "taken");
    // Also over a start at which one of the disks is missing.
    let start = daemon.kill();
    std::fs::rename(&away, start.path("elsewhere")).unwrap();
    let daemon = start.start();
    hidden(&daemon, "taken");
    daemon.connect("shown").read(0, 512).unwrap();
    let start = daemon.stop();
    std::fs::rename(start.path("elsewhere"), &away).unwrap();
    let daemon = start.start();
    hidden(&daemon, "taken");
    assert!(Nbd::connect_unix(&daemon.nbd_socket(), "away").is_err(), "away is served");
    // Until it is asked for again.
    daemon.ok(&["export", "add", "taken", "--nbd"]);
    daemon.stop().start().connect("taken").read(0, 512).unwrap();
}

#[test]
fn a_disk_of_the_command_line_is_known_by_any_path() {
    let start = stateful();
    std::fs::create_dir(start.path("a")).unwrap();
    let disk = start.path("a/disk.img");
    sparse_file(&disk, MIB);
    let link = start.path("disk.img");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let dotted = start.path("a/../a/disk.img");
    start.clone().arg(&disk).start().stop();
    for path in [dotted, link] {
        let daemon = start.clone().arg(&path).start();
        assert_eq!(daemon.json(&["device", "list"]).as_array().unwrap().len(), 1);
        daemon.connect("disk.img").read(0, 512).unwrap();
        daemon.stop();
    }
}

#[test]
fn what_cannot_be_kept_is_told_at_once_and_at_the_end() {
    let mut daemon = stateful().start();
    // Where the new document would be written there is a folder: the next save fails, as on a full disk.
    let blocked = daemon.path("state/state.json.new");
    std::fs::create_dir(&blocked).unwrap();
    let line = daemon.refused(&["device", "add", "d", "mem:1M"]);
    assert!(line.contains("device d is added, but will not outlive the daemon"), "{line}");
    daemon.ok(&["device", "show", "d"]);
    daemon.signal(rustix::process::Signal::TERM);
    let status = daemon.wait(std::time::Duration::from_secs(20));
    assert_eq!(status.code(), Some(1), "{}", daemon.log());
    std::fs::remove_dir(&blocked).unwrap();
}

#[test]
fn who_can_connect_finds_every_device() {
    let daemon = stateful().start();
    let away = daemon.add_file("away", MIB);
    daemon.ok(&["device", "add", "z", "mem:1M"]);
    let start = daemon.stop();
    // A disk that is locked by another program takes the daemon some time to give up.
    let lock = std::fs::File::open(&away).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (socket, stopped) = (start.path("nbd.sock"), std::sync::atomic::AtomicBool::new(false));
    let _daemon = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                    Nbd::connect_unix(&socket, "z").expect("it listens before its devices are there");
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let daemon = start.start();
        daemon.connect("z").read(0, 512).unwrap();
        stopped.store(true, std::sync::atomic::Ordering::SeqCst);
        daemon
    });
}
