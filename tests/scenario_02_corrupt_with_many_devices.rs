//! Scenario 2: three devices of one snapshot, and writers that never stop. In the images the writes form a consistent
//! cut (I3), each image is some beginning of what each writer wrote and stays so (I2), and no writer notices (I6). In
//! the end garbage in an image must give as many reports as it has sectors.
#![cfg(test)]

mod common;

use common::cut::{Cut, InTurn, sequences, violation};
use common::oracle::{Damage, SECTOR, damaged};
use common::prefix::Log;
use common::tools::first_difference;
use common::writer::Writers;
use common::{Daemon, MIB};

const DEVICES: [&str; 3] = ["a", "b", "c"];
const DISK: u64 = 4 * MIB;
/// Writers that go over all devices in turn: theirs are the first sectors of each.
const IN_TURN: u64 = 2;
const ROUNDS: u64 = 10;

/// The images of a take, and where each device's writers were around it.
struct Taken {
    images: Vec<Vec<u8>>,
    at_least: Vec<Vec<u64>>,
    at_most: Vec<Vec<u64>>,
}

impl Taken {
    /// Whether every image is a beginning of what each of the device's writers wrote.
    fn check(&self, logs: &[Vec<Log>], round: usize) {
        for (device, logs) in logs.iter().enumerate() {
            for (writer, log) in logs.iter().enumerate() {
                let (least, most) = (self.at_least[device][writer], self.at_most[device][writer]);
                log.prefix_of(&self.images[device], least, most)
                    .unwrap_or_else(|why| panic!("I2: round {round}, device {device}: {why}"));
            }
        }
    }
}

fn images(daemon: &Daemon) -> Vec<Vec<u8>> {
    DEVICES.iter().map(|name| daemon.read_all(&format!("s/{name}"))).collect()
}

#[test]
fn ten_rounds_under_writers_that_never_stop() {
    let daemon = Daemon::start();
    let mut writers = Vec::new();
    let base = InTurn::sectors(IN_TURN);
    for name in DEVICES {
        daemon.add_file(name, DISK);
        writers.push(Writers::start_from(base, vec![daemon.connect(name)]));
    }
    let in_turn = InTurn::start(&daemon, &DEVICES, IN_TURN, 0);
    let (mut cuts, mut rounds) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        in_turn.let_write(60);
        let at_least = writers.iter().map(Writers::acknowledged).collect();
        let began = in_turn.now();
        daemon.ok(&["snapshot", "take", "c", "a", "b", "--name", "s"]);
        let ended = in_turn.now();
        let at_most = writers.iter().map(Writers::submitted).collect();
        let first = images(&daemon);
        in_turn.let_write(60);
        for (device, (first, second)) in first.iter().zip(images(&daemon)).enumerate() {
            let differ = first_difference(first, &second);
            assert_eq!(differ, None, "I2: round {round}: the image of device {device} changed");
        }
        daemon.ok(&["snapshot", "remove", "s"]);
        cuts.push(Cut { images: first.iter().map(|image| sequences(image)).collect(), began, ended });
        rounds.push(Taken { images: first, at_least, at_most });
    }
    let lists = in_turn.finish();
    let logs: Vec<Vec<Log>> = writers.into_iter().map(Writers::finish).collect();
    assert!(lists.iter().all(|list| list.len() > 200), "hardly any load");
    for (round, (cut, taken)) in cuts.iter().zip(&rounds).enumerate() {
        assert_eq!(violation(&lists, cut), None, "I3: round {round}");
        taken.check(&logs, round);
    }
    for (name, logs) in DEVICES.iter().zip(&logs) {
        let origin = daemon.read_all(name);
        for log in logs {
            log.is_all_of(&origin).unwrap_or_else(|why| panic!("I6: device {name}: {why}"));
        }
        assert_eq!(daemon.json(&["device", "show", name])["io"]["errors"], 0);
    }
    garbage_is_noticed(&daemon);
}

/// Garbage at the first, the middle and the last sector: three reports, no more and no fewer.
fn garbage_is_noticed(daemon: &Daemon) {
    daemon.ok(&["snapshot", "take", "a", "b", "c", "--name", "s"]);
    let last = DISK / SECTOR as u64 - 1;
    let planted = [0, last / 2, last];
    for name in DEVICES {
        assert_eq!(damaged(&daemon.read_all(&format!("s/{name}"))), []);
        let mut image = daemon.connect(&format!("s/{name}"));
        for sector in planted {
            image.write(sector * SECTOR as u64, &[0xa5; SECTOR]).unwrap();
        }
        let found = damaged(&daemon.read_all(&format!("s/{name}")));
        assert_eq!(found, planted.map(|sector| (sector, Damage::Tag)), "image of {name}");
        assert_eq!(damaged(&daemon.read_all(name)), [], "I1: {name}");
    }
}
