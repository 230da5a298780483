//! Mounted file systems that are written and synced, and a database that commits on them, are snapshotted again and
//! again in the midst of it. An image is what a power cut at that instant would have left, so mounting it replays its
//! journal, its checker finds nothing, and nothing that was acknowledged before the take is missing. The daemon is
//! killed in between: the origin has what was acknowledged too.
#![cfg(test)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use common::cage::caged;
use common::filesystem::{Attached, KINDS, Kind, Loop, Mount};
use common::load::{Journal, Load, Progress, check_database, check_files, database_in};
use common::{Daemon, Start, run, sparse_file, tool};

/// Rounds of each file system, of which every third ends with a kill; `BOWLINE_ROUNDS` asks for another number.
fn rounds() -> u64 {
    let asked = std::env::var("BOWLINE_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(7)
}

/// What is wrong with a mounted file system, if anything.
fn check(folder: &Path, before: Progress, after: Progress) -> Result<u64, String> {
    check_files(folder, before, after)?;
    check_database(&database_in(folder), before, after)
}

/// Takes a snapshot under load, mounts its image, checks it, and writes to it.
fn take_and_check(daemon: &Daemon, kind: Kind, load: &Load, name: &str) {
    let before = load.progress();
    daemon.ok(&["snapshot", "take", "disk", "--name", name]);
    let after = load.progress();
    let image = attach_image(daemon, kind, name);
    let commits = check(image.folder(), before, after);
    eprintln!("{kind:?} {name}: {commits:?} commits, {} to {} files", before.files_done, after.files_begun);
    assert!(commits.is_ok(), "{kind:?} {name}: {commits:?}");
    let own = image.folder().join("only-in-the-image");
    std::fs::write(&own, name).unwrap();
    std::fs::File::open(own).unwrap().sync_all().unwrap();
    image.detach_clean();
}

/// Mounts the image of a snapshot beside its origin.
fn attach_image(daemon: &Daemon, kind: Kind, name: &str) -> Attached {
    let uri = daemon.uri(&format!("{name}/disk"));
    let image = Attached::new(&daemon.path("image"), &uri, kind, kind.image_options());
    image.expect("the origin was attached before")
}

/// What was written to the image of `name` is in no other image and not on the origin, and is there until the snapshot
/// is removed. `neighbour` was taken right after it, and is exported before and after.
fn image_keeps_to_itself(daemon: &Daemon, kind: Kind, load: &Load, origin: &Attached) {
    daemon.ok(&["snapshot", "take", "disk", "--name", "neighbour"]);
    let copy = |name: &str| {
        let path = daemon.path(name);
        run(&tool("nbdcopy").unwrap(), [&daemon.uri("neighbour/disk"), path.to_str().unwrap()]);
        path
    };
    let earlier = copy("earlier.raw");
    take_and_check(daemon, kind, load, "written");
    assert!(
        !origin.folder().join("only-in-the-image").exists(),
        "I1: {kind:?}: the image's file is on the origin"
    );
    let image = attach_image(daemon, kind, "written");
    let kept = std::fs::read_to_string(image.folder().join("only-in-the-image"));
    image.detach_clean();
    assert_eq!(kept.ok().as_deref(), Some("written"), "{kind:?}: the image lost what was written to it");
    let later = copy("later.raw");
    run(&tool("cmp").unwrap(), [&earlier, &later]);
    for file in [earlier, later] {
        std::fs::remove_file(file).unwrap();
    }
    daemon.ok(&["snapshot", "remove", "neighbour"]);
    daemon.ok(&["snapshot", "remove", "written"]);
}

/// The origin after its daemon was killed: what was acknowledged is there, and its checker is content.
fn origin_survived(daemon: &Daemon, kind: Kind, kept: Progress) -> Progress {
    let origin = attach(daemon, kind).expect("it was attached before");
    let commits = check(origin.folder(), kept, kept).unwrap_or_else(|wrong| panic!("I7: {kind:?}: {wrong}"));
    origin.detach_clean();
    Progress { commits_done: commits, ..kept }
}

fn attach(daemon: &Daemon, kind: Kind) -> Option<Attached> {
    Attached::new(&daemon.path("origin"), &daemon.uri("disk"), kind, "rw")
}

fn under_load(kind: Kind, journal: Journal) {
    if !kind.is_usable() || ["sqlite3", "nbdcopy", "nbdfuse", "cmp"].iter().any(|name| tool(name).is_none()) {
        return;
    }
    let start = Start::new();
    let state = start.path("state");
    let mut daemon = start.arg("--state").arg(state).start();
    daemon.add_file("disk", kind.bytes());
    let made = Attached::make(&daemon.path("origin"), &daemon.uri("disk"), kind, "rw");
    let Some(mut origin) = made else { return };
    let mut load = Load::start(origin.folder(), Progress::default(), journal);
    let mut held = None;
    for round in 1..=rounds() {
        load.let_do(12);
        let name = format!("round-{round}");
        take_and_check(&daemon, kind, &load, &name);
        // One older snapshot is held, so that more than one is there at any take.
        if let Some(older) = held.replace(name) {
            daemon.ok(&["snapshot", "remove", &older]);
        }
        if round == 2 {
            image_keeps_to_itself(&daemon, kind, &load, &origin);
        }
        if round % 3 == 0 {
            let start = daemon.kill();
            let kept = load.cut_off();
            origin.abandon();
            daemon = start.start();
            let kept = origin_survived(&daemon, kind, kept);
            origin = attach(&daemon, kind).expect("it was attached before");
            load = Load::start(origin.folder(), kept, journal);
            held = None;
        }
    }
    let done = load.finish();
    assert_eq!(check(origin.folder(), done, done), Ok(done.commits_done), "{kind:?}");
    origin.detach_clean();
}

fn limit() -> Duration {
    Duration::from_secs(60 + rounds() * 20)
}

#[test]
fn ext4() {
    caged("ext4", limit(), || under_load(Kind::Ext4, Journal::WriteAhead));
}

#[test]
fn xfs() {
    caged("xfs", limit(), || under_load(Kind::Xfs, Journal::Rollback));
}

#[test]
fn btrfs() {
    caged("btrfs", limit(), || under_load(Kind::Btrfs, Journal::WriteAhead));
}

#[test]
fn the_checker_of_contents_notices_planted_damage() {
    let Some(sqlite) = tool("sqlite3") else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let load = Load::start(folder, Progress::default(), Journal::WriteAhead);
    load.let_do(20);
    let done = load.finish();
    assert_eq!(check(folder, done, done), Ok(done.commits_done));
    let noticed = |what: &str| {
        let said = check(folder, done, done).expect_err(what);
        assert!(said.contains(what), "{what}: {said}");
    };

    let file = folder.join("d5/f5");
    let sound = std::fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    damaged[1000] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    noticed("synced file 5: the first of 1 differing bytes is at 1000");
    std::fs::write(&file, &sound[..1000]).unwrap();
    noticed("synced file 5: 1000 and");
    std::fs::remove_file(&file).unwrap();
    noticed("synced file 5: No such file");
    std::fs::write(&file, &sound).unwrap();
    let early = folder.join(format!("d0/f{}", done.files_begun));
    std::fs::write(&early, "").unwrap();
    noticed("was not yet begun");
    std::fs::remove_file(early).unwrap();

    let database = database_in(folder);
    let last = done.commits_done;
    let whole = std::fs::read(&database).unwrap();
    for (sql, what) in [
        ("DELETE FROM commits WHERE id = 3".to_owned(), "commit 3 is missing or wrong"),
        ("UPDATE commits SET body = body || 'x' WHERE id = 3".to_owned(), "commit 3 is missing or wrong"),
        ("UPDATE tally SET count = count - 1 WHERE slot = 3".to_owned(), "half a transaction"),
        (
            format!(
                "DELETE FROM commits WHERE id = {last}; UPDATE tally SET count = count - 1 WHERE slot = 3"
            ),
            "were acknowledged before",
        ),
    ] {
        run(&sqlite, [database.as_os_str(), sql.as_ref()]);
        noticed(what);
        std::fs::write(&database, &whole).unwrap();
    }
    assert_eq!(check(folder, done, done), Ok(last));
    let page = std::fs::File::options().write(true).open(&database).unwrap();
    page.write_all_at(&[0xaa; 200], 4096).unwrap();
    assert!(check(folder, done, done).is_err(), "a damaged page went through");
}

#[test]
fn the_checkers_of_file_systems_notice_planted_damage() {
    for kind in KINDS {
        if !kind.is_usable() {
            continue;
        }
        let disk = tempfile::NamedTempFile::new().unwrap();
        sparse_file(disk.path(), kind.bytes());
        kind.make(disk.path());
        assert_eq!(kind.check(disk.path()), Ok(()), "{kind:?}");
        let at = match kind {
            // The first group's bitmaps, the first group's header, and the superblock.
            Kind::Ext4 => 4096 * 20,
            Kind::Xfs => 512 + 64,
            Kind::Btrfs => 65536 + 100,
        };
        disk.as_file().write_all_at(&[0x5a; 4096], at).unwrap();
        assert!(kind.check(disk.path()).is_err(), "{kind:?}: damage went through");
    }
}

/// What a test leaves, because it was killed or forgot it, goes with it: the cage itself looks for what is left.
#[test]
fn a_cage_leaves_nothing_behind() {
    caged("a_cage_leaves_nothing_behind", Duration::from_secs(60), || {
        let folder = tempfile::tempdir().unwrap().keep();
        let file = folder.join("disk");
        sparse_file(&file, Kind::Ext4.bytes());
        Kind::Ext4.make(&file);
        let Some(disk) = Loop::attach(&file) else { return };
        std::mem::forget(Mount::new(disk, Kind::Ext4, "rw", folder.join("mnt")));
        std::mem::forget(Loop::attach(&file));
    });
}
