//! Scenario 9: what is beneath a device under a held snapshot is cut, unlinked, resized, or its server dies. Every call
//! returns in a bounded time; an image gives what it held or an error, and never anything else; the daemon goes on
//! (I1, I2).
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::changes::{Extent, blocks_of, extents, missed, verify};
use common::model::{Model, seed};
use common::nbd::EIO;
use common::oracle::SECTOR;
use common::tools::eventually;
use common::{Daemon, KIB, MIB, Nbd, NbdError};
use serde_json::{Value, json};

const DISK: u64 = 8 * MIB;
const PIECE: u64 = 64 * KIB;
/// What no call may take longer than: a server is waited for ten seconds, a write is held ten seconds at most, and 30
/// are the clients' own limit.
const BOUND: Duration = Duration::from_secs(25);

/// What came of reading an image piece by piece.
#[derive(Default)]
struct Reads {
    right: u64,
    refused: u64,
}

/// Each piece of the image is exactly what it held, or an error: nothing is made up (I2).
fn right_or_refused(image: &mut Nbd, then: &Model, first: u64, pieces: u64) -> Reads {
    let mut reads = Reads::default();
    let sectors = PIECE / SECTOR as u64;
    for first in (first..first + pieces * sectors).step_by(usize::try_from(sectors).unwrap()) {
        match image.read(first * SECTOR as u64, PIECE) {
            Ok(bytes) => {
                let reports = then.reports_from(first, &bytes);
                assert!(reports.is_empty(), "I2: the image made something up: {:?}", &reports[..1]);
                reads.right += 1;
            }
            Err(NbdError::Errno(EIO)) => reads.refused += 1,
            Err(other) => panic!("the image at sector {first}: {other}"),
        }
    }
    reads
}

/// Does something that must end in a bounded time.
fn bounded<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = act();
    assert!(begun.elapsed() < BOUND, "{what} took {:?}", begun.elapsed());
    result
}

fn filled(daemon: &Daemon) -> (Nbd, Model) {
    let mut client = daemon.connect("disk");
    let mut model = Model::new(DISK);
    model.fill(&mut client);
    client.flush().unwrap();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    (client, model)
}

#[test]
fn the_file_is_cut_and_made_whole_again() {
    let mut random = seed();
    let daemon = Daemon::start();
    let path = daemon.add_file("disk", DISK);
    let (mut client, mut model) = filled(&daemon);
    let then = model.clone();
    // Some of each half is preserved before the cut.
    for _ in 0..20 {
        model.write_somewhere(&mut client, &mut random, 256);
    }
    client.flush().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(DISK / 2).unwrap();
    let mut image = daemon.connect("s/disk");
    let reads = bounded("reading the image", || right_or_refused(&mut image, &then, 0, DISK / PIECE));
    assert!(reads.right >= DISK / 2 / PIECE && reads.refused > 0, "{} right", reads.right);
    // What is still there can be written, and is preserved.
    model.write(&mut client, 0, 64);
    right_or_refused(&mut image, &then, 0, DISK / PIECE);
    // A write beyond the end cannot be preserved any more: that costs the snapshot.
    file.set_len(DISK).unwrap();
    let reads = bounded("reading the image", || {
        let mut reads = Reads::default();
        for offset in (0..DISK).step_by(4096) {
            match image.read(offset, 4096) {
                Ok(_) => reads.right += 1,
                Err(NbdError::Errno(EIO)) => reads.refused += 1,
                Err(other) => panic!("the image at {offset}: {other}"),
            }
        }
        reads
    });
    assert!(reads.right + reads.refused == DISK / 4096);
    bounded("removing it", || daemon.ok(&["snapshot", "remove", "s"]));
    model.check_part(&mut client, 0, 64, "I1");
    daemon.stop();
}

#[test]
fn the_file_is_unlinked() {
    let mut random = seed();
    let daemon = Daemon::start();
    let path = daemon.add_file("disk", DISK);
    let (mut client, mut model) = filled(&daemon);
    let then = model.clone();
    std::fs::remove_file(&path).unwrap();
    for _ in 0..40 {
        model.write_somewhere(&mut client, &mut random, 256);
    }
    // Whoever has a file open has it, whatever becomes of its name.
    then.check(&daemon.read_all("s/disk"), "I2");
    model.check(&daemon.read_all("disk"), "I1");
    bounded("a take", || daemon.ok(&["snapshot", "take", "disk", "--name", "t"]));
    let listed = extents(&daemon.json(&["changes", "disk", "--since", "s", "--until", "t"]));
    assert!(!listed.is_empty());
    bounded("removing both", || {
        daemon.ok(&["snapshot", "remove", "s"]);
        daemon.ok(&["snapshot", "remove", "t"]);
    });
    daemon.stop();
}

#[test]
fn it_grows() {
    let mut random = seed();
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let (mut client, mut model) = filled(&daemon);
    let then = model.clone();
    let grown = 2 * DISK;
    bounded("resizing", || daemon.ok(&["device", "resize", "disk", &grown.to_string()]));
    let mut written: Vec<_> = (0..20).map(|_| model.write_somewhere(&mut client, &mut random, 256)).collect();
    let mut behind = daemon.connect("disk");
    assert_eq!(behind.size, grown);
    behind.write(DISK + MIB, &[7; 4096]).unwrap();
    written.push((DISK + MIB, 4096));
    // An image has the size of its take.
    assert_eq!(daemon.json(&["device", "show", "s/disk"])["size"], DISK);
    then.check(&daemon.read_all("s/disk"), "I2");
    // What is beyond the old end is new.
    let changes = daemon.json(&["changes", "disk", "--since", "s"]);
    assert_eq!(changes["size"], grown);
    assert_eq!(missed(&[&written[..], &[(DISK, DISK)]].concat(), &extents(&changes)), [], "I4");
    // It cannot shrink below what the image needs.
    let line = daemon.refused(&["device", "resize", "disk", &(DISK / 2).to_string(), "--force"]);
    assert!(line.contains("snapshot"), "{line}");
    then.check(&daemon.read_all("s/disk"), "I2");
    bounded("removing it", || daemon.ok(&["snapshot", "remove", "s"]));
    daemon.ok(&["device", "resize", "disk", &DISK.to_string(), "--force"]);
    model.check(&daemon.read_all("disk"), "I1");
}

/// What was preserved is here, the rest is an error; and all calls end. Each waits for the server to come back, as long
/// as a device does: all at once, therefore.
fn without_its_server(then: &Model, origins: [Nbd; 2], images: [Nbd; 8]) {
    let [mut reader, mut writer] = origins;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let read = bounded("reading the origin", || reader.read(0, 4096));
            assert!(matches!(read, Err(NbdError::Errno(_))), "{read:?}");
        });
        scope.spawn(move || {
            // Of a block that is preserved already: another would be held before, as long again.
            let wrote = bounded("writing the origin", || writer.write(0, &[1; 4096]));
            assert!(matches!(wrote, Err(NbdError::Errno(_))), "{wrote:?}");
        });
        let part = then.sectors() / images.len() as u64;
        let reads = images.into_iter().zip((0..).step_by(usize::try_from(part).unwrap()));
        let reads: Vec<_> = reads
            .map(|(mut image, first)| {
                scope.spawn(move || bounded("an image", || right_or_refused(&mut image, then, first, 1)))
            })
            .collect();
        let refused: u64 = reads.into_iter().map(|read| read.join().unwrap().refused).sum();
        assert!(refused > 0, "nothing is refused without the server");
    });
}

#[test]
fn the_server_of_a_remote_disk_dies() {
    let mut random = seed();
    let server = Daemon::start();
    server.add_file("far", DISK);
    let daemon = Daemon::start();
    daemon.ok(&["device", "add", "disk", &server.uri("far")]);
    daemon.ok(&["device", "add", "near", "mem:1M"]);
    let (mut client, mut model) = filled(&daemon);
    let then = model.clone();
    for _ in 0..20 {
        model.write_somewhere(&mut client, &mut random, 256);
    }
    model.write(&mut client, 0, 8);
    then.check(&daemon.read_all("s/disk"), "I2");
    let (origins, images) =
        ([(); 2].map(|()| daemon.connect("disk")), [(); 8].map(|()| daemon.connect("s/disk")));
    let start = server.kill();
    without_its_server(&then, origins, images);
    // Nobody else notices.
    daemon.connect("near").write(0, &[2; 4096]).unwrap();
    bounded("a take of another", || daemon.ok(&["snapshot", "take", "near", "--name", "n"]));
    bounded("removing it", || daemon.ok(&["snapshot", "remove", "s"]));
    assert!(daemon.json(&["device", "show", "disk"])["io"]["errors"].as_u64() > Some(0));

    // All that was acknowledged is where it belongs.
    let server = start.start();
    let far = server.path("far.raw");
    server.ok(&["device", "add", "far", far.to_str().unwrap()]);
    model.check(&server.read_all("far"), "I1");
    drop(client);
    eventually("it can be removed", || {
        (daemon.bowline(&["device", "remove", "disk"]).code == 0).then_some(())
    });
    daemon.ok(&["device", "add", "disk", &server.uri("far")]);
    model.check(&daemon.read_all("disk"), "I1");
}

#[test]
fn what_is_made_up_would_be_reported() {
    let then = {
        let daemon = Daemon::start();
        daemon.add_file("disk", DISK);
        filled(&daemon).1
    };
    // As an image with zeroes where the file was cut.
    let zeroes = vec![0; usize::try_from(PIECE).unwrap()];
    let first = DISK / 2 / SECTOR as u64;
    assert_eq!(then.reports_from(first, &zeroes).len() as u64, PIECE / SECTOR as u64);
}

/// What a tracked device says has changed since an epoch: the list, or that a full read is needed.
fn known_since(daemon: &Daemon, epoch: u64, generation: &str) -> Option<Vec<Extent>> {
    let path = format!("/v1/devices/disk/changes?since={epoch}&generation={generation}");
    let (status, body) = daemon.api("GET", &path, &Value::Null);
    if status == 200 {
        return Some(extents(&body));
    }
    assert_eq!((status, &body["kind"]), (410, &"full-read-needed".into()), "{body}");
    None
}

/// Tracking is never silently continued: all that differs is in the list, or a full read is asked for (I4).
#[test]
fn a_tracked_device_shrinks_and_grows() {
    let mut random = seed();
    let daemon = Daemon::start();
    daemon.add_tracked("disk", DISK);
    let mut client = daemon.connect("disk");
    let mut model = Model::new(DISK);
    model.fill(&mut client);
    let mut check = |what: &str, change: &dyn Fn()| {
        let taken = daemon.call("POST", "/v1/snapshots", &json!({"devices": ["disk"], "name": "base"}));
        let part = &taken["devices"][0];
        let (epoch, generation) = (part["epoch"].as_u64().unwrap(), part["generation"].as_str().unwrap());
        let old = daemon.read_all("base/disk");
        daemon.ok(&["snapshot", "remove", "base"]);
        model.write_somewhere(&mut client, &mut random, 64);
        change();
        let new = daemon.read_all("disk");
        match known_since(&daemon, epoch, generation) {
            None => eprintln!("{what}: a full read is needed"),
            Some(list) => {
                eprintln!("{what}: {} extents", list.len());
                verify(&old[..new.len().min(old.len())], &list, &new)
                    .unwrap_or_else(|why| panic!("I4: {what}: {why}"));
            }
        }
    };
    let resize = |size: u64| daemon.ok(&["device", "resize", "disk", &size.to_string(), "--force"]);
    check("nothing", &|| {});
    check("grown", &|| drop(resize(2 * DISK)));
    check("as it was", &|| drop(resize(DISK)));
    // What was cut off comes back as zeroes, which nobody wrote.
    check("cut and grown again", &|| {
        resize(DISK / 2);
        resize(DISK);
    });
    // Afterwards it is tracked as ever.
    model = Model::new(DISK);
    model.fill(&mut daemon.connect("disk"));
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let written = model.write_somewhere(&mut daemon.connect("disk"), &mut seed(), 64);
    let listed = extents(&daemon.json(&["changes", "disk", "--since", "s"]));
    assert_eq!(listed, blocks_of(&[written], 4 * KIB));
}

/// The file is cut, a client meets that, and the file is made whole again: what was cut off is zeroes that nobody wrote.
/// Tracking had the same generation before, and a list without them.
#[test]
fn a_tracked_file_cut_and_made_whole_again_costs_the_generation() {
    for ask_at_once in [true, false] {
        let daemon = Daemon::start();
        let path = daemon.add_tracked("disk", DISK);
        let (mut client, _) = filled(&daemon);
        let shown = daemon.json(&["device", "show", "disk"]);
        let generation = shown["tracking"]["generation"].as_str().unwrap().to_owned();
        let epoch = daemon.json(&["snapshot", "show", "s"])["devices"][0]["epoch"].as_u64().unwrap();
        assert_eq!(known_since(&daemon, epoch, &generation), Some(Vec::new()));
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(DISK / 2).unwrap();
        assert!(matches!(client.read(DISK - PIECE, PIECE), Err(NbdError::Errno(EIO))));
        file.set_len(DISK).unwrap();
        assert_eq!(client.read(DISK - PIECE, PIECE).unwrap(), vec![0; usize::try_from(PIECE).unwrap()]);
        if ask_at_once {
            assert_eq!(known_since(&daemon, epoch, &generation), None, "I4");
        } else {
            // Nobody asks: a crash now must not find the old generation.
            eventually("the generation is another", || {
                let now = daemon.json(&["device", "show", "disk"]);
                (now["tracking"]["generation"].as_str() != Some(generation.as_str())).then_some(())
            });
        }
        assert_eq!(daemon.json(&["snapshot", "show", "s"])["state"], "failed", "I2");
        // From here on it is tracked as ever.
        daemon.ok(&["snapshot", "take", "disk", "--name", "t"]);
        client.write(0, &[1; 4096]).unwrap();
        assert_eq!(extents(&daemon.json(&["changes", "disk", "--since", "t"])), [(0, 4 * KIB)]);
    }
}

/// The same without a tracker: the history of the snapshots tells nothing, and their images make nothing up.
#[test]
fn an_untracked_file_cut_and_made_whole_again_costs_its_snapshots() {
    let daemon = Daemon::start();
    let path = daemon.add_file("disk", DISK);
    let (mut client, _) = filled(&daemon);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(DISK / 2).unwrap();
    assert!(matches!(client.read(DISK - PIECE, PIECE), Err(NbdError::Errno(EIO))));
    file.set_len(DISK).unwrap();
    let line = daemon.refused(&["changes", "disk", "--since", "s"]);
    assert!(line.contains("was seen to end at"), "I4: {line}");
    assert!(matches!(daemon.connect("s/disk").read(DISK - PIECE, PIECE), Err(NbdError::Errno(EIO))), "I2");
    daemon.ok(&["snapshot", "remove", "s"]);
}
