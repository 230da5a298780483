//! Scenario 5: what changed between two snapshots is the same in the end as at the take, whatever is written while they
//! are held; two increments can be made from one held base; and a full copy with the increments applied is the image,
//! byte by byte, which is how the verifier of the container storage interface judges (I4). The same whether the answer
//! comes from what snapshots preserve or from the tracker of the device.
#![cfg(test)]

mod common;

use common::changes::{Extent, apply, blocks_of, extents, missed, verifier_notices, verify};
use common::model::{Model, seed};
use common::tools::first_difference;
use common::writer::{Random, Writers};
use common::{Daemon, KIB, MIB, Nbd};

const DISK: u64 = 8 * MIB;
const BLOCK: u64 = 4 * KIB;

struct Disk {
    daemon: Daemon,
    client: Nbd,
    model: Model,
    random: Random,
}

fn add(daemon: &Daemon, tracked: bool) {
    if tracked {
        daemon.add_tracked("disk", DISK);
    } else {
        daemon.add_file("disk", DISK);
    }
}

impl Disk {
    fn new(tracked: bool) -> Self {
        let daemon = Daemon::start();
        add(&daemon, tracked);
        let mut client = daemon.connect("disk");
        let mut model = Model::new(DISK);
        model.fill(&mut client);
        Disk { daemon, client, model, random: seed() }
    }

    fn take(&self, name: &str) -> Vec<u8> {
        self.daemon.ok(&["snapshot", "take", "disk", "--name", name]);
        self.daemon.read_all(&format!("{name}/disk"))
    }

    fn write(&mut self, times: u64) -> Vec<Extent> {
        (0..times).map(|_| self.model.write_somewhere(&mut self.client, &mut self.random, 128)).collect()
    }

    fn between(&self, since: &str, until: &str) -> Vec<Extent> {
        extents(&self.daemon.json(&["changes", "disk", "--since", since, "--until", until]))
    }

    fn since(&self, since: &str) -> Vec<Extent> {
        extents(&self.daemon.json(&["changes", "disk", "--since", since]))
    }
}

fn frozen(tracked: bool) {
    let mut disk = Disk::new(tracked);
    disk.take("s0");
    let written = disk.write(20);
    disk.take("s1");
    let at_take = disk.between("s0", "s1");
    assert_eq!(at_take, blocks_of(&written, BLOCK), "I4");
    // Writes go on: into the same blocks, into others, and a discard.
    let later = disk.write(40);
    disk.model.zero(&mut disk.client, 0, 512, true);
    assert_eq!(disk.between("s0", "s1"), at_take, "the list changed while it was held");
    assert_eq!(missed(&later, &disk.since("s1")), []);
    // The image asks and is answered the same.
    let of_image = extents(&disk.daemon.json(&["changes", "s1/disk", "--since", "s0"]));
    assert_eq!(of_image, at_take);
}

#[test]
fn the_list_at_the_take_is_the_list_at_the_end_of_the_hold() {
    frozen(false);
}

#[test]
fn and_with_a_tracker() {
    frozen(true);
}

fn two_increments(tracked: bool) {
    let mut disk = Disk::new(tracked);
    let base = disk.take("base");
    let first_written = disk.write(15);
    let first = disk.take("first");
    let second_written = disk.write(15);
    let second = disk.take("second");
    let (to_first, to_second) = (disk.between("base", "first"), disk.between("base", "second"));
    let step = disk.between("first", "second");
    assert_eq!(to_first, blocks_of(&first_written, BLOCK));
    assert_eq!(step, blocks_of(&second_written, BLOCK));
    assert_eq!(to_second, blocks_of(&[first_written, second_written].concat(), BLOCK));
    verify(&base, &to_first, &first).unwrap_or_else(|why| panic!("I4: base to first: {why}"));
    verify(&base, &to_second, &second).unwrap_or_else(|why| panic!("I4: base to second: {why}"));
    verify(&first, &step, &second).unwrap_or_else(|why| panic!("I4: first to second: {why}"));
    verifier_notices(&base, &to_first, &first);
    verifier_notices(&base, &to_second, &second);
    verifier_notices(&first, &step, &second);
    // The base does not go away with the first increment made of it.
    disk.daemon.ok(&["snapshot", "remove", "first"]);
    assert_eq!(disk.between("base", "second"), to_second);
}

#[test]
fn two_increments_from_one_held_base() {
    two_increments(false);
}

#[test]
fn two_increments_from_one_held_base_with_a_tracker() {
    two_increments(true);
}

/// What is marked by hand is in every increment that the moment is in, and in no other.
#[test]
fn marks_are_in_both_increments() {
    let mut disk = Disk::new(true);
    disk.take("before");
    disk.take("base");
    let marked = (3 * MIB, 8 * KIB);
    // It makes whole blocks of what it is given.
    disk.daemon.ok(&["changes", "mark", "disk", &(3 * MIB + 512).to_string(), "5K"]);
    disk.take("first");
    let written = disk.write(3);
    disk.take("second");
    assert_eq!(disk.between("base", "first"), [marked]);
    assert_eq!(disk.between("base", "second"), blocks_of(&[&written[..], &[marked]].concat(), BLOCK));
    assert_eq!(disk.between("before", "base"), []);
    assert_eq!(disk.between("first", "second"), blocks_of(&written, BLOCK));
    disk.model.check(&disk.daemon.read_all("disk"), "I1: a mark writes nothing");
    let line = disk.daemon.refused(&["changes", "mark", "disk", &DISK.to_string(), "4K"]);
    assert!(line.contains("disk"), "{line}");
}

/// As a backup tool does it: a full copy once, then only what changed, under writers that never stop.
fn a_chain(tracked: bool) {
    let daemon = Daemon::start();
    add(&daemon, tracked);
    let writers = Writers::start((0..2).map(|_| daemon.connect("disk")).collect());
    writers.let_write(100);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s0"]);
    let mut copy = daemon.read_all("s0/disk");
    for round in 1..=8 {
        writers.let_write(30);
        let (before, now) = (format!("s{}", round - 1), format!("s{round}"));
        daemon.ok(&["snapshot", "take", "disk", "--name", &now]);
        let changes = daemon.json(&["changes", "disk", "--since", &before, "--until", &now]);
        let list = extents(&changes);
        let image = daemon.read_all(&format!("{now}/disk"));
        verifier_notices(&copy, &list, &image);
        apply(&mut copy, &list, &image);
        assert_eq!(first_difference(&copy, &image), None, "I4: round {round}");
        daemon.ok(&["snapshot", "remove", &before]);
    }
    for log in writers.finish() {
        log.is_all_of(&daemon.read_all("disk")).unwrap_or_else(|why| panic!("I6: {why}"));
    }
}

#[test]
fn a_chain_of_increments_under_load_is_each_image() {
    a_chain(false);
}

#[test]
fn a_chain_of_increments_under_load_is_each_image_with_a_tracker() {
    a_chain(true);
}
