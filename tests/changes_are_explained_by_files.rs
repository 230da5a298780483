//! `changes --explain` names the files that own what changed, of a file system that is mounted from an export.
#![cfg(test)]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::filesystem::{Attached, Kind};
use common::tools::{is_root, noise};
use common::{Daemon, KIB, MIB};
use serde_json::Value;

/// What owners of a kind have; a file by its path.
fn owned(explained: &Value, kind: &str, path: Option<&Path>) -> u64 {
    let owners = explained["owners"].as_array().unwrap();
    let is = |owner: &&Value| owner["kind"] == kind && owner["path"].as_str() == path.and_then(Path::to_str);
    owners.iter().filter(is).map(|owner| owner["bytes"].as_u64().unwrap()).sum()
}

fn file(explained: &Value, path: &Path) -> u64 {
    owned(explained, "file", Some(path))
}

fn sum(explained: &Value) -> u64 {
    explained["owners"].as_array().unwrap().iter().map(|owner| owner["bytes"].as_u64().unwrap()).sum()
}

fn write(path: &Path, mebibytes: u64) {
    std::fs::write(path, noise(mebibytes, mebibytes * MIB)).unwrap();
    File::open(path).unwrap().sync_all().unwrap();
}

fn files_are_named(kind: Kind) {
    if !kind.is_usable() || !is_root() {
        return;
    }
    let daemon = Daemon::start();
    daemon.add_tracked("disk", kind.bytes());
    let Some(fs) = Attached::make(&daemon.path("origin"), &daemon.uri("disk"), kind, "noatime") else {
        return;
    };
    let at = |name: &str| fs.folder().join(name);
    write(&at("untouched"), 2);
    write(&at("overwritten"), 3);
    let sync = || rustix::fs::syncfs(File::open(fs.folder()).unwrap()).unwrap();
    sync();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);

    // One file that stays, its last part not synced; one that goes again; and one written in place that goes, too.
    write(&at("known"), 4);
    let known = File::options().write(true).open(at("known")).unwrap();
    known.write_all_at(&noise(9, MIB), 4 * MIB).unwrap();
    write(&at("gone"), 5);
    let overwritten = File::options().write(true).open(at("overwritten")).unwrap();
    overwritten.write_all_at(&noise(7, 3 * MIB), 0).unwrap();
    overwritten.sync_all().unwrap();
    sync();
    // What is deleted and still open would be unknown.
    drop(overwritten);
    std::fs::remove_file(at("gone")).unwrap();
    std::fs::remove_file(at("overwritten")).unwrap();
    sync();

    let bytes = || daemon.json(&["changes", "disk", "--since", "s"])["bytes"].as_u64().unwrap();
    let mount = fs.folder().to_str().unwrap().to_owned();
    let ask = ["changes", "disk", "--since", "s", "--explain", "--mount", &mount];
    let before = bytes();
    let explained = daemon.json(&ask);
    let after = bytes();
    assert_eq!((&explained["device"], &explained["since"]), (&"disk".into(), &"s".into()));
    assert_eq!(explained["incomplete"], Value::Null, "{explained}");
    let told = explained["bytes"].as_u64().unwrap();
    assert!((before..=after).contains(&told), "{before} {told} {after}");
    assert_eq!(sum(&explained), told, "{explained}");
    assert_eq!(file(&explained, &at("known")), 5 * MIB, "{explained}");
    // Where the file system's blocks are smaller than the tracked ones, a neighbour may share one at each end.
    assert!(file(&explained, &at("untouched")) <= 8 * KIB, "{explained}");
    assert!(owned(&explained, "free", None) >= 8 * MIB, "{explained}");
    assert!(owned(&explained, "metadata", None) > 0, "{explained}");
    assert!(!explained.to_string().contains("overwritten"), "{explained}");
    // Where nobody says where it is mounted, the daemon finds out.
    let found = daemon.json(&["changes", "disk", "--since", "s", "--explain"]);
    assert_eq!((&found["mount"], file(&found, &at("known"))), (&explained["mount"], 5 * MIB), "{found}");
    let people = daemon.ok(&ask);
    assert!(people.contains("known") && people.contains("changed since s, in"), "{people}");

    let line = daemon.refused(&["changes", "s/disk", "--explain"]);
    assert!(line.contains("no file system is found") && line.contains("--mount"), "{line}");

    // The image at the interval's beginning knows whose blocks they were.
    let options = kind.image_options();
    let image = Attached::new(&daemon.path("image"), &daemon.uri("s/disk"), kind, options).unwrap();
    let mount = image.folder().to_str().unwrap().to_owned();
    let explained = daemon.json(&["changes", "disk", "--since", "s", "--explain", "--mount", &mount]);
    assert_eq!(file(&explained, &image.folder().join("overwritten")), 3 * MIB, "{explained}");
    assert_eq!(sum(&explained), explained["bytes"].as_u64().unwrap(), "{explained}");
    image.detach_clean();

    // A file system of another device would name files that have nothing to do with it.
    daemon.add_tracked("other", 8 * MIB);
    let mount = fs.folder().to_str().unwrap().to_owned();
    let line = daemon.refused(&["changes", "other", "--explain", "--mount", &mount]);
    assert!(line.contains("and the device has 8388608: it is another"), "{line}");
    let line = daemon.refused(&["changes", "disk", "--explain", "--mount", at("known").to_str().unwrap()]);
    assert!(line.contains("nothing is mounted there"), "{line}");
    drop(known);
    fs.detach_clean();
}

#[test]
fn of_ext4() {
    files_are_named(Kind::Ext4);
}

#[test]
fn of_xfs() {
    files_are_named(Kind::Xfs);
}
