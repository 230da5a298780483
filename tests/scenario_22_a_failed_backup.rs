//! Scenario 22: a backup fails in the middle. Nothing of what it should have taken is lost: the next increment, from the
//! last backup that was completed, holds both intervals; and made into a copy it is the image (I4).
#![cfg(test)]

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::changes::{Extent, apply, extents, missed, verify};
use common::model::{Model, seed};
use common::tools::{eventually, first_difference, wait};
use common::writer::Random;
use common::{Daemon, MIB, Nbd, tool};

const DISK: u64 = 32 * MIB;

struct Backup {
    daemon: Daemon,
    client: Nbd,
    model: Model,
    random: Random,
    copy: Vec<u8>,
}

impl Backup {
    /// A tracked disk, and a full copy of its snapshot `s0`.
    fn new() -> Self {
        let daemon = Daemon::start();
        daemon.add_tracked("disk", DISK);
        let mut client = daemon.connect("disk");
        let mut model = Model::new(DISK);
        model.write(&mut client, 0, 4096);
        daemon.ok(&["snapshot", "take", "disk", "--name", "s0"]);
        let copy = daemon.read_all("s0/disk");
        Backup { daemon, client, model, random: seed(), copy }
    }

    fn write(&mut self) -> Vec<Extent> {
        (0..20).map(|_| self.model.write_somewhere(&mut self.client, &mut self.random, 64)).collect()
    }

    fn between(&self, since: &str, until: &str) -> Vec<Extent> {
        extents(&self.daemon.json(&["changes", "disk", "--since", since, "--until", until]))
    }

    /// Only the last complete backup's snapshot and the newest are left.
    fn next_increment_has_both(mut self, first: &[Extent]) {
        let second = self.write();
        self.daemon.ok(&["snapshot", "take", "disk", "--name", "s2"]);
        let list = self.between("s0", "s2");
        let both = [first, &second[..]].concat();
        assert_eq!(missed(&both, &list), [], "I4: both intervals");
        let image = self.daemon.read_all("s2/disk");
        self.model.check(&image, "I2");
        // The checker: what changed since the failed one alone would not do.
        let alone = self.daemon.bowline(&["--json", "changes", "disk", "--since", "s1", "--until", "s2"]);
        if alone.code == 0 {
            let list = extents(&serde_json::from_str(&alone.out).unwrap());
            assert!(!missed(first, &list).is_empty());
            verify(&self.copy, &list, &image).expect_err("half of it was left out, and nobody noticed");
        }
        apply(&mut self.copy, &list, &image);
        assert_eq!(first_difference(&self.copy, &image), None, "I4");
    }
}

#[test]
fn the_reader_dies() {
    let Some(nbdcopy) = tool("nbdcopy") else { return };
    let mut backup = Backup::new();
    let first = backup.write();
    backup.daemon.ok(&["snapshot", "take", "disk", "--name", "s1"]);
    // To where nobody takes it: it is killed in the middle.
    let mut reader = Command::new(nbdcopy)
        .args(["--connections=1", "--requests=1", &backup.daemon.uri("s1/disk"), "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let reads = |daemon: &Daemon| daemon.json(&["device", "show", "s1/disk"])["io"]["reads"].as_u64();
    eventually("it reads", || (reads(&backup.daemon) > Some(0)).then_some(()));
    reader.kill().unwrap();
    wait(&mut reader, Duration::from_secs(10)).expect("it is gone");
    drop(reader.stdout.take());
    backup.next_increment_has_both(&first);
}

#[test]
fn the_snapshot_of_the_failed_backup_is_removed() {
    let mut backup = Backup::new();
    let first = backup.write();
    backup.daemon.ok(&["snapshot", "take", "disk", "--name", "s1"]);
    backup.daemon.connect("s1/disk").read(0, MIB).unwrap();
    backup.daemon.ok(&["snapshot", "remove", "s1"]);
    backup.next_increment_has_both(&first);
}

#[test]
fn the_snapshot_of_the_failed_backup_runs_full() {
    let mut backup = Backup::new();
    let first = backup.write();
    backup.daemon.ok(&["snapshot", "take", "disk", "--name", "s1", "--limit", "256K"]);
    let mut overwritten = vec![backup.model.write(&mut backup.client, 0, 4096)];
    eventually("it has failed", || {
        (backup.daemon.json(&["snapshot", "show", "s1"])["state"] == "failed").then_some(())
    });
    overwritten.extend(first);
    backup.next_increment_has_both(&overwritten);
}
