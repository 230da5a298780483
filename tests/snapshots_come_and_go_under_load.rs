//! I2 and I6: several snapshots of one device at once, removed in any order, while writers never stop and see nothing
//! of it.
#![cfg(test)]

mod common;

use common::tools::first_difference;
use common::writer::{Random, Writers};
use common::{Daemon, MIB};

struct Taken {
    name: String,
    at_least: Vec<u64>,
    at_most: Vec<u64>,
}

fn take(daemon: &Daemon, writers: &Writers, name: String) -> Taken {
    let at_least = writers.acknowledged();
    daemon.ok(&["snapshot", "take", "disk", "--name", &name]);
    Taken { name, at_least, at_most: writers.submitted() }
}

/// The images of `kept`, read while the writers go on.
fn images(daemon: &Daemon, kept: &[Taken]) -> Vec<Vec<u8>> {
    kept.iter().map(|taken| daemon.read_all(&format!("{}/disk", taken.name))).collect()
}

#[test]
fn images_stay_exact_whichever_of_the_others_is_removed() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 8 * MIB);
    let writers = Writers::start(vec![daemon.connect("disk"), daemon.connect("disk")]);
    let mut kept = Vec::new();
    for number in 0..6 {
        writers.let_write(150);
        kept.push(take(&daemon, &writers, format!("s{number}")));
    }
    let mut before = images(&daemon, &kept);
    let mut read = Vec::new();
    // The middle, the oldest, the newest, …
    let mut random = Random(11);
    while !kept.is_empty() {
        let chosen = usize::try_from(random.below(kept.len() as u64)).unwrap();
        let removed = kept.remove(chosen);
        daemon.ok(&["snapshot", "remove", &removed.name]);
        read.push((removed, before.remove(chosen)));
        writers.let_write(60);
        for (taken, (old, now)) in kept.iter().zip(before.iter().zip(images(&daemon, &kept))) {
            let differ = first_difference(old, &now);
            assert_eq!(
                differ,
                None,
                "I2: image {} after {} was removed",
                taken.name,
                read.last().unwrap().0.name
            );
        }
    }
    let logs = writers.finish();
    for (taken, image) in &read {
        for (index, log) in logs.iter().enumerate() {
            log.prefix_of(image, taken.at_least[index], taken.at_most[index])
                .unwrap_or_else(|why| panic!("I2: image {}: {why}", taken.name));
        }
    }
    let origin = daemon.read_all("disk");
    for log in &logs {
        log.is_all_of(&origin).unwrap_or_else(|why| panic!("I6: {why}"));
    }
    let status = daemon.json(&["status"]);
    assert_eq!(
        status["limits"]["diff_storage_bytes"]["used"], 0,
        "I9: what was preserved is let go: {status}"
    );
}

#[test]
fn many_takes_and_removals_lose_no_write() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 8 * MIB);
    let writers = Writers::start((0..3).map(|_| daemon.connect("disk")).collect());
    for round in 0..30 {
        daemon.ok(&["snapshot", "take", "disk", "--name", &format!("s{round}")]);
        writers.let_write(5);
        if round > 1 {
            daemon.ok(&["snapshot", "remove", &format!("s{}", round - 2)]);
        }
    }
    let logs = writers.finish();
    let origin = daemon.read_all("disk");
    for log in &logs {
        log.is_all_of(&origin).unwrap_or_else(|why| panic!("I6: {why}"));
    }
    let shown = daemon.json(&["device", "show", "disk"]);
    assert_eq!(shown["io"]["errors"], 0, "{shown}");
}

#[test]
fn a_reader_of_an_image_that_is_removed_gets_an_answer() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 8 * MIB);
    daemon.connect("disk").write(0, &[9; 4096]).unwrap();
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let mut reader = daemon.connect("s/disk");
    let reading = std::thread::spawn(move || {
        // Bounded: it ends with the image. A time-out of the client would be a hang of the server.
        (0..1_000_000).find_map(|_| reader.read(0, 4096).err()).expect("the image is gone")
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    daemon.ok(&["snapshot", "remove", "s"]);
    match reading.join().unwrap() {
        common::NbdError::Errno(_) => {}
        common::NbdError::Lost(error) => {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the server hangs");
        }
    }
    daemon.connect("disk").write(0, &[8; 4096]).unwrap();
}
