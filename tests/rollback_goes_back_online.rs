//! `snapshot rollback`: the device reads as the snapshot at once and can be written, other snapshots stay exact, and a
//! persistent one goes on after a kill.
#![cfg(test)]

mod common;

use common::tools::{eventually, first_difference, noise};
use common::{Daemon, MIB, Start};
use serde_json::Value;

const DISK: u64 = 64 * MIB;

fn daemon() -> Daemon {
    let start = Start::new();
    let state = start.path("state");
    let daemon = start.arg("--state").arg(state).start();
    let path = daemon.path("disk.raw");
    common::sparse_file(&path, DISK);
    daemon.ok(&["device", "add", "disk", path.to_str().unwrap(), "--track"]);
    daemon
}

fn write(daemon: &Daemon, seed: u64, offset: u64, bytes: u64) {
    let mut client = daemon.connect("disk");
    for (at, piece) in (offset..).step_by(1 << 23).zip(noise(seed, bytes).chunks(1 << 23)) {
        client.write(at, piece).unwrap();
    }
}

fn rollback(daemon: &Daemon) -> Value {
    daemon.json(&["device", "show", "disk"])["rollback"].clone()
}

#[test]
fn a_plain_snapshot_is_gone_back_to_and_others_stay_exact() {
    let daemon = daemon();
    write(&daemon, 1, 0, 8 * MIB);
    daemon.ok(&["snapshot", "take", "disk", "--name", "older"]);
    write(&daemon, 2, 2 * MIB, 8 * MIB);
    daemon.ok(&["snapshot", "take", "disk", "--name", "target"]);
    write(&daemon, 3, 4 * MIB, 16 * MIB);
    daemon.ok(&["snapshot", "take", "disk", "--name", "newer"]);
    write(&daemon, 4, 30 * MIB, 4 * MIB);
    let images: Vec<Vec<u8>> =
        ["older", "target", "newer"].iter().map(|name| daemon.read_all(&format!("{name}/disk"))).collect();
    let told = daemon.ok(&["snapshot", "rollback", "target"]);
    assert!(told.starts_with("disk: back at target"), "{told}");
    assert_eq!(first_difference(&daemon.read_all("disk"), &images[1]), None);
    let done = rollback(&daemon);
    assert_eq!(
        (&done["state"], &done["snapshot"], &done["done"]),
        (&"done".into(), &"target".into(), &done["total"])
    );
    for (name, image) in ["older", "target", "newer"].iter().zip(&images) {
        let now = daemon.read_all(&format!("{name}/disk"));
        assert_eq!(first_difference(&now, image), None, "I2: {name}");
    }
    for kind in ["rollback-started", "rollback-done"] {
        assert_eq!(daemon.count_events(kind, "target"), 1, "{kind}");
    }
    // A rollback is a change (I4): a copy of the newer with the increment is the disk.
    let changes = daemon.json(&["changes", "disk", "--since", "newer"]);
    let mut copy = images[2].clone();
    let disk = daemon.read_all("disk");
    for (offset, length) in common::changes::extents(&changes) {
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
        copy[range.clone()].copy_from_slice(&disk[range]);
    }
    assert_eq!(first_difference(&copy, &disk), None);
    daemon.ok(&["snapshot", "remove", "target"]);
}

#[test]
fn a_persistent_one_goes_on_after_a_kill() {
    let daemon = daemon();
    write(&daemon, 1, 0, 48 * MIB);
    let store = daemon.path("diff");
    daemon.ok(&[
        "snapshot",
        "take",
        "disk",
        "--name",
        "s",
        "--persistent",
        "--store",
        store.to_str().unwrap(),
    ]);
    let image = daemon.read_all("s/disk");
    write(&daemon, 2, 0, 48 * MIB);
    let begun = daemon.json(&["snapshot", "rollback", "s", "--no-wait"]);
    assert_eq!(begun["rollback"][0]["device"], "disk", "{begun}");
    // It reads as the snapshot at once.
    let mut client = daemon.connect("disk");
    let far = client.read(47 * MIB, MIB).unwrap();
    assert_eq!(first_difference(&far, &image[usize::try_from(47 * MIB).unwrap()..][..far.len()]), None);
    drop(client);
    let daemon = daemon.kill().start();
    assert_eq!(first_difference(&daemon.read_all("disk"), &image), None, "after the kill");
    eventually("the rollback is done", || {
        let state = rollback(&daemon)["state"].clone();
        assert_ne!(state, "failed");
        (state != "running").then_some(())
    });
    let daemon = daemon.stop().start();
    assert_eq!(first_difference(&daemon.read_all("disk"), &image), None);
    assert_eq!(first_difference(&daemon.read_all("s/disk"), &image), None, "I2");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let daemon = daemon();
    daemon.add_file("other", MIB);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    assert!(daemon.refused(&["snapshot", "rollback", "s", "other"]).contains("no image of other"));
    assert!(daemon.refused(&["snapshot", "rollback", "nothing"]).contains("nothing"));
    daemon.ok(&["device", "resize", "disk", "128M"]);
    assert!(daemon.refused(&["snapshot", "rollback", "s"]).contains("134217728"));
}

/// A disk that takes no writes as long as a file is there.
fn refusing_disk(folder: &std::path::Path) -> Option<(std::process::Child, String)> {
    let nbdkit = common::tool("nbdkit")?;
    let (disk, socket) = (folder.join("far.raw"), folder.join("sock"));
    common::sparse_file(&disk, 8 * MIB);
    let refuse = folder.join("refuse");
    let mut server = std::process::Command::new(nbdkit);
    server.args(["--foreground", "--exit-with-parent", "--filter=error", "--unix"]).arg(&socket);
    server.arg("file").arg(disk).arg("error=EIO");
    for of in ["pwrite", "zero"] {
        server.arg(format!("error-{of}-rate=100%")).arg(format!("error-{of}-file={}", refuse.display()));
    }
    let quiet = std::process::Stdio::null;
    let server = server.stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap();
    eventually("nbdkit listens", || socket.exists().then_some(()));
    Some((server, format!("nbd+unix:///?socket={}", socket.display())))
}

/// One that failed for good kept its snapshot and its device busy for ever.
#[test]
fn one_that_failed_is_gone_on_with_or_given_up_with_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut server, uri)) = refusing_disk(folder.path()) else { return };
    let start = Start::new();
    let state = start.path("state");
    let daemon = start.arg("--state").arg(&state).start();
    daemon.ok(&["device", "add", "disk", &uri]);
    write(&daemon, 1, 0, 8 * MIB);
    let store = folder.path().join("s.diff");
    let take =
        ["snapshot", "take", "disk", "--name", "s", "--persistent", "--store", store.to_str().unwrap()];
    daemon.ok(&take);
    let old = daemon.read_all("s/disk");
    let refuse = folder.path().join("refuse");
    let fail = || {
        write(&daemon, 2, 0, 4 * MIB);
        std::fs::write(&refuse, "").unwrap();
        daemon.ok(&["snapshot", "rollback", "s", "disk", "--no-wait"]);
        eventually("it has failed", || (rollback(&daemon)["state"] == "failed").then_some(()));
    };
    fail();
    for verb in [&["device", "remove", "disk"][..], &["snapshot", "remove", "s"]] {
        let line = daemon.refused(verb);
        assert!(line.contains("rollback s disk") || line.contains("snapshots: s"), "{line}");
    }
    std::fs::remove_file(&refuse).unwrap();
    daemon.ok(&["snapshot", "rollback", "s", "disk"]);
    assert_eq!(first_difference(&daemon.read_all("disk"), &old), None);
    fail();
    let line = daemon.refused(&["snapshot", "remove", "s"]);
    assert!(line.contains("device remove disk --force"), "{line}");
    daemon.ok(&["device", "remove", "disk", "--force"]);
    let told = daemon.ok(&["events"]);
    assert!(told.contains("a mix of both"), "{told}");
    assert_eq!(daemon.json(&["snapshot", "list"]), serde_json::json!([]));
    assert!(!state.join("rollbacks/disk/rollback.log").exists());
    // It can be used anew, also after a restart: nobody goes on with that rollback.
    std::fs::remove_file(&refuse).unwrap();
    daemon.ok(&["device", "add", "disk", &uri]);
    write(&daemon, 3, 0, MIB);
    let daemon = daemon.kill().start();
    assert_eq!(first_difference(&daemon.read_all("disk")[..1 << 20], &noise(3, MIB)), None);
    daemon.stop();
    server.kill().unwrap();
    server.wait().unwrap();
}
