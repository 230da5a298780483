//! I2: a persistent snapshot is exact after a clean restart and after kill -9; a plain one is gone and says so.
#![cfg(test)]

mod common;

use common::tools::{first_difference, noise};
use common::{Daemon, MIB, Start};

const DISK: u64 = 32 * MIB;

fn daemon() -> Daemon {
    let start = Start::new();
    let state = start.path("state");
    let daemon = start.arg("--state").arg(state).start();
    daemon.add_file("disk", DISK);
    daemon
}

fn write(daemon: &Daemon, export: &str, seed: u64, offset: u64, bytes: u64) {
    daemon.connect(export).write(offset, &noise(seed, bytes)).unwrap();
}

fn take(daemon: &Daemon, name: &str) {
    let store = daemon.path(&format!("{name}.diff"));
    daemon.ok(&[
        "snapshot",
        "take",
        "disk",
        "--name",
        name,
        "--persistent",
        "--store",
        store.to_str().unwrap(),
    ]);
}

#[test]
fn across_restarts_and_kills_it_is_exact() {
    let mut daemon = daemon();
    write(&daemon, "disk", 1, 0, 8 * MIB);
    take(&daemon, "kept");
    daemon.ok(&["snapshot", "take", "disk", "--name", "plain"]);
    let shown = daemon.json(&["snapshot", "show", "kept"]);
    assert_eq!(shown["persistent"], true, "{shown}");
    for image in ["kept/disk", "plain/disk"] {
        daemon.ok(&["export", "add", image, "--nbd", "--read-only"]);
    }
    let exact = daemon.read_all("kept/disk");
    for (round, clean) in (2..).zip([true, false, false, true]) {
        write(&daemon, "disk", round, round * MIB, 2 * MIB);
        let origin = daemon.read_all("disk");
        let start = if clean { daemon.stop() } else { daemon.kill() };
        daemon = start.start();
        let again = daemon.json(&["snapshot", "show", "kept"]);
        assert_eq!(
            (&again["state"], &again["id"]),
            (&"active".into(), &shown["id"]),
            "{again}\n{}",
            daemon.log()
        );
        assert_eq!(again["taken_at"], shown["taken_at"]);
        // Exports live as long as what they export.
        let exports = daemon.json(&["export", "list"]);
        assert_eq!(exports.as_array().unwrap().len(), 1, "{exports}");
        assert_eq!((&exports[0]["device"], &exports[0]["read_only"]), (&"kept/disk".into(), &true.into()));
        assert_eq!(first_difference(&daemon.read_all("kept/disk"), &exact), None, "I2: round {round}");
        assert_eq!(first_difference(&daemon.read_all("disk"), &origin), None, "I7: round {round}");
        assert!(daemon.refused(&["snapshot", "show", "plain"]).contains("plain"));
    }
    let kinds: Vec<String> =
        daemon.events().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect();
    assert!(kinds.contains(&"snapshot-resumed".to_owned()), "{kinds:?}");
    daemon.ok(&["snapshot", "remove", "kept"]);
    assert!(!daemon.path("kept.diff").exists(), "its storage is given back");
    let daemon = daemon.stop().start();
    assert!(daemon.json(&["snapshot", "list"]).as_array().unwrap().is_empty());
}

/// What was written to an image and flushed is there again.
#[test]
fn what_was_written_to_its_image_is_kept() {
    let mut daemon = daemon();
    write(&daemon, "disk", 1, 0, 4 * MIB);
    take(&daemon, "kept");
    for (seed, clean) in [(7, true), (8, false)] {
        let mut image = daemon.connect("kept/disk");
        image.write(MIB, &noise(seed, MIB)).unwrap();
        image.flush().unwrap();
        drop(image);
        let written = daemon.read_all("kept/disk");
        let start = if clean { daemon.stop() } else { daemon.kill() };
        daemon = start.start();
        assert_eq!(first_difference(&daemon.read_all("kept/disk"), &written), None, "clean stop: {clean}");
    }
}

/// I2: a device that was changed while nobody watched has no image that could be trusted.
#[test]
fn an_origin_that_was_changed_meanwhile_costs_the_snapshot() {
    let daemon = daemon();
    take(&daemon, "kept");
    let start = daemon.stop();
    let mut bytes = std::fs::read(start.path("disk.raw")).unwrap();
    bytes[5] ^= 1;
    std::fs::write(start.path("disk.raw"), bytes).unwrap();
    let daemon = start.start();
    let shown = daemon.json(&["snapshot", "show", "kept"]);
    assert_eq!(shown["state"], "failed", "{shown}");
    assert!(shown["reason"].as_str().unwrap().contains("disk"), "{shown}");
    // It stays so, also when the file looks as it did.
    let daemon = daemon.stop().start();
    assert_eq!(daemon.json(&["snapshot", "show", "kept"])["state"], "failed");
    daemon.ok(&["snapshot", "remove", "kept"]);
}

/// What it was extended by is as much a part of it as what it was taken with.
#[test]
fn what_it_was_extended_by_is_kept() {
    let daemon = daemon();
    write(&daemon, "disk", 1, 0, 24 * MIB);
    let (store, more) = (daemon.path("kept.diff"), daemon.path("more.diff"));
    let take = ["snapshot", "take", "disk", "--name", "kept", "--persistent", "--limit", "8M", "--store"];
    daemon.ok(&[&take[..], &[store.to_str().unwrap()]].concat());
    let exact = daemon.read_all("kept/disk");
    write(&daemon, "disk", 2, 0, 4 * MIB);
    daemon.ok(&["snapshot", "extend", "kept", more.to_str().unwrap(), "--limit", "32M"]);
    write(&daemon, "disk", 3, 4 * MIB, 20 * MIB);
    let daemon = daemon.kill().start();
    let shown = daemon.json(&["snapshot", "show", "kept"]);
    assert_eq!(shown["state"], "active", "{shown}\n{}", daemon.log());
    assert_eq!(first_difference(&daemon.read_all("kept/disk"), &exact), None, "I2");
    assert_eq!(shown["stores"].as_array().unwrap().len(), 2, "{shown}");
}

/// A disk that is away at one start does not cost its snapshots.
#[test]
fn a_disk_that_is_away_keeps_its_snapshots() {
    let daemon = daemon();
    write(&daemon, "disk", 1, 0, MIB);
    take(&daemon, "kept");
    let exact = daemon.read_all("kept/disk");
    let start = daemon.stop();
    std::fs::rename(start.path("disk.raw"), start.path("away")).unwrap();
    let daemon = start.start();
    assert_eq!(daemon.json(&["snapshot", "show", "kept"])["state"], "failed");
    let start = daemon.stop();
    std::fs::rename(start.path("away"), start.path("disk.raw")).unwrap();
    let daemon = start.start();
    let shown = daemon.json(&["snapshot", "show", "kept"]);
    assert_eq!(shown["state"], "active", "{shown}");
    assert_eq!(first_difference(&daemon.read_all("kept/disk"), &exact), None);
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let plain = Daemon::start();
    plain.add_file("disk", MIB);
    let store = plain.path("diff");
    let line =
        plain.refused(&["snapshot", "take", "disk", "--persistent", "--store", store.to_str().unwrap()]);
    assert!(line.contains("--state"), "{line}");
    let daemon = daemon();
    daemon.ok(&["device", "add", "fleeting", "mem:1M"]);
    let line =
        daemon.refused(&["snapshot", "take", "fleeting", "--persistent", "--store", store.to_str().unwrap()]);
    assert!(line.contains("fleeting"), "{line}");
    assert!(daemon.refused(&["snapshot", "take", "disk", "--persistent"]).contains("memory"));
    let folder = daemon.path("");
    let line =
        daemon.refused(&["snapshot", "take", "disk", "--persistent", "--store", folder.to_str().unwrap()]);
    assert!(line.contains("does not outlive"), "{line}");
    assert!(daemon.json(&["snapshot", "list"]).as_array().unwrap().is_empty());
}

/// I2: a clean stop puts one device away after the other; that the first is gone is no failure of what they share.
#[test]
fn one_of_two_devices_survives_a_clean_stop() {
    let mut daemon = daemon();
    daemon.add_file("more", DISK);
    let devices = ["disk", "more"];
    for (seed, device) in (1..).zip(devices) {
        write(&daemon, device, seed, 0, 4 * MIB);
    }
    let store = daemon.path("both.diff");
    let store = store.to_str().unwrap();
    daemon.ok(&["snapshot", "take", "disk", "more", "--name", "both", "--persistent", "--store", store]);
    let exact = devices.map(|device| daemon.read_all(&format!("both/{device}")));
    for round in 3..6 {
        for device in devices {
            write(&daemon, device, round, MIB, 2 * MIB);
        }
        daemon = daemon.stop().start();
        let shown = daemon.json(&["snapshot", "show", "both"]);
        assert_eq!(shown["state"], "active", "{shown}\n{}", daemon.log());
        for (device, exact) in devices.iter().zip(&exact) {
            assert_eq!(
                first_difference(&daemon.read_all(&format!("both/{device}")), exact),
                None,
                "I2: {device}"
            );
        }
    }
    // What is put away is neither gone nor failed.
    let events = daemon.events();
    let bad: Vec<_> =
        events.iter().filter(|one| one["kind"] == "failed" || one["kind"] == "device-gone").collect();
    assert!(bad.is_empty(), "{bad:?}");
}
