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
