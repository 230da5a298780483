//! I4: what changed on a tracked device is known across a clean stop, kill -9 and removed snapshots; what cannot be
//! proven is refused with an error that asks for a full read.
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::changes::extents;
use common::tools::noise;
use common::{Daemon, KIB, MIB, Start, sparse_file};
use serde_json::Value;

const DISK: u64 = 64 * MIB;
const BLOCK: u64 = 4 * KIB;

/// A daemon with a state folder and a tracked disk.
fn tracked() -> Daemon {
    let start = Start::new();
    let state = start.path("state");
    let daemon = start.arg("--state").arg(state).start();
    let path = daemon.path("disk.raw");
    sparse_file(&path, DISK);
    daemon.ok(&["device", "add", "disk", path.to_str().unwrap(), "--track"]);
    daemon
}

fn changes(daemon: &Daemon, since: &str) -> Value {
    daemon.json(&["changes", "disk", "--since", since])
}

fn covers(changes: &Value, offset: u64) -> bool {
    extents(changes).iter().any(|&(at, length)| at <= offset && offset < at + length)
}

fn tracking(daemon: &Daemon) -> Value {
    daemon.json(&["device", "show", "disk"])["tracking"].clone()
}

fn write(daemon: &Daemon, offset: u64) {
    let mut client = daemon.connect("disk");
    client.write(offset, &noise(offset, BLOCK)).unwrap();
}

#[test]
fn a_clean_stop_keeps_it_exact() {
    let daemon = tracked();
    write(&daemon, 0);
    daemon.ok(&["snapshot", "take", "disk", "--name", "monday"]);
    write(&daemon, 8 * MIB);
    let before = tracking(&daemon);
    assert_eq!((&before["enabled"], &before["durable"]), (&true.into(), &true.into()));
    let daemon = daemon.stop().start();
    let after = tracking(&daemon);
    assert_eq!(after["continuity"], "clean", "{after}");
    assert_eq!((&after["generation"], &after["epoch"]), (&before["generation"], &before["epoch"]));
    // The snapshot was plain and is gone; when it was taken is known all the same.
    assert_eq!(daemon.json(&["snapshot", "list"]), Value::Array(Vec::new()));
    write(&daemon, 16 * MIB);
    assert_eq!(extents(&changes(&daemon, "monday")), [(8 * MIB, BLOCK), (16 * MIB, BLOCK)]);
    let epoch = before["epoch"].as_u64().unwrap() - 1;
    let by_epoch = daemon.json(&[
        "changes",
        "disk",
        "--since",
        &epoch.to_string(),
        "--generation",
        before["generation"].as_str().unwrap(),
    ]);
    assert_eq!(extents(&by_epoch), [(8 * MIB, BLOCK), (16 * MIB, BLOCK)]);
    // Between two takes that are both gone.
    daemon.ok(&["snapshot", "take", "disk", "--name", "tuesday"]);
    daemon.ok(&["snapshot", "remove", "tuesday"]);
    write(&daemon, 24 * MIB);
    let between = daemon.json(&["changes", "disk", "--since", "monday", "--until", "tuesday"]);
    assert_eq!(extents(&between), [(8 * MIB, BLOCK), (16 * MIB, BLOCK)]);
    let kinds: Vec<Value> = daemon.events().iter().map(|event| event["kind"].clone()).collect();
    assert!(kinds.contains(&"tracking-resumed".into()), "{kinds:?}");
}

#[test]
fn a_kill_costs_some_regions_and_misses_nothing() {
    let daemon = tracked();
    daemon.ok(&["snapshot", "take", "disk", "--name", "monday"]);
    for at in [0, 20 * MIB, DISK - BLOCK] {
        write(&daemon, at);
    }
    let before = tracking(&daemon);
    let daemon = daemon.kill().start();
    let after = tracking(&daemon);
    assert_eq!(after["continuity"], "after-crash", "{after}");
    assert_eq!(after["generation"], before["generation"]);
    let found = changes(&daemon, "monday");
    for at in [0, 20 * MIB, DISK - BLOCK] {
        assert!(covers(&found, at), "I4: {at} is missing in {found}");
    }
    let bytes = found["bytes"].as_u64().unwrap();
    assert!(bytes < DISK / 2, "a small superset, not {bytes} bytes");
    // And on it goes.
    write(&daemon, 40 * MIB);
    assert!(covers(&changes(&daemon, "monday"), 40 * MIB));
}

#[test]
fn what_cannot_be_proven_is_refused() {
    let daemon = tracked();
    daemon.ok(&["snapshot", "take", "disk", "--name", "monday"]);
    let before = tracking(&daemon);
    let start = daemon.stop();
    // Somebody writes to it while nobody tracks.
    let mut bytes = std::fs::read(start.path("disk.raw")).unwrap();
    bytes[0] ^= 1;
    std::fs::write(start.path("disk.raw"), bytes).unwrap();
    let daemon = start.start();
    let after = tracking(&daemon);
    assert_eq!(after["continuity"], "renewed", "{after}");
    assert_ne!(after["generation"], before["generation"]);
    let line = daemon.refused(&["changes", "disk", "--since", "monday"]);
    assert!(line.contains("full read"), "{line}");
    let line = daemon.refused(&[
        "changes",
        "disk",
        "--since",
        "1",
        "--generation",
        before["generation"].as_str().unwrap(),
    ]);
    assert!(line.contains("full read is needed"), "{line}");
}

#[test]
fn a_mark_counts_and_untracking_forgets() {
    let daemon = tracked();
    daemon.ok(&["snapshot", "take", "disk", "--name", "monday"]);
    let begun = Instant::now();
    daemon.ok(&["changes", "mark", "disk", "1M", "4K"]);
    // It once waited out the longest that a tracker may keep others waiting, where it had to wait at all.
    assert!(begun.elapsed() < Duration::from_secs(5), "a mark took {:?}", begun.elapsed());
    daemon.ok(&["changes", "mark", "disk", "5000", "1"]);
    assert_eq!(extents(&changes(&daemon, "monday")), [(BLOCK, BLOCK), (MIB, BLOCK)]);
    let line = daemon.refused(&["changes", "mark", "disk", "64M", "1"]);
    assert!(line.contains("67108864"), "{line}");
    let daemon = daemon.kill().start();
    let found = changes(&daemon, "monday");
    assert!(covers(&found, MIB) && covers(&found, 5000), "I4: a mark is missing after a crash: {found}");
    let generation = tracking(&daemon)["generation"].clone();
    daemon.ok(&["device", "untrack", "disk"]);
    assert_eq!(tracking(&daemon)["enabled"], false);
    assert!(daemon.refused(&["changes", "mark", "disk", "0", "1"]).contains("device track"));
    daemon.ok(&["device", "track", "disk"]);
    assert_ne!(tracking(&daemon)["generation"], generation);
    assert!(daemon.refused(&["changes", "disk", "--since", "monday"]).contains("full read"));
}

/// The numbers of events go on: who asks for what came after one it knows is told all of it and nothing twice.
#[test]
fn the_numbers_of_events_go_on() {
    let daemon = tracked();
    let last = |daemon: &Daemon| daemon.events().last().unwrap()["id"].as_u64().unwrap();
    let mut known = last(&daemon);
    let mut daemon = daemon;
    for clean in [true, false, true] {
        let start = if clean { daemon.stop() } else { daemon.kill() };
        daemon = start.start();
        let events = daemon.events();
        let first = events[0]["id"].as_u64().unwrap();
        assert!(first > known, "event {first} comes after {known}");
        let since = daemon.ok(&["events", "--since", &known.to_string()]);
        assert_eq!(since.lines().count(), events.len());
        known = last(&daemon);
    }
}

/// A kill between the first files of a tracker and the document that says it is tracked.
#[test]
fn files_of_a_device_that_is_not_tracked_go_at_the_next_start() {
    let daemon = tracked();
    daemon.ok(&["device", "untrack", "disk"]);
    let start = daemon.kill();
    let left = start.path("state/trackers/disk");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("sets"), "BWT").unwrap();
    let daemon = start.start();
    assert!(!left.exists());
    assert_eq!(tracking(&daemon)["enabled"], false);
    daemon.ok(&["device", "track", "disk"]);
    assert!(left.join("tracker").exists());
}
