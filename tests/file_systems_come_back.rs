//! Ways back for a mounted file system: a persistent snapshot outlives a killed daemon, and the origin is rolled back.
#![cfg(test)]

mod common;

use common::filesystem::Kind;
use common::load::{Journal, Load, Progress};
use common::scene::{Scene, attach, check, copied, for_each_kind};
use common::{run, tool};

/// A persistent snapshot outlives kills of its daemon under load: the image is the same, byte for byte, with what was
/// written to it.
fn persistent(kind: Kind) {
    let Some(scene) = Scene::set(kind) else { return };
    let store = scene.daemon.path("kept.diff");
    let (before, after) = scene.take(&["--name", "kept", "--persistent", "--store", store.to_str().unwrap()]);
    let Scene { mut daemon, mut origin, mut load, .. } = scene;
    let image = attach(&daemon, kind, "kept/disk", kind.image_options());
    let own = image.folder().join("only-in-the-image");
    std::fs::write(&own, "kept").unwrap();
    std::fs::File::open(own).unwrap().sync_all().unwrap();
    image.detach_clean();
    let earlier = copied(&daemon, "kept/disk", "earlier.raw");
    for _ in 0..2 {
        load.let_do(15);
        let start = daemon.kill();
        let done = load.cut_off();
        origin.abandon();
        daemon = start.start();
        let later = copied(&daemon, "kept/disk", "later.raw");
        run(&tool("cmp").unwrap(), [&earlier, &later]);
        origin = attach(&daemon, kind, "disk", "rw");
        let commits =
            check(origin.folder(), done, done).unwrap_or_else(|wrong| panic!("I7: {kind:?}: {wrong}"));
        load = Load::start(origin.folder(), Progress { commits_done: commits, ..done }, Journal::WriteAhead);
    }
    let image = attach(&daemon, kind, "kept/disk", kind.image_options());
    let found = check(image.folder(), before, after);
    assert!(found.is_ok(), "I2: {kind:?}: {found:?}");
    let own = std::fs::read_to_string(image.folder().join("only-in-the-image"));
    assert_eq!(own.ok().as_deref(), Some("kept"), "{kind:?}: the image lost what was written to it");
    image.detach_clean();
    daemon.ok(&["snapshot", "remove", "kept"]);
    load.let_do(5);
    Scene { kind, daemon, origin, load }.finish();
}

/// The origin goes back: it has what it had at the take and nothing later, goes on from there, and the image of another
/// snapshot stays what it was.
fn goes_back(kind: Kind) {
    let Some(scene) = Scene::set(kind) else { return };
    let (before, after) = scene.take(&["--name", "back"]);
    scene.load.let_do(20);
    scene.take(&["--name", "other"]);
    scene.load.let_do(10);
    let Scene { daemon, origin, load, .. } = scene;
    load.finish();
    origin.detach_clean();
    let earlier = copied(&daemon, "other/disk", "earlier.raw");
    daemon.ok(&["snapshot", "rollback", "back"]);
    let origin = attach(&daemon, kind, "disk", "rw");
    let commits = check(origin.folder(), before, after).unwrap_or_else(|wrong| panic!("{kind:?}: {wrong}"));
    let later = copied(&daemon, "other/disk", "later.raw");
    run(&tool("cmp").unwrap(), [&earlier, &later]);
    let from = Progress { files_done: before.files_done, commits_done: commits, ..after };
    let load = Load::start(origin.folder(), from, Journal::WriteAhead);
    load.let_do(10);
    Scene { kind, daemon, origin, load }.finish();
}

/// A rollback that a kill cuts off is gone on with by the next daemon, and the device reads as the snapshot meanwhile.
fn goes_back_over_a_kill(kind: Kind) {
    let Some(scene) = Scene::set(kind) else { return };
    let store = scene.daemon.path("kept.diff");
    let (before, after) = scene.take(&["--name", "back", "--persistent", "--store", store.to_str().unwrap()]);
    scene.load.let_do(30);
    let Scene { daemon, origin, load, .. } = scene;
    load.finish();
    origin.detach_clean();
    daemon.ok(&["snapshot", "rollback", "back", "--no-wait"]);
    let daemon = daemon.kill().start();
    let origin = attach(&daemon, kind, "disk", "rw");
    let commits = check(origin.folder(), before, after).unwrap_or_else(|wrong| panic!("{kind:?}: {wrong}"));
    let from = Progress { files_done: before.files_done, commits_done: commits, ..after };
    let load = Load::start(origin.folder(), from, Journal::WriteAhead);
    load.let_do(10);
    Scene { kind, daemon, origin, load }.finish();
}

for_each_kind!(persistent, goes_back, goes_back_over_a_kill);
