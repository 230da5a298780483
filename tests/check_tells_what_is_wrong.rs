//! `bowline check`: a state folder is sound after a clean stop and after kill -9, and what is damaged in it is named.
#![cfg(test)]

mod common;

use std::process::Command;

use common::tools::{finish, noise};
use common::{Daemon, KIB, MIB, Ran, Start, sparse_file};
use serde_json::Value;

fn check(start: &Start) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    let ran = Ran::of(&finish(command.args(["--json", "check"]).arg(start.path("state"))));
    (ran.code, serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}")))
}

/// Two tracked disks, each with a take and writes before and after it.
fn busy() -> Daemon {
    let start = Start::new();
    let state = start.path("state");
    let daemon = start.arg("--state").arg(state).start();
    for name in ["one", "two"] {
        let path = daemon.path(&format!("{name}.raw"));
        sparse_file(&path, 64 * MIB);
        daemon.ok(&["device", "add", name, path.to_str().unwrap(), "--track"]);
        daemon.connect(name).write(MIB, &noise(1, 8 * KIB)).unwrap();
    }
    daemon.ok(&["snapshot", "take", "one", "two", "--name", "s"]);
    for name in ["one", "two"] {
        daemon.connect(name).write(20 * MIB, &noise(2, 8 * KIB)).unwrap();
    }
    daemon
}

#[test]
fn after_a_clean_stop_a_kill_and_damage() {
    let daemon = busy();
    let state = daemon.path("state");
    let line = daemon.refused(&["check", state.to_str().unwrap()]);
    assert!(line.contains("a daemon uses it"), "{line}");

    let start = daemon.stop();
    let (code, report) = check(&start);
    assert_eq!(
        (code, &report["findings"], &report["notes"]),
        (0, &Value::Array(vec![]), &Value::Array(vec![]))
    );
    assert_eq!((&report["devices"], &report["trackers"]), (&2.into(), &2.into()));

    // A check leaves nothing behind that a start stumbles over, and a crash leaves nothing that is wrong.
    let daemon = start.start();
    daemon.connect("one").write(30 * MIB, &noise(3, 8 * KIB)).unwrap();
    let start = daemon.kill();
    let (code, report) = check(&start);
    assert_eq!((code, &report["findings"]), (0, &Value::Array(vec![])), "{report}");
    assert!(report["notes"].to_string().contains("not stopped in order"), "{report}");

    let header = state.join("trackers/one/tracker");
    let mut bytes = std::fs::read(&header).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&header, bytes).unwrap();
    let (code, report) = check(&start);
    assert_eq!(code, 1);
    assert_eq!(report["findings"][0]["where"], "trackers/one/tracker", "{report}");
    // What the check says of it is what a start makes of it.
    let daemon = start.start();
    assert_eq!(daemon.json(&["device", "show", "one"])["tracking"]["continuity"], "renewed");
    assert_eq!(daemon.json(&["device", "show", "two"])["tracking"]["continuity"], "after-crash");
}
