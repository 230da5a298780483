//! Scenario 8: a snapshot is removed while its image is read or written and its origin written, an export is detached while it is
//! used, and the daemon is killed. Every call returns, in a bounded time, with data or a clear error; storage is given
//! back; the origin is right (I1, I2, I6, I7, I9).
#![cfg(test)]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::model::seed;
use common::oracle::filled;
use common::prefix::Log;
use common::tools::{eventually, first_difference, part};
use common::writer::{Random, Writers};
use common::{Daemon, MIB, Nbd, NbdError, file_bytes};

const DISK: u64 = 8 * MIB;
/// What no removal, and no reader after it, may take longer than. Far above what it takes on a busy machine, and below
/// every timeout of a client.
const BOUND: Duration = Duration::from_secs(10);

/// How a reader or writer of an image ended.
struct Ended {
    at: Instant,
    error: NbdError,
    calls: u64,
}

/// Reads anywhere in the image until that fails; all that comes must be what the image held at its take.
fn read_on(mut image: Nbd, expected: Arc<Vec<u8>>, mut random: Random) -> JoinHandle<Ended> {
    std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut reads = 0;
        while Instant::now() < deadline {
            let sectors = 1 + random.below(64);
            let offset = random.below(DISK / 512 - sectors) * 512;
            match image.read(offset, sectors * 512) {
                Ok(bytes) => {
                    assert!(bytes == part(&expected, offset, sectors * 512), "I2: the image at {offset}");
                }
                Err(error) => return Ended { at: Instant::now(), error, calls: reads },
            }
            reads += 1;
        }
        panic!("nothing ended this reader");
    })
}

/// A time-out of the client would be a hang of the daemon.
fn is_clear(error: &NbdError) {
    if let NbdError::Lost(error) = error {
        let hangs = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!hangs, "the daemon hangs: {error}");
    }
}

fn readers(daemon: &Daemon, image: &str, count: u64, random: &mut Random) -> Vec<JoinHandle<Ended>> {
    let expected = Arc::new(daemon.read_all(image));
    (0..count)
        .map(|_| read_on(daemon.connect(image), expected.clone(), Random(random.below(u64::MAX - 1) | 1)))
        .collect()
}

/// Writes anywhere in an image until that fails.
fn write_on(mut image: Nbd, mut random: Random) -> JoinHandle<Ended> {
    std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut writes = 0;
        while Instant::now() < deadline {
            let first = random.below(DISK / 512 - 16);
            if let Err(error) = image.write(first * 512, &filled(first, 16, 77, writes + 1)) {
                return Ended { at: Instant::now(), error, calls: writes };
            }
            writes += 1;
        }
        panic!("nothing ended this writer");
    })
}

fn all_of(logs: &[Log], disk: &[u8]) {
    for log in logs {
        log.is_all_of(disk).unwrap_or_else(|why| panic!("I6: {why}"));
    }
}

#[test]
fn snapshots_are_removed_under_readers_and_writers() {
    let mut random = seed();
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start();
    let path = daemon.add_file("disk", DISK);
    let writers = Writers::start((0..2).map(|_| daemon.connect("disk")).collect());
    writers.let_write(100);
    for round in 0..6 {
        let name = format!("s{round}");
        let store = folder.path().join(&name);
        let mut take = vec!["snapshot", "take", "disk", "--name", &name, "--limit", "64M"];
        if round % 2 == 0 {
            take.extend(["--store", store.to_str().unwrap(), "--step", "1M"]);
        }
        daemon.ok(&take);
        // Either the image is as it was at its take, or somebody writes to it.
        let users = if round % 3 == 2 {
            let random = Random(random.below(u64::MAX - 1) | 1);
            vec![write_on(daemon.connect(&format!("{name}/disk")), random)]
        } else {
            readers(&daemon, &format!("{name}/disk"), 3, &mut random)
        };
        writers.let_write(60);
        let begun = Instant::now();
        daemon.ok(&["snapshot", "remove", &name]);
        let gone = Instant::now();
        assert!(gone - begun < BOUND, "the removal took {:?}", gone - begun);
        for user in users {
            let ended = user.join().unwrap();
            is_clear(&ended.error);
            assert!(ended.at < gone + BOUND, "it went on for {:?}", ended.at - gone);
            assert!(ended.calls > 0, "no load");
        }
        eventually("its storage is given back", || {
            let used = &daemon.json(&["status"])["limits"]["diff_storage_bytes"]["used"];
            (!store.exists() && *used == 0).then_some(())
        });
        writers.let_write(20);
    }
    let logs = writers.finish();
    let origin = daemon.read_all("disk");
    all_of(&logs, &origin);
    daemon.connect("disk").flush().unwrap();
    assert_eq!(first_difference(&origin, &file_bytes(&path)), None, "I7");
    assert_eq!(daemon.json(&["device", "show", "disk"])["io"]["errors"], 0);
}

#[test]
fn an_export_is_detached_under_a_writer() {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let socket = daemon.path("extra.sock");
    let address = format!("unix:{}", socket.display());
    let writers = Writers::start_from(DISK / 2 / 512, vec![daemon.connect("disk")]);
    daemon.ok(&["export", "add", "disk", "--nbd", &address]);
    let id = daemon
        .json(&["export", "list"])
        .as_array()
        .unwrap()
        .iter()
        .find(|export| export["uri"].as_str().unwrap().contains("extra.sock"))
        .map(|export| export["id"].as_str().map_or_else(|| export["id"].to_string(), str::to_owned))
        .unwrap();
    // In the lower half, which the other writer leaves alone.
    let mut cut_off = Nbd::connect_unix(&socket, "disk").unwrap();
    cut_off.size = DISK / 2;
    let cut_off = Writers::start(vec![cut_off]);
    cut_off.let_write(50);
    let begun = Instant::now();
    daemon.ok(&["export", "remove", &id]);
    assert!(begun.elapsed() < BOUND, "it took {:?}", begun.elapsed());
    writers.let_write(30);
    let ended = cut_off.end().remove(0);
    is_clear(&ended.error.expect("the writer was cut off"));
    let logs = writers.finish();
    let origin = daemon.read_all("disk");
    all_of(&logs, &origin);
    ended.log.survives_in(&origin, ended.acknowledged).unwrap_or_else(|why| panic!("I7: {why}"));
}

#[test]
fn a_device_that_is_in_use_is_not_removed() {
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let writers = Writers::start(vec![daemon.connect("disk")]);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let image = daemon.connect("s/disk");
    for _ in 0..5 {
        let line = daemon.refused(&["device", "remove", "disk"]);
        assert!(line.contains("disk"), "{line}");
        writers.let_write(20);
    }
    daemon.ok(&["snapshot", "remove", "s"]);
    drop(image);
    daemon.refused(&["device", "remove", "disk"]);
    let logs = writers.finish();
    all_of(&logs, &daemon.read_all("disk"));
    eventually("nobody uses it", || (daemon.bowline(&["device", "remove", "disk"]).code == 0).then_some(()));
}

#[test]
fn the_daemon_is_killed_and_the_origin_is_right() {
    let mut random = seed();
    let daemon = Daemon::start();
    let path = daemon.add_file("disk", DISK);
    let writers = Writers::start((0..3).map(|_| daemon.connect("disk")).collect());
    writers.let_write(80);
    let store = daemon.path("s.diff");
    let store = ["--store", store.to_str().unwrap(), "--step", "1M"];
    daemon.ok(&[&["snapshot", "take", "disk", "--name", "s"], &store[..]].concat());
    daemon.ok(&["snapshot", "take", "disk", "--name", "t"]);
    let readers = readers(&daemon, "s/disk", 2, &mut random);
    writers.let_write(80);
    let start = daemon.kill();
    let ended = writers.end();
    for reader in readers {
        is_clear(&reader.join().unwrap().error);
    }
    let file = file_bytes(&path);
    for written in &ended {
        is_clear(written.error.as_ref().expect("the daemon was killed"));
        written.log.survives_in(&file, written.acknowledged).unwrap_or_else(|why| panic!("I1: {why}"));
        // The checker: without its last write it would not be right.
        let last = written.log.ops[usize::try_from(written.acknowledged).unwrap() - 1];
        let mut lost = file.clone();
        let at = usize::try_from(last.first).unwrap() * 512;
        lost[at] ^= 0x55;
        assert!(written.log.survives_in(&lost, written.acknowledged).is_err());
    }
    let daemon = start.start();
    daemon.ok(&["device", "add", "again", path.to_str().unwrap()]);
    assert_eq!(first_difference(&daemon.read_all("again"), &file), None, "I1");
    daemon.ok(&["snapshot", "take", "again", "--name", "s"]);
}
