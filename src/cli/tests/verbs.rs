//! What each verb prints, for people and as JSON.

use bowline_api::server::fake;
use bowline_api::{Changes, Device, Event, Export, RollbackState, Snapshot, Status};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

/// The one JSON document `args` print.
fn json<T: DeserializeOwned>(daemon: &Daemon, args: &[&str]) -> T {
    let ran = daemon.ask(&[args, &["--json"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ran.out))
}

fn text(daemon: &Daemon, args: &[&str]) -> String {
    let ran = daemon.ask(args);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    ran.out
}

#[test]
fn json_is_one_document_each() {
    let daemon = Daemon::start();
    assert_eq!(json::<Vec<Device>>(&daemon, &["device", "list"]).len(), 2);
    assert_eq!(json::<Device>(&daemon, &["device", "show", "s1/disk"]), fake::device("s1/disk"));
    assert_eq!(json::<Device>(&daemon, &["device", "add", "new", "mem:1M"]).name, "new");
    assert_eq!(json::<Device>(&daemon, &["device", "resize", "disk", "2G"]).size, 2 << 30);
    assert_eq!(json::<Value>(&daemon, &["device", "remove", "disk"]), json!({"removed": "disk"}));
    assert_eq!(json::<Vec<Export>>(&daemon, &["export", "list"]), [fake::export("e1")]);
    assert_eq!(json::<Export>(&daemon, &["export", "add", "disk", "--nbd"]), fake::export("e2"));
    assert_eq!(json::<Value>(&daemon, &["export", "remove", "e1"]), json!({"removed": "e1"}));
    assert_eq!(json::<Vec<Snapshot>>(&daemon, &["snapshot", "list"]).len(), 2);
    assert_eq!(json::<Snapshot>(&daemon, &["snapshot", "show", "s1"]), fake::snapshot("s1"));
    assert_eq!(json::<Snapshot>(&daemon, &["snapshot", "take", "disk", "--name", "s9"]).name, "s9");
    assert_eq!(json::<Value>(&daemon, &["snapshot", "remove", "s1"]), json!({"removed": "s1"}));
    let changes = json::<Changes>(&daemon, &["changes", "disk", "--since", "s1", "--until", "s2"]);
    assert_eq!(
        (changes.since.as_deref(), changes.until.as_deref(), changes.bytes),
        (Some("s1"), Some("s2"), 12288)
    );
    assert_eq!(json::<Status>(&daemon, &["status"]).pid, 42);
    assert!(json::<Device>(&daemon, &["device", "track", "disk"]).tracking.enabled);
    json::<Device>(&daemon, &["device", "untrack", "disk"]);
    assert_eq!(json::<Snapshot>(&daemon, &["snapshot", "extend", "s1", "mem"]), fake::snapshot("s1"));
    assert_eq!(json::<Snapshot>(&daemon, &["snapshot", "rollback", "s1"]), fake::snapshot("s1"));
    let begun = json::<Snapshot>(&daemon, &["snapshot", "rollback", "s1", "disk", "--no-wait"]);
    assert_eq!(begun.rollback, [fake::rollback(RollbackState::Running)]);
    assert_eq!(
        json::<Value>(&daemon, &["changes", "mark", "disk", "1M", "4K"]),
        json!({"device": "disk", "marked": {"offset": 1 << 20, "length": 4096}})
    );
}

#[test]
fn scripts_get_the_word_they_need() {
    let daemon = Daemon::start();
    assert_eq!(text(&daemon, &["snapshot", "take", "disk", "data", "--name", "s9"]), "s9\n");
    assert_eq!(
        text(&daemon, &["export", "add", "disk", "--nbd", "tcp:127.0.0.1:0"]),
        fake::export("").uri + "\n"
    );
    assert_eq!(text(&daemon, &["device", "add", "new", "mem:1M", "--read-only"]), "new\n");
    assert_eq!(text(&daemon, &["device", "remove", "disk", "--force"]), "");
    assert_eq!(text(&daemon, &["changes", "disk", "--raw"]), "0 4096\n1048576 8192\n");
    assert_eq!(daemon.fake.asked()[3], "device remove --force disk");
    assert_eq!(text(&daemon, &["changes", "disk", "--raw", "--offset", "4K"]), "1048576 8192\n");
    assert_eq!(text(&daemon, &["device", "untrack", "disk"]), "");
    assert_eq!(text(&daemon, &["changes", "mark", "disk", "0", "4K"]), "");
    assert_eq!(text(&daemon, &["snapshot", "extend", "s1", "mem"]), "s1 4096 1073741824\n");
    assert_eq!(text(&daemon, &["snapshot", "rollback", "s1"]), "disk: back at s1, 8K were put back\n");
    let begun = text(&daemon, &["snapshot", "rollback", "s1", "--no-wait"]);
    assert_eq!(begun, "disk: 4K of 8K are back at s1\n");
}

/// The daemon has another working folder: what it is told to store in is from the root.
#[test]
fn stores_are_sent_from_the_root() {
    let daemon = Daemon::start();
    text(&daemon, &["snapshot", "extend", "s1", "ranges:a@0+1M,2M+1M"]);
    let here = std::env::current_dir().unwrap().join("a");
    let expected = format!("ranges:{0}@0+1M,{0}@2M+1M", here.display());
    assert_eq!(daemon.fake.asked().last(), Some(&expected));
}

/// A device whose name is a verb's can be asked about all the same.
#[test]
fn a_device_named_mark_is_a_device() {
    let daemon = Daemon::start();
    assert!(text(&daemon, &["changes", "--since", "s1", "--", "mark"]).contains("mark: 12K"));
}

#[test]
fn a_picture_goes_to_its_file() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk.png");
    let told = text(&daemon, &["changes", "disk", "--since", "s1", "--png", file.to_str().unwrap()]);
    assert!(told.starts_with("disk: 12K of 64M changed") && told.lines().count() == 1, "{told}");
    assert!(std::fs::read(&file).unwrap().starts_with(b"\x89PNG"));
    let changes: Changes = json(&daemon, &["changes", "disk", "--png", file.to_str().unwrap()]);
    assert_eq!(changes.extents, fake::EXTENTS);
}

#[test]
fn people_see_how_a_device_is_tracked_and_goes_back() {
    let daemon = Daemon::start();
    let device = text(&daemon, &["device", "show", "disk"]);
    for part in [
        "tracking      on\n",
        "epoch         3 of generation 6f2b0a52",
        "map           blocks of 4K, 2K of memory\n",
        "continuity    complete, and somewhat too large for the last crash (the daemon was killed)\n",
        "rollback      disk: back at s1, 8K were put back\n",
    ] {
        assert!(device.contains(part), "{part:?} in\n{device}");
    }
    let snapshot = text(&daemon, &["snapshot", "show", "failed"]);
    for part in [
        "when full   writers wait up to 5s\n",
        "persistent  yes\n",
        "rollback    disk: failed after 4K of 8K: the disk is gone\n",
    ] {
        assert!(snapshot.contains(part), "{part:?} in\n{snapshot}");
    }
}

#[test]
fn people_get_aligned_tables() {
    let daemon = Daemon::start();
    let devices = text(&daemon, &["device", "list"]);
    assert_eq!(
        devices,
        "NAME     SIZE  BLOCK  MODE  FILTERS  EXPORTS  SOURCE\n\
         disk      64M    512  rw    cow            1  /srv/disk.img\n\
         s1/disk   64M    512  ro    cow            1  /srv/disk.img\n"
    );
    let snapshots = text(&daemon, &["snapshot", "list"]);
    assert!(
        snapshots.contains("failed  failed (diff storage is full)  2025-12-31T23:59:59.123456Z"),
        "{snapshots}"
    );
    assert!(text(&daemon, &["snapshot", "show", "failed"]).contains("store       file /var/diff\n"));
    assert!(text(&daemon, &["device", "show", "disk"]).contains("size          64M (67108864 bytes)\n"));
    assert!(text(&daemon, &["export", "list"]).starts_with("ID  DEVICE  KIND  MODE  CLIENTS  URI\n"));
    let changes = text(&daemon, &["changes", "disk", "--since", "s1"]);
    assert_eq!(
        changes,
        "  OFFSET    LENGTH    SIZE\n       0      4096      4K\n 1048576      8192      8K\n\
         disk: 12K of 64M changed since s1, in 2 extents, of which 4K read as zeroes\n"
    );
    let status = text(&daemon, &["status"]);
    for part in ["engine      uring, 2 queues\n", "connections     1  256\n", "\ndisk ", "\nfailed  failed ("]
    {
        assert!(status.contains(part), "{part:?} in\n{status}");
    }
}

#[test]
fn the_map_is_as_wide_as_the_screen() {
    let daemon = Daemon::start();
    let map = text(&daemon, &["changes", "disk", "--since", "s1", "--map"]);
    let lines: Vec<&str> = map.lines().collect();
    assert!(lines[0].starts_with("disk: 12K of 64M changed since s1"), "{map}");
    assert_eq!(lines[1].chars().count(), 80);
    assert!(lines[1].starts_with("|░   ") && !map.contains('\x1b'), "{map}");
}

#[test]
fn events_are_one_object_a_line() {
    let daemon = Daemon::start();
    (0..3).for_each(|number| daemon.fake.happen(&format!("event {number}")));
    for args in [&["events"][..], &["events", "--json"]] {
        let lines = text(&daemon, args);
        let events: Vec<Event> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events.len(), 3);
    }
    assert_eq!(text(&daemon, &["events", "--since", "2"]).lines().count(), 1);
    // The reader leaves after the first event.
    let (code, err) = daemon.ask_closing(&["events", "--follow"], 200);
    assert_eq!((code, err.as_str()), (0, ""));
}

/// `| head` is no failure.
#[test]
fn a_closed_pipe_is_no_failure() {
    let daemon = Daemon::start();
    for args in [
        &["device", "list"][..],
        &["device", "list", "--json"],
        &["changes", "disk", "--raw"],
        &["changes", "disk", "--map"],
        &["status"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ] {
        for room in [0, 3] {
            assert_eq!(daemon.ask_closing(args, room), (0, String::new()), "{args:?}");
        }
    }
}
