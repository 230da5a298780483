//! Scenario 25, sizes: blocks of 512 and 4096 bytes, devices of one block and of a chunk less one sector, and a sparse
//! one of more than 2 TiB, where numbers of 32 bits end. The image is right and the changes are listed in each (I2, I4),
//! in bounded memory (I9).
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::changes::{Extent, blocks_of, extents, missed, verifier_notices, verify};
use common::model::{Model, seed};
use common::oracle::{Found, SECTOR, Stamp, filled, judge};
use common::{Daemon, KIB, Nbd};

const BLOCK: u64 = 4 * KIB;
const TIB: u64 = 1 << 40;

fn add(daemon: &Daemon, size: u64, block_size: u64) -> Nbd {
    let path = daemon.path("disk.raw");
    let (path, size, block) = (path.to_str().unwrap(), size.to_string(), block_size.to_string());
    daemon.ok(&["device", "add", "disk", path, "--size", &size, "--block-size", &block]);
    daemon.connect("disk")
}

fn small(size: u64, block_size: u64) {
    let mut random = seed();
    let daemon = Daemon::start();
    let mut client = add(&daemon, size, block_size);
    assert_eq!(client.size, size);
    let mut model = Model::new(size);
    model.fill(&mut client);
    let block = block_size / SECTOR as u64;
    for round in 0..4 {
        let name = format!("s{round}");
        daemon.ok(&["snapshot", "take", "disk", "--name", &name]);
        let then = model.clone();
        let mut written: Vec<Extent> = Vec::new();
        // The last block always, and some others.
        written.push(model.write(&mut client, model.sectors() - block, block));
        for _ in 0..round {
            let first = random.below(model.sectors() / block) * block;
            written.push(model.write(&mut client, first, block));
        }
        let (old, new) = (daemon.read_all(&format!("{name}/disk")), daemon.read_all("disk"));
        then.check(&old, &format!("I2: {size} bytes"));
        model.check(&new, &format!("I1: {size} bytes"));
        let listed = extents(&daemon.json(&["changes", "disk", "--since", &name]));
        let mut expected = blocks_of(&written, BLOCK);
        // The last block ends where the device does.
        let last = expected.last_mut().unwrap();
        last.1 = last.1.min(size - last.0);
        assert_eq!(listed, expected, "I4: {size} bytes");
        verify(&old, &listed, &new).unwrap_or_else(|why| panic!("I4: {size} bytes: {why}"));
        verifier_notices(&old, &listed, &new);
    }
}

#[test]
fn a_chunk_less_one_sector() {
    small(256 * KIB - 512, 512);
    small(256 * KIB - 4096, 4096);
}

#[test]
fn one_block_and_a_few() {
    for block_size in [512, 4096] {
        for blocks in [1, 2, 9] {
            small(blocks * block_size, block_size);
        }
    }
}

/// Places around the ends of numbers that once were enough.
fn places(size: u64) -> Vec<u64> {
    let around = [1 << 31, 1 << 32, 2 * TIB, TIB, 2 * TIB + (1 << 31)];
    let mut places = vec![0, size - SECTOR as u64];
    for place in around {
        places.extend([place - SECTOR as u64, place]);
    }
    // And a few more, each in a block of its own.
    places.extend((1..20).map(|part| part * (size / 20) / BLOCK * BLOCK));
    places
}

fn write(client: &mut Nbd, place: u64, sequence: u64) {
    let bytes = filled(place / SECTOR as u64, 1, 1, sequence);
    client.write(place, &bytes).unwrap_or_else(|error| panic!("I1: at {place}: {error}"));
}

fn holds(client: &mut Nbd, place: u64, sequence: u64) {
    let number = place / SECTOR as u64;
    let sector = client.read(place, SECTOR as u64).unwrap();
    let expected =
        if sequence == 0 { Found::Zero } else { Found::Written(Stamp { writer: 1, sequence, number }) };
    assert_eq!(judge(&sector, number), Ok(expected), "at {place}");
}

#[test]
fn more_than_2_tib() {
    let size = 3 * TIB + 5 * SECTOR as u64;
    let daemon = Daemon::start();
    let mut client = add(&daemon, size, 512);
    let places = places(size);
    for &place in &places {
        write(&mut client, place, 1);
    }
    let memory = daemon.resident_kib();
    let begun = Instant::now();
    daemon.ok(&["snapshot", "take", "disk", "--name", "one"]);
    daemon.ok(&["snapshot", "take", "disk", "--name", "two"]);
    let (half, rest) = places.split_at(places.len() / 2);
    for &place in half {
        write(&mut client, place, 2);
    }
    daemon.ok(&["snapshot", "take", "disk", "--name", "three"]);
    for &place in rest {
        write(&mut client, place, 3);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    let (mut two, mut three) = (daemon.connect("two/disk"), daemon.connect("three/disk"));
    for &place in &places {
        let early = half.contains(&place);
        holds(&mut two, place, 1);
        holds(&mut three, place, if early { 2 } else { 1 });
        holds(&mut client, place, if early { 2 } else { 3 });
    }
    // Between them nothing is made up.
    for place in places.iter().filter(|place| **place + 4 * BLOCK < size && **place % BLOCK == 0) {
        holds(&mut two, place + BLOCK + 512, 0);
    }
    let list = |args: &[&str]| extents(&daemon.json(&[&["changes", "disk"], args].concat()));
    let sector = |place: &u64| (*place, SECTOR as u64);
    let (early, late): (Vec<Extent>, Vec<Extent>) =
        (half.iter().map(sector).collect(), rest.iter().map(sector).collect());
    let since_two = list(&["--since", "two"]);
    assert_eq!(missed(&early, &since_two), [], "I4");
    assert_eq!(missed(&late, &since_two), [], "I4");
    assert_eq!(missed(&early, &list(&["--since", "two", "--until", "three"])), [], "I4");
    assert_eq!(missed(&late, &list(&["--since", "three"])), [], "I4");
    assert_eq!(list(&["--since", "one", "--until", "two"]), []);
    // A place left out is noticed.
    assert_eq!(missed(&late, &list(&["--since", "two", "--until", "three"])).len(), late.len());
    // A dense map of 3 TiB at 4 KiB would be 96 MiB, for each snapshot.
    let grown = daemon.resident_kib().saturating_sub(memory);
    assert!(grown < 32 * KIB, "I9: {grown} KiB for three snapshots");
    for name in ["two", "one", "three"] {
        daemon.ok(&["snapshot", "remove", name]);
    }
}

/// A map of it in blocks of 4 KiB would be larger than a tracker may be: the blocks are larger.
#[test]
fn more_than_2_tib_tracked() {
    const MAP_MAX: u64 = 64 << 20;
    let size = 3 * TIB + 5 * SECTOR as u64;
    let daemon = Daemon::start();
    let path = daemon.path("disk.raw");
    let (path, text) = (path.to_str().unwrap(), size.to_string());
    daemon.ok(&["device", "add", "disk", path, "--size", &text, "--track"]);
    let memory = daemon.resident_kib();
    let mut client = daemon.connect("disk");
    let block = daemon.json(&["device", "show", "disk"])["tracking"]["granularity"].as_u64().unwrap();
    assert!(block > BLOCK && block <= 64 * KIB && size / block / 8 <= MAP_MAX, "blocks of {block} bytes");
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let places = places(size);
    let written: Vec<Extent> = places.iter().map(|place| (*place, SECTOR as u64)).collect();
    for &place in &places {
        write(&mut client, place, 1);
    }
    daemon.ok(&["snapshot", "take", "disk", "--name", "t"]);
    for args in [&["--since", "s"][..], &["--since", "s", "--until", "t"]] {
        let listed = extents(&daemon.json(&[&["changes", "disk"], args].concat()));
        assert_eq!(missed(&written, &listed), [], "I4");
        // In whole blocks, and no others: the last one ends with the device.
        let mut expected = blocks_of(&written, block);
        let last = expected.last_mut().unwrap();
        last.1 = size - last.0;
        assert_eq!(listed, expected);
    }
    let grown = daemon.resident_kib().saturating_sub(memory);
    assert!(grown < 96 * KIB, "I9: {grown} KiB");
}
