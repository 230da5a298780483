//! I1: diff storage runs full under load. The disk goes on as if nothing had happened; the snapshot fails visibly, once.
#![cfg(test)]

mod common;

use common::nbd::EIO;
use common::tools::{eventually, first_difference, noise};
use common::writer::Writers;
use common::{Daemon, MIB, NbdError};

const DISK: u64 = 64 * MIB;

/// Data everywhere, a snapshot with little room, and everything overwritten.
fn overflow(store: &[&str]) -> (Daemon, Vec<u8>) {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let mut client = daemon.connect("disk");
    let write_all = |client: &mut common::Nbd, seed: u64| {
        let bytes = noise(seed, DISK);
        for (offset, piece) in (0..DISK).step_by(1 << 20).zip(bytes.chunks(1 << 20)) {
            client.write(offset, piece).unwrap_or_else(|error| panic!("I1: at {offset}: {error}"));
        }
        bytes
    };
    write_all(&mut client, 1);
    daemon.ok(&[&["snapshot", "take", "disk", "--name", "s", "--limit", "4M"], store].concat());
    let model = write_all(&mut client, 2);
    (daemon, model)
}

fn check(daemon: &Daemon, model: &[u8]) {
    assert_eq!(first_difference(&daemon.read_all("disk"), model), None, "I1");
    let shown = eventually("the snapshot has failed", || {
        let shown = daemon.json(&["snapshot", "show", "s"]);
        (shown["state"] == "failed").then_some(shown)
    });
    assert!(shown["reason"].as_str().unwrap().contains("4"), "the reason has no numbers: {shown}");
    assert!(shown["store"]["used"].as_u64().unwrap() <= 4 * MIB, "I9: {shown}");
    let mut image = daemon.connect("s/disk");
    for offset in (0..DISK).step_by(1 << 22) {
        match image.read(offset, 4096) {
            Err(NbdError::Errno(EIO)) => {}
            other => panic!("a failed image answers at {offset}: {other:?}"),
        }
    }
    for kind in ["low-space", "no-space", "failed"] {
        assert_eq!(daemon.count_events(kind, "s"), 1, "events {kind}: {:#?}", daemon.events());
    }
    let failed = daemon.events().into_iter().find(|event| event["kind"] == "no-space").unwrap();
    assert!(failed["numbers"].as_object().is_some_and(|numbers| !numbers.is_empty()), "{failed}");
    for changes in [
        &["changes", "disk", "--since", "s"][..],
        &["changes", "s/disk", "--since", "s"],
        &["changes", "s/disk"],
    ] {
        let line = daemon.refused(changes);
        assert!(line.contains("snapshot s ") && line.ends_with("and take a new one"), "{changes:?}: {line}");
    }
    // It can be removed, and the next one is as good as any.
    daemon.ok(&["snapshot", "remove", "s"]);
    daemon.ok(&["snapshot", "take", "disk", "--name", "again", "--limit", "128M"]);
    daemon.connect("disk").write(0, &[3; 8192]).unwrap();
    assert_eq!(first_difference(&daemon.read_all("again/disk"), model), None, "I2");
}

#[test]
fn in_memory() {
    let (daemon, model) = overflow(&[]);
    check(&daemon, &model);
}

#[test]
fn in_a_file_that_grows_in_steps() {
    let store = tempfile::tempdir().unwrap();
    let path = store.path().join("s.diff");
    let (daemon, model) = overflow(&["--store", path.to_str().unwrap(), "--step", "1M"]);
    // Several steps at once where the writers are faster than the file grows.
    assert!((1..=4).contains(&daemon.count_events("grown", "s")), "{:#?}", daemon.events());
    check(&daemon, &model);
}

#[test]
fn writers_and_other_snapshots_do_not_notice() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 16 * MIB);
    let writers = Writers::start((0..3).map(|_| daemon.connect("disk")).collect());
    writers.let_write(300);
    let at_least = writers.acknowledged();
    daemon.ok(&["snapshot", "take", "disk", "--name", "roomy"]);
    let at_most = writers.submitted();
    daemon.ok(&["device", "add", "other", "mem:4M"]);
    daemon.ok(&["snapshot", "take", "other", "--name", "others"]);
    daemon.ok(&["snapshot", "take", "disk", "--name", "tight", "--limit", "256K"]);
    eventually("the tight one has failed", || {
        (daemon.json(&["snapshot", "show", "tight"])["state"] == "failed").then_some(())
    });
    writers.let_write(300);
    let logs = writers.finish();
    let origin = daemon.read_all("disk");
    for log in &logs {
        log.is_all_of(&origin).unwrap_or_else(|why| panic!("I1: {why}"));
    }
    assert_eq!(daemon.json(&["snapshot", "show", "others"])["state"], "active");
    let roomy = daemon.json(&["snapshot", "show", "roomy"]);
    assert_eq!(roomy["state"], "active", "one full store fails one snapshot: {roomy}");
    let image = daemon.read_all("roomy/disk");
    for ((log, at_least), at_most) in logs.iter().zip(at_least).zip(at_most) {
        log.prefix_of(&image, at_least, at_most).unwrap_or_else(|why| panic!("I2: {why}"));
    }
    assert_eq!(daemon.json(&["device", "show", "disk"])["io"]["errors"], 0);
}
