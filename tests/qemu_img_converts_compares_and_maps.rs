//! qemu-img, as an administrator uses it on a disk that Bowline serves.
#![cfg(test)]

mod common;

use std::path::Path;
use std::process::Command;

use common::tools::{append_zeroes, finish, first_difference, noise, part};
use common::{Daemon, MIB, file_bytes, run, tool};
use serde_json::Value;

/// 16 MiB: data, a hole of 8 MiB, data.
fn source(path: &Path) -> Vec<u8> {
    let mut bytes = noise(1, 4 * MIB);
    append_zeroes(&mut bytes, 8 * MIB);
    bytes.extend(noise(2, 4 * MIB));
    std::fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn it_converts_both_ways_and_compares() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let daemon = Daemon::start();
    let disk = daemon.add_file("disk", 16 * MIB);
    let (from, back) = (daemon.path("from.raw"), daemon.path("back.qcow2"));
    let bytes = source(&from);
    let (from, uri) = (from.to_str().unwrap(), daemon.uri("disk"));
    run(&qemu_img, ["convert", "-n", "-f", "raw", "-O", "raw", from, &uri]);
    assert_eq!(first_difference(&file_bytes(&disk), &bytes), None);
    run(&qemu_img, ["compare", "-f", "raw", "-F", "raw", from, &uri]);
    run(&qemu_img, ["convert", "-f", "raw", "-O", "qcow2", &uri, back.to_str().unwrap()]);
    run(&qemu_img, ["compare", "-f", "raw", "-F", "qcow2", from, back.to_str().unwrap()]);

    // It can also say no.
    daemon.connect("disk").write(9 * MIB, &[1; 512]).unwrap();
    let differ = finish(Command::new(&qemu_img).args(["compare", "-f", "raw", "-F", "raw", from, &uri]));
    assert_eq!(differ.status.code(), Some(1), "{differ:?}");
}

#[test]
fn it_maps_holes_and_tells_the_size() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let daemon = Daemon::start();
    daemon.add_file("disk", 16 * MIB);
    let mut client = daemon.connect("disk");
    client.write(MIB, &noise(1, MIB)).unwrap();
    client.flush().unwrap();
    let map = run(&qemu_img, ["map", "-f", "raw", "--output=json", &daemon.uri("disk")]);
    let map: Vec<Value> = serde_json::from_str(&map).unwrap();
    let extents: Vec<(u64, u64, bool, bool)> = map
        .iter()
        .map(|e| {
            let number = |name: &str| e[name].as_u64().unwrap();
            (number("start"), number("length"), e["data"] == true, e["zero"] == true)
        })
        .collect();
    let expected = [(0, MIB, false, true), (MIB, MIB, true, false), (2 * MIB, 14 * MIB, false, true)];
    assert_eq!(extents, expected);

    let info = run(&qemu_img, ["info", "--output=json", &daemon.uri("disk")]);
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], 16 * MIB);
}

#[test]
fn an_image_converts_like_a_disk() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let daemon = Daemon::start();
    daemon.add_file("disk", 16 * MIB);
    let mut client = daemon.connect("disk");
    let old = noise(3, MIB);
    client.write(0, &old).unwrap();
    daemon.ok(&["snapshot", "take", "disk", "--name", "monday"]);
    client.write(0, &noise(4, MIB)).unwrap();
    let copy = daemon.path("copy.raw");
    run(&qemu_img, ["convert", "-f", "raw", "-O", "raw", &daemon.uri("monday/disk"), copy.to_str().unwrap()]);
    assert_eq!(first_difference(part(&file_bytes(&copy), 0, MIB), &old), None);
}
