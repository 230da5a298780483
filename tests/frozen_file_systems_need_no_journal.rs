//! `snapshot take --freeze` on mounted file systems under load: an image has what was written, synced or not, and is read
//! with its journal unread. A file system that cannot be frozen costs the take, never its users.
#![cfg(test)]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::MIB;
use common::filesystem::Kind;
use common::load::{check_database, check_files, database_in};
use common::scene::{Scene, for_each_kind};
use common::tools::file_bytes;

/// Opening a database writes beside it, so one on a read-only image is copied off it first.
fn database_copied_off(folder: &Path, own: &Path) -> PathBuf {
    let _ = std::fs::remove_dir_all(own);
    std::fs::create_dir(own).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("commits.db") && !name.ends_with("-shm") {
            std::fs::copy(&path, own.join(name)).unwrap();
        }
    }
    database_in(own)
}

/// The image of a frozen file system has all that was written, synced or not, and is read with its journal unread.
fn frozen(kind: Kind) {
    let Some(scene) = Scene::set(kind) else { return };
    let daemon = &scene.daemon;
    for round in 1..=3 {
        scene.load.let_do(10);
        let unsynced = common::tools::noise(round, 2 * MIB);
        std::fs::write(scene.origin.folder().join("unsynced"), &unsynced).unwrap();
        let name = format!("round-{round}");
        let (before, after) = scene.take(&["--name", &name, "--freeze"]);
        let image = scene.attach(&format!("{name}/disk"), kind.unreplayed_options());
        let files = check_files(image.folder(), before, after);
        assert_eq!(files, Ok(()), "{kind:?}");
        let found = file_bytes(&image.folder().join("unsynced"));
        assert_eq!(common::tools::first_difference(&found, &unsynced), None, "{kind:?}: what was not synced");
        let database = database_copied_off(image.folder(), &daemon.path("database"));
        let commits = check_database(&database, before, after);
        assert!(commits.is_ok(), "{kind:?}: {commits:?}");
        scene.detach_unreplayed(image, &name);
    }
    scene.finish();
}

/// A disk that stops answering cannot be frozen: the take fails in time, and once the disk answers again everything
/// goes on, nothing is left frozen, and the next take works.
fn freeze_gives_up(kind: Kind) {
    let Some(scene) = Scene::set(kind) else { return };
    scene.origin.stop_serving();
    let asked = Instant::now();
    let why = scene.daemon.refused(&[
        "snapshot",
        "take",
        "disk",
        "--name",
        "late",
        "--freeze",
        "--freeze-timeout",
        "1s",
    ]);
    let took = asked.elapsed();
    scene.origin.go_on_serving();
    assert!(why.contains("fr"), "{why}");
    assert!(took < Duration::from_secs(15), "I9: it took {took:?} to give up: {why}");
    assert_eq!(scene.daemon.json(&["snapshot", "list"]), serde_json::Value::Array(vec![]));
    scene.load.let_do(10);
    let (before, after) = scene.take(&["--name", "next", "--freeze"]);
    let image = scene.attach("next/disk", kind.unreplayed_options());
    assert_eq!(check_files(image.folder(), before, after), Ok(()), "{kind:?}");
    scene.detach_unreplayed(image, "next");
    scene.load.let_do(10);
    scene.finish();
}

for_each_kind!(frozen, freeze_gives_up);
