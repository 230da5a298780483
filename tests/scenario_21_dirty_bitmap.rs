//! Scenario 21, the dirty bitmap over NBD: what nbdinfo and qemu-img see is what `changes` says; with one extent at a
//! time, at odd offsets and lengths, and beyond 4 GiB (I4).
#![cfg(test)]

mod common;

use common::bitmap::Meta;
use common::changes::{Extent, extents, missed};
use common::tools::noise;
use common::writer::Random;
use common::{Daemon, KIB, MIB, model, run, tool};
use serde_json::Value;

const DISK: u64 = 8 * MIB;
const BLOCK: u64 = 4 * KIB;
const CONTEXT: &str = "qemu:dirty-bitmap:s";

/// A tracked disk with changes since `s`, and `t` taken then, and a few more changes after it.
fn changed(size: u64, random: &mut Random) -> Daemon {
    let daemon = Daemon::start();
    daemon.add_tracked("disk", size);
    let mut client = daemon.connect("disk");
    client.write(0, &noise(1, 64 * KIB)).unwrap();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let mut write = |times| {
        for _ in 0..times {
            let sectors = 1 + random.below(100);
            let offset = random.below(size / 512 - sectors) * 512;
            client.write(offset, &noise(offset, sectors * 512)).unwrap();
        }
        client.write(size - 512, &noise(3, 512)).unwrap();
    };
    write(30);
    daemon.ok(&["snapshot", "take", "disk", "--name", "t"]);
    write(10);
    daemon
}

/// What the product's own answer is, for the device and for the image.
fn expected(daemon: &Daemon, export: &str) -> Vec<Extent> {
    let args: &[&str] = match export {
        "disk" => &["changes", "disk", "--since", "s"],
        _ => &["changes", "disk", "--since", "s", "--until", "t"],
    };
    extents(&daemon.json(args))
}

/// Runs of dirty bytes, merged, out of the lists that the tools print.
fn dirty(list: &Value, start: &str, is_dirty: impl Fn(&Value) -> bool) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    for entry in list.as_array().unwrap().iter().filter(|entry| is_dirty(entry)) {
        let (offset, length) = (entry[start].as_u64().unwrap(), entry["length"].as_u64().unwrap());
        match runs.last_mut() {
            Some((first, run)) if *first + *run == offset => *run += length,
            _ => runs.push((offset, length)),
        }
    }
    runs
}

#[test]
fn nbdinfo_sees_what_changes_says() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let daemon = changed(DISK, &mut model::seed());
    for export in ["disk", "t/disk"] {
        let text = run(&nbdinfo, ["--json", &format!("--map={CONTEXT}"), &daemon.uri(export)]);
        let list: Value = serde_json::from_str(&text).unwrap();
        let found = dirty(&list, "offset", |entry| entry["type"] == 1);
        assert_eq!(found, expected(&daemon, export), "{export}");
        let named = run(&nbdinfo, ["--json", &daemon.uri(export)]);
        assert!(named.contains(CONTEXT), "the context is not listed: {named}");
    }
}

#[test]
fn qemu_img_sees_what_changes_says() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let daemon = changed(DISK, &mut model::seed());
    for export in ["disk", "t/disk"] {
        let options = format!(
            "driver=nbd,server.type=unix,server.path={},export={export},x-dirty-bitmap={CONTEXT}",
            daemon.nbd_socket().display()
        );
        let text = run(&qemu_img, ["map", "--output=json", "--image-opts", &options]);
        let list: Value = serde_json::from_str(&text).unwrap();
        // qemu shows what is dirty in the place of what is data: dirty is shown as not there.
        let found = dirty(&list, "start", |entry| entry["data"] == false);
        assert_eq!(found, expected(&daemon, export), "{export}");
    }
}

#[test]
fn one_extent_at_a_time_and_odd_questions() {
    let mut random = model::seed();
    let daemon = changed(DISK, &mut random);
    for export in ["disk", "t/disk"] {
        let expected = expected(&daemon, export);
        let mut meta = Meta::connect(&daemon.nbd_socket(), export, CONTEXT).unwrap().expect("the context");
        assert_eq!(meta.set(0, DISK, u32::MAX), expected, "{export}");
        // Odd pieces: each question ends somewhere.
        for at_once in [7 * 512, 33 * 1024, 100 * 512, 3 << 20] {
            assert_eq!(meta.set(0, DISK, at_once), expected, "{export}, {at_once} at once");
        }
        let is_dirty =
            |at: u64| expected.iter().any(|(offset, length)| (*offset..offset + length).contains(&at));
        // What of it lies in the first part: without what is not of it.
        let part: Vec<Extent> = missed(&[(0, 64 * KIB)], &missed(&[(0, 64 * KIB)], &expected));
        assert_eq!(meta.set(0, 64 * KIB, 512), part, "{export}, sector by sector");
        for _ in 0..200 {
            let from = random.below(DISK / 512) * 512;
            let length = u32::try_from(512 * (1 + random.below((DISK - from) / 512))).unwrap();
            let list = meta.status(from, length, true).unwrap().unwrap();
            let [(run, flags)] = list[..] else { panic!("REQ_ONE got {} extents", list.len()) };
            assert!(run > 0 && run <= u64::from(length), "{run} of {length} at {from}");
            for at in [from, from + run - 512] {
                assert_eq!(flags & 1 == 1, is_dirty(at), "{export} at {at}");
            }
        }
    }
}

#[test]
fn beyond_4_gib() {
    const BIG: u64 = 9 << 30;
    let daemon = Daemon::start();
    daemon.add_tracked("disk", BIG);
    let mut client = daemon.connect("disk");
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let places = [0, (1 << 32) - 512, 1 << 32, (1 << 33) + 4096, BIG - 512];
    for place in places {
        client.write(place, &noise(place, 512)).unwrap();
    }
    let written = places.map(|place| (place, 512));
    let expected = extents(&daemon.json(&["changes", "disk", "--since", "s"]));
    assert_eq!(missed(&written, &expected), [], "I4");
    let mut meta = Meta::connect(&daemon.nbd_socket(), "disk", CONTEXT).unwrap().expect("the context");
    assert_eq!(meta.set(0, BIG, u32::MAX - 511), expected);
    assert_eq!(meta.set((1 << 32) - 4096, (1 << 32) + 4096, u32::MAX - 511), [((1 << 32) - 4096, 8192)]);
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let text = run(&nbdinfo, ["--json", &format!("--map={CONTEXT}"), &daemon.uri("disk")]);
    let found = dirty(&serde_json::from_str(&text).unwrap(), "offset", |entry| entry["type"] == 1);
    assert_eq!(found, expected);
}

#[test]
fn a_bitmap_that_is_not_there_is_never_clean() {
    let daemon = changed(DISK, &mut model::seed());
    let socket = daemon.nbd_socket();
    let context = |export: &str, name: &str| {
        Meta::connect(&socket, export, &format!("qemu:dirty-bitmap:{name}")).unwrap().is_some()
    };
    assert!(context("disk", "s") && context("disk", "t") && context("t/disk", "s"));
    assert!(!context("disk", "nothing"), "a name nobody has");
    assert!(!context("s/disk", "t"), "what changed in an image since it was taken later");
    // One that is being read when its snapshot goes: what is left is true, or an error.
    let mut meta = Meta::connect(&socket, "disk", CONTEXT).unwrap().expect("the context");
    let before = expected(&daemon, "disk");
    daemon.ok(&["snapshot", "remove", "s"]);
    if let Ok(list) = meta.status(0, u32::try_from(DISK).unwrap(), false).unwrap() {
        let mut at = 0;
        let runs: Vec<Extent> = list
            .iter()
            .map(|(length, flags)| {
                at += length;
                (at - length, if flags & 1 == 1 { *length } else { 0 })
            })
            .filter(|(_, length)| *length > 0)
            .collect();
        assert_eq!(missed(&before, &runs), [], "I4: it became clean");
    }
    // The checkers: a clean run in place of a dirty one would be seen.
    assert!(!missed(&before, &before[1..]).is_empty() && before[0].1.is_multiple_of(BLOCK));
}
