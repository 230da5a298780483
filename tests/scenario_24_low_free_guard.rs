//! Scenario 24, the guard of free space: what is nearly full is told before it is full, and whoever writes to the origin
//! never hears of it; also where the file system beneath the storage has less room than was promised (I1).
#![cfg(test)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::model::Model;
use common::tools::{eventually, finish, is_root};
use common::{Daemon, MIB, tool};
use serde_json::Value;

const DISK: u64 = 16 * MIB;
/// What is in use of 4 MiB when the segment is begun with which more than four fifths are.
const NEARLY: u64 = 3 * MIB;

/// A file system of a few MiB, until this is dropped.
struct Tiny {
    folder: PathBuf,
    umount: PathBuf,
}

impl Tiny {
    fn mount(folder: &Path, size: &str) -> Option<Self> {
        let (mount, umount) = (tool("mount")?, tool("umount")?);
        if !is_root() {
            return None;
        }
        let options = format!("size={size}");
        let made = finish(Command::new(mount).args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder));
        if !made.status.success() {
            common::tools::skip(&format!("no tmpfs can be mounted: {}", common::tools::both(&made).trim()));
            return None;
        }
        Some(Tiny { folder: folder.to_owned(), umount })
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new(&self.umount).arg("-l").arg(&self.folder).status();
    }
}

/// Takes a snapshot and overwrites the disk until its storage has run full; no write may fail.
fn run_full(store: &[&str]) -> (Daemon, Vec<Value>) {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let mut client = daemon.connect("disk");
    let mut model = Model::new(DISK);
    model.fill(&mut client);
    daemon.ok(&[&["snapshot", "take", "disk", "--name", "s"], store].concat());
    for first in (0..model.sectors()).step_by(32) {
        model.write(&mut client, first, 32);
    }
    eventually("the snapshot has failed", || {
        (daemon.json(&["snapshot", "show", "s"])["state"] == "failed").then_some(())
    });
    model.check(&daemon.read_all("disk"), "I1");
    assert_eq!(daemon.json(&["device", "show", "disk"])["io"]["errors"], 0, "I1");
    let events = daemon.events();
    (daemon, events)
}

/// The ids of the events of a kind that the snapshot has had.
fn ids(events: &[Value], kind: &str) -> Vec<u64> {
    let of_kind = events.iter().filter(|event| event["snapshot"] == "s" && event["kind"] == kind);
    of_kind.map(|event| event["id"].as_u64().unwrap()).collect()
}

/// Whether a full storage was told of in time and once: why not, else.
fn told_in_time(events: &[Value]) -> Result<(), String> {
    let [low, full, failed] = ["low-space", "no-space", "failed"].map(|kind| ids(events, kind));
    let once = [&low, &full, &failed].iter().all(|ids| ids.len() == 1);
    if once && low < full && full < failed {
        Ok(())
    } else {
        Err(format!("low-space {low:?}, no-space {full:?}, failed {failed:?}"))
    }
}

#[test]
fn low_space_is_told_before_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.diff");
    let store = store.to_str().unwrap();
    for store in [&["--limit", "4M"][..], &["--store", store, "--limit", "4M", "--step", "1M"]] {
        let (daemon, events) = run_full(store);
        told_in_time(&events).unwrap_or_else(|why| panic!("{why}: {events:#?}"));
        let low = events.iter().find(|event| event["kind"] == "low-space").unwrap();
        let (used, limit) = (&low["numbers"]["used"], &low["numbers"]["limit"]);
        // The numbers are those of the moment, however fast the writer came to the end.
        assert_eq!((used.as_u64(), limit.as_u64()), (Some(NEARLY), Some(4 * MIB)), "{low}");
        drop(daemon);
    }
}

#[test]
fn a_file_system_with_less_room_than_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tiny) = Tiny::mount(folder.path(), "4M") else { return };
    let store = tiny.folder.join("s.diff");
    let (daemon, events) = run_full(&["--store", store.to_str().unwrap(), "--limit", "64M", "--step", "1M"]);
    told_in_time(&events).unwrap_or_else(|why| panic!("{why}: {events:#?}"));
    drop(daemon);
}

#[test]
fn an_event_missing_twice_or_late_would_be_noticed() {
    let event = |id: u64, kind: &str| serde_json::json!({"id": id, "kind": kind, "snapshot": "s"});
    let right = [event(3, "low-space"), event(5, "no-space"), event(6, "failed")];
    assert_eq!(told_in_time(&right), Ok(()));
    told_in_time(&right[1..]).expect_err("low-space is missing");
    told_in_time(&[&right[..], &[event(9, "failed")]].concat()).expect_err("it failed twice");
    let late = [event(7, "low-space"), event(5, "no-space"), event(6, "failed")];
    told_in_time(&late).expect_err("low-space is late");
}
