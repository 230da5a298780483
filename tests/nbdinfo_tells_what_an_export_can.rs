//! nbdinfo: what is exported, what it can do, where its holes are.
#![cfg(test)]

mod common;

use std::process::Command;

use common::tools::{finish, noise};
use common::{Daemon, MIB, run, tool};
use serde_json::Value;

#[test]
fn it_describes_an_export_in_json() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let daemon = Daemon::start();
    daemon.add_file("disk", 16 * MIB);
    let info = run(&nbdinfo, ["--json", "--no-content", &daemon.uri("disk")]);
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true, "{info}");
    let export = &info["exports"][0];
    assert_eq!(export["export-name"], "disk");
    assert_eq!(export["export-size"], 16 * MIB);
    assert_eq!(export["block_size_minimum"], 512);
    assert!(export["contexts"].as_array().unwrap().contains(&"base:allocation".into()), "{export}");
    for can in ["can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"] {
        assert_eq!(export[can], true, "{can}: {export}");
    }
    assert_eq!(export["is_read_only"], false);
}

#[test]
fn it_lists_every_device_and_image() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let daemon = Daemon::start();
    daemon.add_file("a.img", MIB);
    daemon.ok(&["device", "add", "b", "mem:2M"]);
    daemon.ok(&["snapshot", "take", "a.img", "b", "--name", "s"]);
    let list = run(&nbdinfo, ["--list", "--json", "--no-content", &daemon.uri("")]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let mut names: Vec<&str> =
        list["exports"].as_array().unwrap().iter().map(|e| e["export-name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a.img", "b", "s/a.img", "s/b"]);
}

#[test]
fn every_can_is_answered() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let can = |what: &str, export: &str| {
        let output = finish(Command::new(&nbdinfo).args(["--can", what, &daemon.uri(export)]));
        match output.status.code() {
            Some(0) => true,
            Some(2) => false,
            _ => panic!("nbdinfo --can {what}: {output:?}"),
        }
    };
    let all = [
        "cache",
        "connect",
        "df",
        "fast-zero",
        "flush",
        "fua",
        "multi-conn",
        "read",
        "trim",
        "write",
        "zero",
    ];
    for what in all {
        assert!(can(what, "disk"), "--can {what}");
    }
    for what in all {
        assert!(can(what, "s/disk"), "--can {what} on an image, which is writable");
    }
    let is = |what: &str, export: &str| {
        finish(Command::new(&nbdinfo).args(["--is", what, &daemon.uri(export)])).status.code()
    };
    assert_eq!((is("read-only", "disk"), is("read-only", "s/disk")), (Some(2), Some(2)));
    assert_eq!(is("tls", "disk"), Some(2));
    let structured = finish(Command::new(&nbdinfo).args(["--can", "structured-reply", &daemon.uri("disk")]));
    assert_eq!(structured.status.code(), Some(0), "{structured:?}");
}

#[test]
fn its_map_shows_holes_and_data() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let daemon = Daemon::start();
    daemon.add_file("disk", 16 * MIB);
    let mut client = daemon.connect("disk");
    client.write(2 * MIB, &noise(1, MIB)).unwrap();
    client.write(15 * MIB, &noise(2, MIB)).unwrap();
    client.flush().unwrap();
    let map = || {
        let map = run(&nbdinfo, ["--map", "--json", &daemon.uri("disk")]);
        let map: Vec<Value> = serde_json::from_str(&map).unwrap();
        map.iter()
            .map(|e| {
                (e["offset"].as_u64().unwrap(), e["length"].as_u64().unwrap(), e["type"].as_u64().unwrap())
            })
            .collect::<Vec<_>>()
    };
    let hole = 3;
    let before = [(0, 2 * MIB, hole), (2 * MIB, MIB, 0), (3 * MIB, 12 * MIB, hole), (15 * MIB, MIB, 0)];
    assert_eq!(map(), before);
    client.trim(2 * MIB, MIB).unwrap();
    assert_eq!(map(), [(0, 15 * MIB, hole), (15 * MIB, MIB, 0)]);
}

#[test]
fn a_map_beyond_4_gib_is_whole() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let daemon = Daemon::start();
    daemon.add_file("disk", 10 << 30);
    daemon.connect("disk").write(9 << 30, &noise(1, MIB)).unwrap();
    let totals = run(&nbdinfo, ["--map", "--totals", "--json", &daemon.uri("disk")]);
    let totals: Vec<Value> = serde_json::from_str(&totals).unwrap();
    let data: u64 = totals.iter().filter(|t| t["type"] == 0).map(|t| t["size"].as_u64().unwrap()).sum();
    let all: u64 = totals.iter().map(|t| t["size"].as_u64().unwrap()).sum();
    assert_eq!((data, all), (MIB, 10 << 30));
}
