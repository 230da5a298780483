//! I3: for all devices of a snapshot, a write that is in an image brings every write with it that was acknowledged
//! before it was submitted, on whichever device.
#![cfg(test)]

mod common;

use std::time::Duration;

use common::cut::{Cut, InTurn, Write, sequences, violation};
use common::{Daemon, MIB};

const DEVICES: [&str; 4] = ["a", "b", "c", "d"];
const WRITERS: u64 = 3;

#[test]
fn its_images_are_a_consistent_cut() {
    let daemon = Daemon::start();
    for name in DEVICES {
        daemon.add_file(name, MIB);
    }
    let writers = InTurn::start(&daemon, &DEVICES, WRITERS, 0);
    let mut cuts = Vec::new();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(60));
        let began = writers.now();
        daemon.ok(&["snapshot", "take", "d", "b", "a", "c", "--name", "s"]);
        let ended = writers.now();
        let images = DEVICES.map(|name| sequences(&daemon.read_all(&format!("s/{name}")))).into();
        daemon.ok(&["snapshot", "remove", "s"]);
        cuts.push(Cut { images, began, ended });
    }
    let lists = writers.finish();
    assert!(lists.iter().all(|list| list.len() > 200), "hardly any load");
    for (number, cut) in cuts.iter().enumerate() {
        assert_eq!(violation(&lists, cut), None, "I3: cut {number}");
    }
}

#[test]
fn a_cut_that_is_none_would_be_seen() {
    // One writer, writes 1 to 8 in turn over the four devices, nothing concurrent.
    let list: Vec<Write> = (0..8)
        .map(|n| Write {
            device: n % 4,
            sector: n as u64 / 4 * 8,
            submitted: n as u64 * 2,
            acknowledged: n as u64 * 2 + 1,
        })
        .collect();
    let images = |held: [u64; 8]| {
        let mut images = vec![vec![0; 16]; 4];
        for (n, sequence) in held.into_iter().enumerate() {
            images[n % 4][n / 4 * 8] = sequence;
        }
        images
    };
    let cut = |held, began, ended| Cut { images: images(held), began, ended };
    let lists = [list];
    assert_eq!(violation(&lists, &cut([1, 2, 3, 4, 5, 0, 0, 0], 7, 10)), None);
    // Device a was frozen later than device d.
    let torn = violation(&lists, &cut([1, 2, 3, 0, 5, 0, 0, 0], 5, 10)).unwrap();
    assert!(torn.contains("write 4 of writer 0 is missing on device 3"), "{torn}");
    // Older than what was acknowledged before the take.
    assert!(violation(&lists, &cut([1, 2, 3, 0, 0, 0, 0, 0], 9, 10)).is_some());
    // A write of after the take shows.
    assert!(violation(&lists, &cut([1, 2, 3, 4, 5, 6, 7, 0], 7, 9)).unwrap().contains("came after"));
}
