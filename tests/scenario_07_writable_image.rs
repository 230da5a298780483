//! Scenario 7, a writable image: writers on the image and on the origin at once, large and unaligned requests, several
//! rounds; both are right after reopening (I2), and what was written to the image shows as changed (I4). A read-only
//! export of the same image refuses to be written to.
#![cfg(test)]

mod common;

use common::model::{Model, seed};
use common::oracle::SECTOR;
use common::writer::Random;
use common::{Daemon, KIB, MIB};

const BYTES: u64 = 16 * MIB + 3 * SECTOR as u64;

fn sectors(bytes: u64) -> u64 {
    bytes / SECTOR as u64
}

/// Large pieces at odd places, then small ones anywhere: about 10 MiB in all.
fn writes(random: &mut Random, model: &Model) -> Vec<(u64, u64)> {
    let large = [2 * MIB, 4 * MIB, 2 * MIB + 33 * KIB + 512, 8 * MIB - 1536]
        .map(|at| (sectors(at), sectors(126 * KIB)));
    let mut all = large.to_vec();
    for _ in 0..150 {
        let count = 1 + random.below(256);
        all.push((random.below(model.sectors() - count), count));
    }
    all
}

#[test]
fn an_image_takes_writes_while_its_origin_does() {
    let daemon = Daemon::start();
    let path = daemon.path("disk.raw");
    daemon.ok(&["device", "add", "disk", path.to_str().unwrap(), "--size", &BYTES.to_string()]);
    let mut random = seed();
    let mut origin = Model::new(BYTES);
    origin.fill(&mut daemon.connect("disk"));
    daemon.ok(&["snapshot", "take", "disk", "--name", "before"]);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let mut image = origin.clone().numbered_from(1 << 32);
    let untouched = origin.clone();
    for round in 0..3 {
        let (of_origin, of_image) = (writes(&mut random, &origin), writes(&mut random, &image));
        std::thread::scope(|scope| {
            let daemon = &daemon;
            let image = &mut image;
            scope.spawn(move || {
                let mut nbd = daemon.connect("s/disk");
                of_image.iter().for_each(|&(first, count)| drop(image.write(&mut nbd, first, count)));
                nbd.flush().unwrap();
            });
            let mut nbd = daemon.connect("disk");
            of_origin.iter().for_each(|&(first, count)| drop(origin.write(&mut nbd, first, count)));
        });
        // Over connections of their own: what was acknowledged is there, whoever asks.
        image.check(&daemon.read_all("s/disk"), &format!("I2: the image after round {round}"));
        origin.check(&daemon.read_all("disk"), &format!("I1: the origin after round {round}"));
        untouched.check(&daemon.read_all("before/disk"), "I2: another snapshot's image");
    }
    let changed = daemon.json(&["changes", "s/disk", "--since", "before"]);
    let extents: Vec<(u64, u64)> = changed["extents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|extent| (extent["offset"].as_u64().unwrap(), extent["length"].as_u64().unwrap()))
        .collect();
    let (now, then) = (daemon.read_all("s/disk"), daemon.read_all("before/disk"));
    for (number, (now, then)) in now.chunks(SECTOR).zip(then.chunks(SECTOR)).enumerate() {
        let at = number as u64 * SECTOR as u64;
        let told = extents.iter().any(|&(offset, length)| offset <= at && at < offset + length);
        assert!(told || now == then, "I4: sector {number} of the image was written to and is not told");
    }
    daemon.ok(&["snapshot", "remove", "s"]);
    daemon.ok(&["snapshot", "remove", "before"]);
    origin.check(&daemon.read_all("disk"), "I1: the origin in the end");
}

#[test]
fn a_write_that_went_to_the_wrong_side_would_be_reported() {
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    let mut model = Model::new(MIB);
    model.fill(&mut daemon.connect("disk"));
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let image = model.clone();
    model.write(&mut daemon.connect("s/disk"), 9, 3);
    let wrong = std::panic::catch_unwind(|| image.check(&daemon.read_all("s/disk"), "the image"));
    assert!(wrong.is_err(), "the checker must notice sectors that the model does not have");
    model.check(&daemon.read_all("s/disk"), "I2: the image has what was written to it");
    image.check(&daemon.read_all("disk"), "I1: the origin has not");
}
