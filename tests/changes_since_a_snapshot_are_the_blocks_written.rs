//! I4: `changes --since` names the blocks that were written, discarded or zeroed since, all and only those; and the
//! image with them copied over it is the disk.
#![cfg(test)]

mod common;

use std::collections::BTreeSet;

use common::tools::{first_difference, noise, part};
use common::writer::{Random, Writers};
use common::{Daemon, KIB, MIB};
use serde_json::Value;

const DISK: u64 = 16 * MIB;
const BLOCK: u64 = 4 * KIB;

fn extents(changes: &Value) -> Vec<(u64, u64)> {
    let list = changes["extents"].as_array().unwrap();
    list.iter().map(|e| (e["offset"].as_u64().unwrap(), e["length"].as_u64().unwrap())).collect()
}

/// The blocks of extents that must be ascending and merged.
fn blocks(extents: &[(u64, u64)]) -> BTreeSet<u64> {
    for pair in extents.windows(2) {
        assert!(pair[0].0 + pair[0].1 < pair[1].0, "not ascending or not merged: {extents:?}");
    }
    extents.iter().flat_map(|&(offset, length)| offset / BLOCK..(offset + length).div_ceil(BLOCK)).collect()
}

#[test]
fn it_is_the_exact_set() {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let mut client = daemon.connect("disk");
    client.write(0, &noise(1, 4 * MIB)).unwrap();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let nothing = daemon.json(&["changes", "disk", "--since", "s"]);
    assert_eq!((&nothing["bytes"], &nothing["extents"]), (&0.into(), &Value::Array(vec![])));
    assert_eq!(
        (&nothing["device"], &nothing["since"], &nothing["size"]),
        (&"disk".into(), &"s".into(), &DISK.into())
    );
    assert_eq!(nothing["granularity"], BLOCK);

    let mut written = BTreeSet::new();
    let mut random = Random(5);
    for round in 0..200_u64 {
        let sectors = 1 + random.below(24);
        // Zeroes where there was data: over a hole they change nothing.
        let end = if round % 8 == 0 { 4 * MIB } else { DISK };
        let offset = random.below(end / 512 - sectors) * 512;
        let length = sectors * 512;
        match round % 8 {
            0 => client.write_zeroes(offset, length).unwrap(),
            _ => client.write(offset, &noise(round, length)).unwrap(),
        }
        written.extend(offset / BLOCK..(offset + length).div_ceil(BLOCK));
    }
    // A discard of whole blocks of data, next to nothing else.
    client.trim(MIB, 64 * KIB).unwrap();
    written.extend(MIB / BLOCK..(MIB + 64 * KIB) / BLOCK);

    let changes = daemon.json(&["changes", "disk", "--since", "s"]);
    let found = extents(&changes);
    assert_eq!(blocks(&found), written, "I4");
    assert_eq!(changes["bytes"].as_u64().unwrap(), written.len() as u64 * BLOCK);
    assert!(found.iter().all(|(offset, length)| offset % BLOCK == 0 && length % BLOCK == 0));
    // The same for scripts without a JSON reader.
    let raw: String = found.iter().map(|(offset, length)| format!("{offset} {length}\n")).collect();
    assert_eq!(daemon.ok(&["changes", "disk", "--since", "s", "--raw"]), raw);
}

#[test]
fn the_map_draws_what_changed() {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let mut client = daemon.connect("disk");
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let before = daemon.ok(&["changes", "disk", "--since", "s", "--map"]);
    client.write(8 * MIB, &noise(1, 4 * MIB)).unwrap();
    let after = daemon.ok(&["changes", "disk", "--since", "s", "--map"]);
    assert!(after.contains("4M") && after != before, "{before}\n{after}");
}

#[test]
fn each_snapshot_has_its_own_since() {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let mut client = daemon.connect("disk");
    for (number, name) in (0..).zip(["s0", "s1", "s2"]) {
        daemon.ok(&["snapshot", "take", "disk", "--name", name]);
        client.write(number * MIB, &noise(number, 8 * KIB)).unwrap();
    }
    let since = |name: &str| extents(&daemon.json(&["changes", "disk", "--since", name]));
    let changed = |number: u64| (number * MIB, 8 * KIB);
    assert_eq!(since("s0"), [changed(0), changed(1), changed(2)]);
    assert_eq!(since("s1"), [changed(1), changed(2)]);
    assert_eq!(since("s2"), [changed(2)]);
    let between = daemon.json(&["changes", "disk", "--since", "s0", "--until", "s1"]);
    assert_eq!(extents(&between), [changed(0)]);
    // Also when the one between is gone.
    daemon.ok(&["snapshot", "remove", "s1"]);
    assert_eq!(since("s0"), [changed(0), changed(1), changed(2)]);
    assert_eq!(since("s2"), [changed(2)]);
}

#[test]
fn without_since_it_is_what_is_in_use() {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let mut client = daemon.connect("disk");
    client.write(3 * MIB, &noise(1, MIB)).unwrap();
    let changes = daemon.json(&["changes", "disk"]);
    assert_eq!(changes["since"], Value::Null);
    assert_eq!(extents(&changes), [(3 * MIB, MIB)]);
    // What there is nothing to say of is null: scripts need not ask whether the key is there.
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    daemon.ok(&["device", "add", "other", "mem:1M"]);
    let snapshot = daemon.json(&["snapshot", "show", "s"]);
    let tracking = &daemon.json(&["device", "show", "other"])["tracking"];
    let nulls = [
        (&changes, "generation"),
        (&snapshot, "reason"),
        (&snapshot["store"], "location"),
        (tracking, "generation"),
        (tracking, "epoch"),
        (tracking, "granularity"),
    ];
    for (document, key) in nulls {
        assert_eq!(document.get(key), Some(&Value::Null), "{key} in {document}");
    }
}

#[test]
fn under_load_it_misses_nothing_and_the_increment_makes_the_image_the_disk() {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let writers = Writers::start(vec![daemon.connect("disk"), daemon.connect("disk")]);
    for round in 0..3 {
        let name = format!("s{round}");
        writers.let_write(100);
        daemon.ok(&["snapshot", "take", "disk", "--name", &name]);
        writers.let_write(60);
    }
    let logs = writers.finish();
    let disk = daemon.read_all("disk");
    for log in &logs {
        log.is_all_of(&disk).unwrap_or_else(|why| panic!("I1: {why}"));
    }
    for round in 0..3 {
        let mut copy = daemon.read_all(&format!("s{round}/disk"));
        let changes = daemon.json(&["changes", "disk", "--since", &format!("s{round}")]);
        assert_ne!(first_difference(&copy, &disk), None, "nothing was written since s{round}");
        for (offset, length) in extents(&changes) {
            let from = usize::try_from(offset).unwrap();
            let new = part(&disk, offset, length);
            copy[from..from + new.len()].copy_from_slice(new);
        }
        assert_eq!(first_difference(&copy, &disk), None, "I4: the increment since s{round} misses something");
    }
}

#[test]
fn what_cannot_be_told_is_refused() {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    daemon.ok(&["device", "add", "other", "mem:1M"]);
    daemon.ok(&["snapshot", "take", "other", "--name", "others"]);
    for since in ["nothing", "others"] {
        let line = daemon.refused(&["changes", "disk", "--since", since]);
        assert!(line.contains(since), "{line}");
    }
    let stranger = "6f1c2f0e-0000-4000-8000-000000000000";
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let line = daemon.refused(&["changes", "disk", "--since", "s", "--generation", stranger]);
    assert!(line.contains("read"), "it asks for a full read: {line}");
}
