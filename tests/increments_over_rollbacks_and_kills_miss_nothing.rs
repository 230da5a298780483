//! I4 where several things meet: a device goes back to a snapshot, the daemon is killed, snapshots outlive it, images are
//! written to; and whatever is asked of any two of its moments, a copy of the one with the increment is the other.
#![cfg(test)]

mod common;

use common::changes::{extents, verifier_notices, verify};
use common::model::{Model, seed};
use common::tools::eventually;
use common::writer::Random;
use common::{Daemon, MIB, Start};

const DISK: u64 = 8 * MIB;

/// A moment of the disk that is held: its snapshot, and its contents then.
struct Moment {
    name: &'static str,
    bytes: Vec<u8>,
    model: Model,
}

struct Disk {
    daemon: Daemon,
    model: Model,
    random: Random,
    held: Vec<Moment>,
    persistent: bool,
    /// Each rollback makes another writer: what is written behind it is never taken for what was written before.
    writer: u32,
}

impl Disk {
    fn new(tracked: bool, persistent: bool) -> Self {
        let start = Start::new();
        let state = start.path("state");
        let daemon = start.arg("--state").arg(state).start();
        if tracked {
            daemon.add_tracked("disk", DISK);
        } else {
            daemon.add_file("disk", DISK);
        }
        let mut model = Model::new(DISK);
        model.write(&mut daemon.connect("disk"), 0, 8192);
        Disk { daemon, model, random: seed(), held: Vec::new(), persistent, writer: 1 }
    }

    fn write(&mut self, times: u64) {
        let mut client = self.daemon.connect("disk");
        for _ in 0..times {
            self.model.write_somewhere(&mut client, &mut self.random, 64);
        }
        self.model.zero(&mut client, 8 * self.random.below(1000), 64, times.is_multiple_of(2));
    }

    fn take(&mut self, name: &'static str) {
        let store = self.daemon.path(&format!("{name}.diff"));
        let mut args = vec!["snapshot", "take", "disk", "--name", name];
        if self.persistent {
            args.extend([
                "--persistent",
                "--step",
                "1M",
                "--limit",
                "64M",
                "--store",
                store.to_str().unwrap(),
            ]);
        }
        self.daemon.ok(&args);
        let bytes = self.daemon.read_all(&format!("{name}/disk"));
        self.model.check(&bytes, &format!("I2: {name} at its take"));
        self.held.push(Moment { name, bytes, model: self.model.clone() });
    }

    /// Everything that can be asked.
    fn check(&self, when: &str) {
        let now = self.daemon.read_all("disk");
        self.model.check(&now, &format!("I1: the disk {when}"));
        for (at, since) in self.held.iter().enumerate() {
            let image = self.daemon.read_all(&format!("{}/disk", since.name));
            assert!(image == since.bytes, "I2: image {} {when}", since.name);
            let list = extents(&self.daemon.json(&["changes", "disk", "--since", since.name]));
            verify(&since.bytes, &list, &now)
                .unwrap_or_else(|why| panic!("I4: since {} {when}: {why}", since.name));
            if since.bytes != now {
                verifier_notices(&since.bytes, &list, &now);
            }
            for until in &self.held[at + 1..] {
                let args = ["changes", "disk", "--since", since.name, "--until", until.name];
                let list = extents(&self.daemon.json(&args));
                verify(&since.bytes, &list, &until.bytes)
                    .unwrap_or_else(|why| panic!("I4: {} to {} {when}: {why}", since.name, until.name));
            }
        }
    }

    fn roll_back(&mut self, name: &str) {
        self.writer += 1;
        let then = self.held.iter().find(|moment| moment.name == name).unwrap();
        self.model = then.model.clone().of_writer(self.writer);
        self.daemon.ok(&["snapshot", "rollback", name, "--no-wait"]);
        // At once, while most of it is not back in place; and while it is written to.
        self.model.check(&self.daemon.read_all("disk"), &format!("the disk on its way back to {name}"));
        self.write(10);
        self.check(&format!("on its way back to {name}"));
        self.write(10);
        eventually("it is back", || {
            let shown = self.daemon.json(&["snapshot", "show", name]);
            (shown["rollback"][0]["state"] == "done").then_some(())
        });
        self.check(&format!("back at {name}"));
    }
}

#[test]
fn a_rollback_is_a_change() {
    for tracked in [true, false] {
        let mut disk = Disk::new(tracked, false);
        disk.take("a");
        disk.write(20);
        disk.take("b");
        disk.write(20);
        disk.take("c");
        disk.write(5);
        disk.roll_back("b");
        disk.write(5);
        disk.check("after writes behind a rollback");
        disk.take("d");
        disk.roll_back("a");
        disk.roll_back("d");
    }
}

#[test]
fn persistent_snapshots_over_kills() {
    for tracked in [true, false] {
        let mut disk = Disk::new(tracked, true);
        disk.take("a");
        disk.write(10);
        disk.take("b");
        for round in 0..3 {
            disk.write(10);
            disk.daemon = if round == 1 { disk.daemon.stop().start() } else { disk.daemon.kill().start() };
            disk.check(&format!("after restart {round}"));
        }
        disk.take("c");
        disk.write(10);
        disk.roll_back("b");
        disk.daemon = disk.daemon.kill().start();
        disk.check("after a rollback and a kill");
    }
}
