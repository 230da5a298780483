//! What each verb prints, for people and as JSON.

use bowline_api::server::fake;
use bowline_api::{Changes, Device, Event, Export, Snapshot, Status};
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
        " OFFSET  LENGTH  SIZE\n      0    4096    4K\n1048576    8192    8K\n\
         disk: 12K of 64M changed since s1, in 2 extents\n"
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
    assert!(lines[1].starts_with("1...") && map.is_ascii(), "{map}");
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
