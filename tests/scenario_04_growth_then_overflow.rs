//! Scenario 4: diff storage grows in steps and the images stay right; then it is full. One event says there is no space
//! and one that the snapshot failed; its images answer EIO everywhere; the origin is right, which others left untested;
//! other snapshots go on; and the next one works (I1, I2, I9).
#![cfg(test)]

mod common;

use common::changes::{extents, missed};
use common::model::{Model, seed};
use common::nbd::EIO;
use common::oracle::SECTOR;
use common::tools::eventually;
use common::writer::Random;
use common::{Daemon, KIB, MIB, NbdError};
use serde_json::Value;

const DISK: u64 = 16 * MIB;
const LIMIT: u64 = 8 * MIB;
const STEP: u64 = 2 * MIB;

struct Held {
    daemon: Daemon,
    disk: Model,
    /// Of a tracked one.
    other: Model,
    disk_then: Model,
    other_then: Model,
    random: Random,
    /// Where diff storage is.
    _folder: tempfile::TempDir,
}

impl Held {
    /// Snapshots of two disks: `roomy` and `small`, which shares its storage between both.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::start();
        let filled = |name: &str, bytes| {
            if name == "other" {
                daemon.add_tracked(name, bytes);
            } else {
                daemon.add_file(name, bytes);
            }
            let mut model = Model::new(bytes);
            model.fill(&mut daemon.connect(name));
            model
        };
        let (disk, other) = (filled("disk", DISK), filled("other", MIB));
        daemon.ok(&["snapshot", "take", "disk", "--name", "roomy", "--limit", "64M"]);
        let path = folder.path().join("small.diff");
        let (path, limit, step) = (path.to_str().unwrap(), LIMIT.to_string(), STEP.to_string());
        let store = ["--store", path, "--limit", &limit, "--step", &step];
        daemon.ok(&[&["snapshot", "take", "disk", "other", "--name", "small"], &store[..]].concat());
        let (disk_then, other_then) = (disk.clone(), other.clone());
        Held { daemon, disk, other, disk_then, other_then, random: seed(), _folder: folder }
    }

    /// Writes at least so much, and to the other disk a little.
    fn write(&mut self, bytes: u64) {
        let mut client = self.daemon.connect("disk");
        let mut written = 0;
        while written < bytes {
            written += self.disk.write_somewhere(&mut client, &mut self.random, 512).1;
        }
        self.other.write_somewhere(&mut self.daemon.connect("other"), &mut self.random, 64);
    }

    fn show(&self, name: &str) -> Value {
        self.daemon.json(&["snapshot", "show", name])
    }

    fn check_origins(&self) {
        self.disk.check(&self.daemon.read_all("disk"), "I1: the origin");
        self.other.check(&self.daemon.read_all("other"), "I1: the other origin");
        for name in ["disk", "other"] {
            assert_eq!(self.daemon.json(&["device", "show", name])["io"]["errors"], 0, "I1: {name}");
        }
    }

    /// Overwrites everything: more than the limit allows.
    fn overflow(&mut self) {
        self.disk.fill(&mut self.daemon.connect("disk"));
        eventually("the snapshot has failed", || (self.show("small")["state"] == "failed").then_some(()));
    }

    fn answers_eio(&self, image: &str) {
        let mut client = self.daemon.connect(image);
        for offset in (0..client.size).step_by(4096) {
            match client.read(offset, SECTOR as u64) {
                Err(NbdError::Errno(EIO)) => {}
                other => panic!("{image} answers at {offset}: {other:?}"),
            }
        }
    }
}

#[test]
fn growth_leaves_the_images_right() {
    let mut held = Held::new();
    held.write(3 * MIB);
    held.disk_then.check(&held.daemon.read_all("small/disk"), "I2");
    held.other_then.check(&held.daemon.read_all("small/other"), "I2");
    let store = &held.show("small")["store"];
    assert!((1..=LIMIT).contains(&store["used"].as_u64().unwrap()), "{store}");
    // Slower than the worker that lets the file grow: as many times as there are steps.
    let grown = eventually("the file has grown", || {
        let grown = held.daemon.count_events("grown", "small") as u64;
        (grown >= 1).then_some(grown)
    });
    assert!(grown < LIMIT / STEP, "grown {grown} times");
    assert_eq!(held.daemon.count_events("no-space", "small"), 0);
    held.check_origins();
}

#[test]
fn overflow_costs_that_snapshot_and_nothing_else() {
    let mut held = Held::new();
    held.write(2 * MIB);
    held.overflow();
    held.check_origins();

    // Once each, in this order, with the snapshot's name and numbers.
    let events = held.daemon.events();
    let of_small = |kind: &str| -> Vec<&Value> {
        events.iter().filter(|event| event["snapshot"] == "small" && event["kind"] == kind).collect()
    };
    let [low, full, failed] = ["low-space", "no-space", "failed"].map(|kind| {
        let found = of_small(kind);
        assert_eq!(found.len(), 1, "events {kind}: {found:#?}");
        found[0].clone()
    });
    let id = |event: &Value| event["id"].as_u64().unwrap();
    assert!(id(&low) < id(&full) && id(&full) < id(&failed), "{low} {full} {failed}");
    assert_eq!(full["numbers"]["limit"], LIMIT, "{full}");
    let shown = held.show("small");
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains(&LIMIT.to_string()) && failed["message"].as_str().unwrap().contains(reason));
    assert!(shown["store"]["used"].as_u64().unwrap() <= LIMIT, "I9: {shown}");

    // All images of the snapshot are gone, whichever of its devices took the space.
    held.answers_eio("small/disk");
    held.answers_eio("small/other");
    // Another snapshot of the same device is none the worse, older or newer.
    assert_eq!(held.show("roomy")["state"], "active");
    held.disk_then.check(&held.daemon.read_all("roomy/disk"), "I2: the older snapshot");
    held.daemon.ok(&["snapshot", "take", "disk", "other", "--name", "next"]);
    let next = held.disk.clone();
    held.write(MIB);
    next.check(&held.daemon.read_all("next/disk"), "I2: the next snapshot");
    held.disk_then.check(&held.daemon.read_all("roomy/disk"), "I2: the older snapshot");
    held.check_origins();

    // What changed since the others is as well known as ever.
    let changes = extents(&held.daemon.json(&["changes", "disk", "--since", "roomy"]));
    assert_eq!(missed(&[(0, DISK)], &changes), [], "I4: everything was overwritten");
    // Of a tracked device also since the one that failed, for that needs no storage.
    let written = held.other.write(&mut held.daemon.connect("other"), 5, 3);
    let changes = extents(&held.daemon.json(&["changes", "other", "--since", "small"]));
    assert_eq!(missed(&[written], &changes), [], "I4");
    for name in ["small", "roomy", "next"] {
        held.daemon.ok(&["snapshot", "remove", name]);
    }
    held.check_origins();
    assert_eq!(held.daemon.json(&["status"])["limits"]["diff_storage_bytes"]["used"], 0, "I9");
}

#[test]
fn a_write_lost_in_the_overflow_would_be_reported() {
    let mut held = Held::new();
    held.write(MIB);
    let old = held.daemon.read_all("disk");
    held.overflow();
    let mut disk = held.daemon.read_all("disk");
    assert_eq!(held.disk.reports(&disk), []);
    // The old contents again in the first, a middle and the last sector: as if their writes had been dropped.
    let last = DISK / SECTOR as u64 - 1;
    let lost = [0, last / 2, last];
    for sector in lost {
        let at = usize::try_from(sector).unwrap() * SECTOR;
        disk[at..at + SECTOR].copy_from_slice(&old[at..at + SECTOR]);
    }
    let reported: Vec<u64> = held.disk.reports(&disk).iter().map(|report| report.sector).collect();
    assert_eq!(reported, lost);
    assert!(held.show("small")["store"]["used"].as_u64().unwrap() > 64 * KIB);
}
