//! Scenario 10: discards and zeroes under a held snapshot. The image keeps what was there, the snapshot stays whole,
//! what changed lists them, and a discard of a whole device costs what its data costs, not what its size would
//! (I2, I4, I9).
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::changes::{Extent, blocks_of, extents, missed, verify};
use common::model::{Model, seed};
use common::nbd::EIO;
use common::oracle::SECTOR;
use common::tools::eventually;
use common::{Daemon, KIB, MIB, Nbd, NbdError};

const DISK: u64 = 8 * MIB;
const BLOCK: u64 = 4 * KIB;
const BLOCK_SECTORS: u64 = BLOCK / SECTOR as u64;

struct Held {
    daemon: Daemon,
    client: Nbd,
    now: Model,
    then: Model,
}

fn held(add: &[&str], take: &[&str]) -> Held {
    let daemon = Daemon::start();
    let path = daemon.path("disk.raw");
    let (path, size) = (path.to_str().unwrap(), DISK.to_string());
    daemon.ok(&[&["device", "add", "disk", path, "--size", &size], add].concat());
    let mut client = daemon.connect("disk");
    let mut now = Model::new(DISK);
    now.fill(&mut client);
    daemon.ok(&[&["snapshot", "take", "disk", "--name", "s"], take].concat());
    Held { daemon, client, then: now.clone(), now }
}

impl Held {
    fn check(&self) {
        self.now.check(&self.daemon.read_all("disk"), "I1");
        self.then.check(&self.daemon.read_all("s/disk"), "I2");
        let shown = self.daemon.json(&["snapshot", "show", "s"]);
        assert_eq!(shown["state"], "active", "{shown}");
    }

    fn since(&self) -> Vec<Extent> {
        extents(&self.daemon.json(&["changes", "disk", "--since", "s"]))
    }
}

#[test]
fn one_block_discarded_long_after_the_take() {
    for (discard, add) in [(true, &[][..]), (false, &[]), (true, &["--track"]), (false, &["--track"])] {
        let mut held = held(add, &[]);
        // Whatever was held in memory since the take has gone where it goes by now.
        std::thread::sleep(Duration::from_millis(500));
        let cleared = held.now.zero(&mut held.client, 100 * BLOCK_SECTORS, BLOCK_SECTORS, discard);
        held.check();
        assert_eq!(held.since(), [cleared], "I4");
        // An image that had followed the discard would be reported: with each of its sectors.
        let reports = held.then.reports(&held.daemon.read_all("disk"));
        assert_eq!(reports.len() as u64, BLOCK_SECTORS);
    }
}

fn mixed(add: &[&str], take: &[&str], block_sectors: u64) {
    let mut random = seed();
    let mut held = held(add, take);
    let mut changed = Vec::new();
    for _ in 0..120 {
        let blocks = held.now.sectors() / block_sectors;
        let count = (1 + random.below(40)).min(blocks);
        let first = random.below(blocks - count + 1) * block_sectors;
        let count = count * block_sectors;
        changed.push(match random.below(3) {
            0 => held.now.write(&mut held.client, first, count),
            kind => held.now.zero(&mut held.client, first, count, kind == 1),
        });
    }
    held.check();
    let listed = held.since();
    assert!(missed(&listed, &blocks_of(&changed, BLOCK)).is_empty(), "more than was touched");
    let (old, new) = (held.daemon.read_all("s/disk"), held.daemon.read_all("disk"));
    verify(&old, &listed, &new).unwrap_or_else(|why| panic!("I4: {why}"));
    // A discard left out of the list is one that the copy does not learn of.
    let clears = |&(offset, length): &Extent| {
        let part = |disk: &[u8]| common::tools::part(disk, offset, length).to_vec();
        part(&old) != part(&new)
    };
    let at = listed.iter().position(clears).unwrap();
    let mut short = listed.clone();
    short.remove(at);
    verify(&old, &short, &new).expect_err("an extent was left out, and nobody noticed");
}

#[test]
fn mixed_with_writes_in_blocks_of_512_bytes() {
    mixed(&["--block-size", "512"], &[], 1);
}

#[test]
fn mixed_with_writes_in_blocks_of_4096_bytes_into_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.diff");
    let store = ["--store", store.to_str().unwrap(), "--step", "1M", "--limit", "64M"];
    mixed(&["--block-size", "4096"], &store, BLOCK_SECTORS);
}

#[test]
fn mixed_with_writes_and_tracked() {
    mixed(&["--track", "--block-size", "512"], &[], 1);
}

/// A gigabyte with some data: one discard of all of it.
#[test]
fn a_whole_sparse_device_costs_its_data() {
    const SPARSE: u64 = 1 << 30;
    const DATA: u64 = 4 * MIB;
    for discard in [true, false] {
        let daemon = Daemon::start();
        daemon.add_file("disk", SPARSE);
        let mut client = daemon.connect("disk");
        let mut islands = Vec::new();
        for (writer, island) in (1..).zip([0, SPARSE / 2, SPARSE - DATA]) {
            // The model of an island is of the whole up to its end: only its own sectors are filled.
            let mut model = Model::new(island + DATA).of_writer(writer);
            model.write(&mut client, island / SECTOR as u64, DATA / SECTOR as u64);
            islands.push((island, model));
        }
        daemon.ok(&["snapshot", "take", "disk", "--name", "s", "--limit", "32M"]);
        let begun = Instant::now();
        let cleared = if discard { client.trim(0, SPARSE) } else { client.write_zeroes(0, SPARSE) };
        cleared.unwrap_or_else(|error| panic!("I1: {error}"));
        assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());

        let shown = daemon.json(&["snapshot", "show", "s"]);
        assert_eq!(shown["state"], "active", "{shown}");
        let used = shown["store"]["used"].as_u64().unwrap();
        assert!((3 * DATA..=3 * DATA + 4 * MIB).contains(&used), "I9: {used} bytes for {} of data", 3 * DATA);
        let mut image = daemon.connect("s/disk");
        for (island, model) in &islands {
            model.check_part(&mut image, island / SECTOR as u64, DATA / SECTOR as u64, "I2");
            let now = client.read(*island, DATA).unwrap();
            assert!(now.iter().all(|&byte| byte == 0), "I1: at {island}");
        }
        assert!(image.read(SPARSE / 4, MIB).unwrap().iter().all(|&byte| byte == 0), "I2");
        let listed = extents(&daemon.json(&["changes", "disk", "--since", "s"]));
        let written: Vec<Extent> = islands.iter().map(|(island, _)| (*island, DATA)).collect();
        assert_eq!(missed(&written, &listed), [], "I4");
    }
}

/// Where there is more data than room, the snapshot is lost as by any write, and the discard is done.
#[test]
fn a_discard_that_does_not_fit_costs_the_snapshot_alone() {
    let mut held = held(&[], &["--limit", "2M"]);
    held.now.zero(&mut held.client, 0, held.then.sectors(), true);
    held.now.check(&held.daemon.read_all("disk"), "I1");
    eventually("the snapshot has failed", || {
        (held.daemon.json(&["snapshot", "show", "s"])["state"] == "failed").then_some(())
    });
    let read = held.daemon.connect("s/disk").read(0, 4096);
    assert!(matches!(read, Err(NbdError::Errno(EIO))), "{read:?}");
    assert_eq!(held.daemon.count_events("failed", "s"), 1);
    held.now.write(&mut held.client, 5, 3);
    held.now.check(&held.daemon.read_all("disk"), "I1");
}
