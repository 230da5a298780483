//! I9: what the daemon takes of the machine's memory, as the kernel counts it.
//!
//! An idle daemon's own memory is looked at, without the pages of its program file: those are as large as it was built.
#![cfg(test)]

mod common;

use common::tools::noise;
use common::{Daemon, KIB, MIB};

const IDLE_KIB: u64 = 12 * 1024;
const HUGE_DEVICE_KIB: u64 = 16 * 1024;
const TIB: u64 = 1 << 40;

/// A sparse file as large as the file system can hold: 64 TiB, or somewhat less than the 16 TiB of ext4.
fn huge_file(daemon: &Daemon) -> String {
    let path = daemon.path("huge.raw");
    let holds = |size: &u64| std::fs::File::create(&path).unwrap().set_len(*size).is_ok();
    let size = [64 * TIB, 8 * TIB, TIB].into_iter().find(holds).expect("a sparse file of a TiB");
    println!("the file system holds a sparse file of {} TiB", size / TIB);
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_idle_daemon_takes_less_than_12_mib() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 64 * MIB);
    daemon.ok(&["status"]);
    let (own, resident) = (daemon.own_kib(), daemon.resident_kib());
    println!("an idle daemon takes {own} KiB, {resident} KiB with its program");
    assert!((1..IDLE_KIB).contains(&own), "{own} KiB");
}

#[test]
fn a_device_of_64_tib_and_a_snapshot_of_it_cost_less_than_16_mib() {
    let daemon = Daemon::start();
    costs_little(&daemon, "null:64T");
}

#[test]
fn so_does_a_sparse_file_of_many_tib() {
    let daemon = Daemon::start();
    costs_little(&daemon, &huge_file(&daemon));
}

fn costs_little(daemon: &Daemon, source: &str) {
    daemon.ok(&["status"]);
    let before = daemon.resident_kib();
    daemon.ok(&["device", "add", "huge", source]);
    daemon.ok(&["snapshot", "take", "huge", "--name", "s"]);
    let mut client = daemon.connect("huge");
    let step = client.size / 64;
    // Writes far apart: each touches another part of whatever keeps the books.
    for n in 0..64 {
        client.write(step * n, &[7; 4096]).unwrap();
    }
    assert_eq!(daemon.connect("s/huge").read(step, 4096).unwrap(), vec![0; 4096], "I2");
    let changes = daemon.json(&["changes", "huge", "--since", "s"]);
    assert_eq!(changes["bytes"], 64 * 4 * KIB);
    let grown = daemon.resident_kib().saturating_sub(before);
    println!("a device of {} TiB, a snapshot and 64 writes take {grown} KiB", client.size / TIB);
    assert!(grown < HUGE_DEVICE_KIB, "{grown} KiB");
}

#[test]
fn the_index_takes_at_most_8_bytes_a_block() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 256 * MIB);
    let mut client = daemon.connect("disk");
    // Everything once, so that there are contents to preserve.
    for at in (0..64 * MIB).step_by(1 << 20) {
        client.write(at, &noise(at + 1, MIB)).unwrap();
    }
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let before = daemon.json(&["status"])["limits"].clone();
    for at in (0..64 * MIB).step_by(1 << 20) {
        client.write(at, &noise(at + 2, MIB)).unwrap();
    }
    let after = daemon.json(&["status"])["limits"].clone();
    for bound in ["preserved_blocks", "snapshot_index_bytes"] {
        assert_eq!(before[bound]["limit"], after[bound]["limit"], "I9: a bound does not move with its use");
        assert!(after[bound]["used"].as_u64() <= after[bound]["limit"].as_u64(), "I9: {bound} in {after}");
    }
    let used = |name: &str| after[name]["used"].as_u64().unwrap();
    let blocks = 64 * MIB / (4 * KIB);
    assert_eq!(used("preserved_blocks"), blocks);
    let one_bit_a_block = 256 * MIB / (4 * KIB) / 8;
    let most = blocks * 8 + one_bit_a_block;
    let index = used("snapshot_index_bytes");
    assert!((blocks..=most).contains(&index), "{index} bytes for {blocks} blocks, at most {most}");
}

#[test]
fn what_memory_devices_take_is_told() {
    let daemon = Daemon::start();
    // Nothing to be refused: most of it may never be touched.
    let ran = daemon.bowline(&["device", "add", "vast", "mem:64T"]);
    assert_eq!((ran.code, ran.out.trim()), (0, "vast"), "{ran:?}");
    assert!(ran.err.starts_with("bowline: device vast: ") && ran.err.contains("memory"), "{ran:?}");
    let told = ran.err.trim().rsplit(": ").next().unwrap();
    assert_eq!(daemon.json(&["device", "show", "vast"])["notice"], told);
    daemon.ok(&["device", "remove", "vast"]);
    let ran = daemon.bowline(&["device", "add", "m", "mem:32M"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let limit = |name: &str| daemon.json(&["status"])["limits"][name].clone();
    let before = limit("memory_bytes")["used"].as_u64().unwrap();
    assert_eq!(limit("memory_device_bytes"), serde_json::json!({"used": 0, "limit": 32 * MIB}));
    let mut client = daemon.connect("m");
    for at in (0..16 * MIB).step_by(1 << 20) {
        client.write(at, &noise(at + 1, MIB)).unwrap();
    }
    assert_eq!(limit("memory_device_bytes")["used"], 16 * MIB);
    let grown = limit("memory_bytes")["used"].as_u64().unwrap() - before;
    assert!(grown >= 15 * MIB, "{grown}");
}
