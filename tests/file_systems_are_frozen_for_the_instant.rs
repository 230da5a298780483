//! `snapshot take --freeze`, and diff storage that would stand on its own origin: both need to know which file systems
//! are mounted from a device's exports.
#![cfg(test)]

mod common;

use common::filesystem::{Attached, Kind};
use common::tools::is_root;
use common::{Daemon, MIB, http, sparse_file, tools};
use serde_json::{Value, json};

/// A daemon, and a file system mounted from a device of it that is called `disk`.
fn mounted(kind: Kind) -> Option<(Daemon, Attached)> {
    if !is_root() {
        tools::skip("only root mounts");
        return None;
    }
    if !kind.is_usable() {
        return None;
    }
    let daemon = Daemon::start();
    daemon.add_file("disk", kind.bytes());
    let attached = Attached::make(&daemon.path(""), &daemon.uri("disk"), kind, "rw")?;
    Some((daemon, attached))
}

#[test]
fn what_is_mounted_is_frozen_and_its_image_needs_no_recovery() {
    let Some((daemon, attached)) = mounted(Kind::Ext4) else { return };
    let folder = attached.folder().to_str().unwrap().to_owned();
    let (status, mounts) = http::ask(&daemon.socket(), "GET", "/v1/devices/disk/mounts", &Value::Null);
    assert_eq!(status, 200, "{mounts}");
    assert_eq!(mounts.as_array().unwrap().len(), 1, "{mounts}");
    assert_eq!((&mounts[0]["path"], &mounts[0]["file_system"]), (&json!(folder), &json!("ext4")), "{mounts}");

    let needs_recovery = |snapshot: &str| {
        // The feature that is set while an ext4 is mounted, and not set while it is frozen.
        let image = daemon.read_all(&format!("{snapshot}/disk"));
        let incompatible = u32::from_le_bytes(image[1024 + 0x60..1024 + 0x64].try_into().unwrap());
        incompatible & 4 != 0
    };
    std::fs::write(attached.folder().join("before"), vec![7; 1 << 20]).unwrap();
    daemon.ok(&["snapshot", "take", "disk", "--name", "as-it-is"]);
    assert!(needs_recovery("as-it-is"), "the check itself sees nothing");
    let taken = daemon.json(&["snapshot", "take", "disk", "--name", "clean", "--freeze"]);
    assert_eq!(taken["frozen_file_systems"], json!([folder]), "{taken}");
    assert!(!needs_recovery("clean"));
    // It is thawed.
    std::fs::write(attached.folder().join("after"), b"x").unwrap();
    rustix::fs::sync();
}

/// Nothing is mounted from it: there is nothing to freeze, and the take is as any other.
#[test]
fn a_device_without_file_systems_has_none_to_freeze() {
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    let mut client = daemon.connect("disk");
    let taken = daemon.json(&["snapshot", "take", "disk", "--freeze", "--freeze-timeout", "2s"]);
    assert_eq!(taken["frozen_file_systems"], json!([]), "{taken}");
    client.write(0, &[1; 4096]).unwrap();
}

/// I1: a copy that needs a copy would never end.
#[test]
fn diff_storage_on_the_origins_own_file_system_is_refused() {
    let Some((daemon, attached)) = mounted(Kind::Ext4) else { return };
    let file = attached.folder().join("diff");
    for store in [&file, attached.folder()] {
        let line = daemon.refused(&["snapshot", "take", "disk", "--store", store.to_str().unwrap()]);
        assert!(line.contains("disk itself") && line.contains("ext4"), "{line}");
        assert!(!file.exists());
    }
    let elsewhere = daemon.path("diff");
    daemon.ok(&["snapshot", "take", "disk", "--name", "s", "--store", elsewhere.to_str().unwrap()]);
    let line = daemon.refused(&["snapshot", "extend", "s", file.to_str().unwrap()]);
    assert!(line.contains("disk itself"), "{line}");
    std::fs::write(attached.folder().join("file"), vec![7; 1 << 20]).unwrap();
    assert_eq!(daemon.json(&["snapshot", "show", "s"])["state"], "active");
}

/// The origin's own file, and files that are other devices, hold contents already.
#[test]
fn diff_storage_in_the_file_of_a_device_is_refused() {
    let daemon = Daemon::start();
    let (disk, other) = (daemon.add_file("disk", 16 * MIB), daemon.add_file("other", 16 * MIB));
    let refused = |store: String| {
        let line = daemon.refused(&["snapshot", "take", "disk", "--store", &store]);
        assert!(line.contains("diff storage"), "{line}");
    };
    refused(disk.display().to_string());
    refused(other.display().to_string());
    refused(format!("ranges:{}@0+4M", other.display()));
    // Of its own, when it is told which.
    let own = format!("ranges:{}@8M+8M", disk.display());
    let taken = daemon.json(&["snapshot", "take", "disk", "--name", "s", "--store", &own]);
    assert_eq!((&taken["store"]["kind"], &taken["stores"][0]["limit"]), (&json!("ranges"), &json!(8 * MIB)));
    let more = daemon.path("more");
    sparse_file(&more, 0);
    assert!(daemon.refused(&["snapshot", "extend", "s", &own]).contains("device of the snapshot"));
    let extended = daemon.json(&["snapshot", "extend", "s", more.to_str().unwrap(), "--limit", "16M"]);
    assert_eq!(extended["stores"].as_array().unwrap().len(), 2, "{extended}");
    assert_eq!(daemon.count_events("snapshot-extended", "s"), 1);
}
