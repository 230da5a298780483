//! A chain of backups of a mounted file system under load: a full copy, and increments by the tracker's lists, with a
//! kill of the daemon in the midst of it. Each increment makes the copy the image, byte for byte (I4).
#![cfg(test)]

mod common;

use std::time::Duration;

use common::cage::caged;
use common::changes::{Extent, extents, total, verifier_notices, verify};
use common::filesystem::{Attached, Kind};
use common::load::{Journal, Load, Progress, check_database, database_in};
use common::{Daemon, Start, tool};

const LIMIT: Duration = Duration::from_secs(150);
const ROUNDS: u64 = 5;
const KILL_AFTER: u64 = 3;

/// What a later increment begins at: it outlives the snapshot.
struct Since {
    epoch: String,
    generation: String,
}

/// Takes a snapshot, reads its image, and removes it.
fn back_up(daemon: &Daemon, name: &str, since: Option<&Since>) -> (Vec<u8>, Since, Option<Vec<Extent>>) {
    let taken = daemon.json(&["snapshot", "take", "disk", "--name", name]);
    let device = &taken["devices"][0];
    let now = Since {
        epoch: device["epoch"].as_u64().unwrap().to_string(),
        generation: device["generation"].as_str().unwrap().to_owned(),
    };
    let list = since.map(|Since { epoch, generation }| {
        let interval = ["--since", epoch, "--generation", generation, "--until", name];
        extents(&daemon.json(&[&["changes", "disk"], &interval[..]].concat()))
    });
    let image = daemon.read_all(&format!("{name}/disk"));
    daemon.ok(&["snapshot", "remove", name]);
    (image, now, list)
}

fn chain(kind: Kind) {
    if !kind.is_usable() || ["sqlite3", "nbdfuse"].iter().any(|name| tool(name).is_none()) {
        return;
    }
    let start = Start::new();
    let state = start.path("state");
    let mut daemon = start.arg("--state").arg(state).start();
    daemon.add_file("disk", kind.bytes());
    daemon.ok(&["device", "track", "disk"]);
    let place = daemon.path("origin");
    let Some(mut origin) = Attached::make(&place, &daemon.uri("disk"), kind, "rw") else { return };
    let mut load = Load::start(origin.folder(), Progress::default(), Journal::WriteAhead);
    load.let_do(10);
    let (mut copy, mut since, _) = back_up(&daemon, "full", None);
    for round in 1..=ROUNDS {
        load.let_do(15);
        let (image, now, list) = back_up(&daemon, &format!("round-{round}"), Some(&since));
        let list = list.unwrap();
        let bytes = total(&list);
        eprintln!("{kind:?} round {round}: {bytes} bytes in {} extents", list.len());
        assert_eq!(verify(&copy, &list, &image), Ok(()), "I4: {kind:?}, round {round}");
        verifier_notices(&copy, &list, &image);
        // After a kill all regions count that the load was in or may have been about to write in sequence: on so
        // small a disk that is most of it. And btrfs discards free space in the background.
        let exact = round != KILL_AFTER + 1 && kind != Kind::Btrfs;
        assert!(
            !exact || bytes < kind.bytes() / 2,
            "I4: {kind:?}, round {round}: {bytes} bytes are no increment"
        );
        (copy, since) = (image, now);
        if round == KILL_AFTER {
            load.let_do(15);
            let start = daemon.kill();
            let done = load.cut_off();
            origin.abandon();
            daemon = start.start();
            origin = Attached::new(&place, &daemon.uri("disk"), kind, "rw").expect("it was attached before");
            let commits = check_database(&database_in(origin.folder()), done, done);
            let commits_done = commits.unwrap_or_else(|wrong| panic!("I7: {kind:?}: {wrong}"));
            load = Load::start(origin.folder(), Progress { commits_done, ..done }, Journal::WriteAhead);
        }
    }
    load.finish();
    origin.detach_clean();
}

#[test]
fn ext4() {
    caged("ext4", LIMIT, || chain(Kind::Ext4));
}

#[test]
fn btrfs() {
    caged("btrfs", LIMIT, || chain(Kind::Btrfs));
}
