//! `bowline check`: a state folder is sound after a clean stop and after kill -9, and what is damaged in it is named.
#![cfg(test)]

mod common;

use std::fs::File;
use std::path::Path;
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

/// Two disks with persistent snapshots: one keeps its old contents in a file, the other in ranges of two.
fn persistent() -> Daemon {
    let daemon = busy();
    for name in ["one", "two"] {
        daemon.connect(name).write(40 * MIB, &noise(3, MIB)).unwrap();
    }
    let path = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    for name in ["y.ranges", "x.ranges"] {
        sparse_file(&daemon.path(name), 2 * MIB);
    }
    let ranges = format!("ranges:{}@4096+300K,{}@512K+1M", path("y.ranges"), path("x.ranges"));
    daemon.ok(&["snapshot", "take", "one", "--name", "p", "--persistent", "--store", &path("p.diff")]);
    daemon.ok(&[
        "snapshot",
        "take",
        "two",
        "--name",
        "q",
        "--persistent",
        "--store",
        &ranges,
        "--limit",
        "2M",
    ]);
    for name in ["one", "two"] {
        // More than the first of the ranges takes, which are used in the order of their files' names.
        daemon.connect(name).write(40 * MIB, &noise(4, 850 * KIB)).unwrap();
        daemon.connect(name).write(MIB, &noise(5, 8 * KIB)).unwrap();
        daemon.connect(name).write(20 * MIB, &noise(5, 8 * KIB)).unwrap();
    }
    daemon
}

/// Whether a finding is there.
fn names(report: &Value, place: &str, what: &str) -> bool {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().any(|one| text(one, "where").contains(place) && text(one, "what").contains(what))
}

/// Any bytes as a journal: what is wrong is told, or the end counts as cut off; nothing panics.
fn any_bytes(start: &Start, journal: &Path) {
    let whole = std::fs::read(journal).unwrap();
    let mut told = 0;
    for round in 0..60 {
        let mut bytes = whole.clone();
        let at = round * 37 % whole.len().min(4096);
        match round % 3 {
            0 => bytes.truncate(at),
            _ => bytes[at] ^= 1 << (round % 8),
        }
        std::fs::write(journal, bytes).unwrap();
        let (code, _) = check(start);
        assert!(code == 0 || code == 1, "round {round}: {code}");
        told += code;
    }
    assert!(told > 20, "only {told} of 60 were noticed");
    std::fs::write(journal, whole).unwrap();
    assert_eq!(check(start).0, 0);
}

/// A file, what is done to it, and the finding's place and words.
type Case<'a> = (&'a Path, &'a dyn Fn(&Path), &'a str, &'a str);

#[test]
fn of_persistent_snapshots() {
    let daemon = persistent();
    // An export of an image that outlives the daemon is kept with it.
    daemon.ok(&["export", "add", "p/one", "--nbd"]);
    let at = |name: &str| daemon.path(name);
    let (state, store, first, second) = (at("state"), at("p.diff"), at("x.ranges"), at("y.ranges"));
    let start = daemon.stop();
    let (code, report) = check(&start);
    assert_eq!(
        (code, &report["findings"], &report["journals"]),
        (0, &Value::Array(vec![]), &2.into()),
        "{report}"
    );
    assert!(report["blocks"].as_u64().unwrap() >= 2 * 850 / 4, "{report}");

    let mut journals: Vec<_> =
        std::fs::read_dir(state.join("snapshots")).unwrap().map(|entry| entry.unwrap().path()).collect();
    journals.sort();
    // Blocks, wherever they are: all that is behind the label's segment, whose store begins within the file.
    let spoil = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes
            .iter_mut()
            .skip(if path.ends_with("y.ranges") { 0 } else { 768 << 10 })
            .for_each(|byte| *byte ^= 1);
        std::fs::write(path, bytes).unwrap();
    };
    let cut = |path: &Path| {
        File::options().write(true).open(path).unwrap().set_len(256 << 10).unwrap();
    };
    let cases: [Case<'_>; 8] = [
        (&store, &spoil, ".journal", "is damaged"),
        (&store, &cut, ".journal", "ends before byte"),
        (
            &store,
            &|path| std::fs::write(path, vec![0; 1 << 20]).unwrap(),
            ".journal",
            "is not the diff storage",
        ),
        (&store, &|path| std::fs::remove_file(path).unwrap(), ".journal", "cannot open"),
        (&first, &spoil, ".journal", "is damaged"),
        (&second, &spoil, ".journal", "is damaged"),
        (&journals[0], &|path| std::fs::remove_file(path).unwrap(), "persistent_snapshots[", "no journal in"),
        (&journals[1], &|path| std::fs::write(path, b"BWLSNAPX").unwrap(), "snapshots/", ""),
    ];
    for (path, damage, place, what) in cases {
        let whole = std::fs::read(path).unwrap();
        damage(path);
        let (code, report) = check(&start);
        assert!(code == 1 && names(&report, place, what), "{}: {what}: {report}", path.display());
        std::fs::write(path, whole).unwrap();
        assert_eq!(check(&start).0, 0, "{}", path.display());
    }
    any_bytes(&start, &journals[0]);

    // After a crash, too; and what nobody knows is named.
    let start = start.start().kill();
    assert_eq!(check(&start).0, 0, "{}", check(&start).1);
    std::fs::create_dir_all(state.join("rollbacks/one")).unwrap();
    std::fs::write(state.join("rollbacks/one/rollback.log"), "no log").unwrap();
    std::fs::write(state.join("snapshots/odd"), "").unwrap();
    let (_, report) = check(&start);
    assert!(names(&report, "rollbacks/one/rollback.log", ""), "{report}");
    assert!(names(&report, "snapshots/odd", "belongs to nothing"), "{report}");
}
