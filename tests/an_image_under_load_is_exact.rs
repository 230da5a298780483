//! I2: an image equals the disk at the instant of take, byte for byte, while writers never stop.
#![cfg(test)]

mod common;

use common::tools::first_difference;
use common::writer::Writers;
use common::{Daemon, MIB, file_bytes, run, tool};

const DISK: u64 = 16 * MIB;

fn writers(daemon: &Daemon, count: usize) -> Writers {
    Writers::start((0..count).map(|_| daemon.connect("disk")).collect())
}

#[test]
fn it_is_what_had_been_written_at_the_take_and_stays_so() {
    let daemon = Daemon::start();
    let disk = daemon.add_file("disk", DISK);
    let writers = writers(&daemon, 3);
    writers.let_write(200);
    let at_least = writers.acknowledged();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let at_most = writers.submitted();
    let first = daemon.read_all("s/disk");
    writers.let_write(500);
    let second = daemon.read_all("s/disk");
    let logs = writers.finish();
    let third = daemon.read_all("s/disk");

    assert_eq!(first_difference(&first, &second), None, "I2: the image changed under writes");
    assert_eq!(first_difference(&first, &third), None, "I2: the image changed");
    for ((log, at_least), at_most) in logs.iter().zip(at_least).zip(at_most) {
        log.prefix_of(&first, at_least, at_most).unwrap_or_else(|why| panic!("I2: {why}"));
    }
    // And the origin is what all of the writes made (I1).
    let origin = daemon.read_all("disk");
    for log in &logs {
        log.is_all_of(&origin).unwrap_or_else(|why| panic!("I1: {why}"));
    }
    daemon.connect("disk").flush().unwrap();
    assert_eq!(first_difference(&origin, &file_bytes(&disk)), None);
}

#[test]
fn nbdcopy_reads_the_same_image_twice_with_writes_between() {
    let Some(nbdcopy) = tool("nbdcopy") else { return };
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let writers = writers(&daemon, 2);
    writers.let_write(200);
    let at_least = writers.acknowledged();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let at_most = writers.submitted();
    let copies = [daemon.path("one.raw"), daemon.path("two.raw")];
    for copy in &copies {
        run(&nbdcopy, ["--connections=4", &daemon.uri("s/disk"), copy.to_str().unwrap()]);
        writers.let_write(300);
    }
    let logs = writers.finish();
    let (one, two) = (file_bytes(&copies[0]), file_bytes(&copies[1]));
    assert_eq!(first_difference(&one, &two), None, "I2: the two copies differ");
    for ((log, at_least), at_most) in logs.iter().zip(at_least).zip(at_most) {
        log.prefix_of(&one, at_least, at_most).unwrap_or_else(|why| panic!("I2: {why}"));
    }
}

#[test]
fn old_contents_may_go_to_a_file() {
    let daemon = Daemon::start();
    let (path, store) = (daemon.path("disk.raw"), daemon.path("s.diff"));
    let (path, store) = (path.to_str().unwrap(), store.to_str().unwrap());
    daemon.ok(&["device", "add", "disk", path, "--size", "16M"]);
    let writers = writers(&daemon, 2);
    writers.let_write(200);
    let at_least = writers.acknowledged();
    daemon
        .ok(&["snapshot", "take", "disk", "--name", "s", "--store", store, "--limit", "64M", "--step", "1M"]);
    let at_most = writers.submitted();
    writers.let_write(1500);
    let logs = writers.finish();
    let image = daemon.read_all("s/disk");
    for ((log, at_least), at_most) in logs.iter().zip(at_least).zip(at_most) {
        log.prefix_of(&image, at_least, at_most).unwrap_or_else(|why| panic!("I2: {why}"));
    }
    let shown = daemon.json(&["snapshot", "show", "s"]);
    assert_eq!((&shown["state"], &shown["store"]["kind"]), (&"active".into(), &"file".into()), "{shown}");
    assert!(shown["store"]["used"].as_u64().unwrap() > 0, "{shown}");
}
