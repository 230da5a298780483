//! I3: for all devices of a snapshot, a write that is in an image brings every write with it that was acknowledged
//! before it was submitted, on whichever device.
//!
//! Writers never stop. Each goes over all devices in turn. One clock counts: a write notes its reading before it is
//! submitted and after it is acknowledged.
#![cfg(test)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::oracle::{Found, SECTOR, filled, judge};
use common::{Daemon, MIB, Nbd};

const DEVICES: [&str; 4] = ["a", "b", "c", "d"];
const WRITERS: u64 = 3;
/// Sectors that a writer goes round in on each device: few, so that most writes preserve something.
const SLOTS: u64 = 64;

/// One write: its sequence is its place in its writer's list, from 1.
#[derive(Clone, Copy)]
struct Write {
    device: usize,
    sector: u64,
    submitted: u64,
    /// `u64::MAX`: not in this life.
    acknowledged: u64,
}

struct Cut {
    /// What each device's image holds, by sector.
    images: Vec<Vec<u64>>,
    /// Readings of the clock around the take.
    began: u64,
    ended: u64,
}

fn write_on(id: u64, mut disks: Vec<Nbd>, clock: &AtomicU64, stop: &AtomicBool) -> Vec<Write> {
    let mut writes = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !stop.load(Ordering::SeqCst) && Instant::now() < deadline {
        let turn = writes.len() as u64;
        let device = usize::try_from(turn % 4).unwrap();
        // Eight sectors apart: each in a block of its own.
        let sector = (id * SLOTS + turn / 4 % SLOTS) * 8;
        let bytes = filled(sector, 1, u32::try_from(id).unwrap(), turn + 1);
        let submitted = clock.fetch_add(1, Ordering::SeqCst);
        disks[device].write(sector * SECTOR as u64, &bytes).unwrap_or_else(|error| panic!("I6: {error}"));
        let acknowledged = clock.fetch_add(1, Ordering::SeqCst);
        writes.push(Write { device, sector, submitted, acknowledged });
    }
    writes
}

/// The first write that should be in the images and is not, or the other way round.
fn violation(writers: &[Vec<Write>], cut: &Cut) -> Option<String> {
    let held = |write: &Write| cut.images[write.device][usize::try_from(write.sector).unwrap()];
    let all = || {
        let numbered = |(id, list): (usize, &Vec<Write>)| {
            (1..).zip(list.clone()).map(move |(sequence, write)| (id, sequence, write))
        };
        writers.iter().enumerate().flat_map(numbered).collect::<Vec<(usize, u64, Write)>>()
    };
    // The newest moment that any image shows.
    let newest =
        all().iter().filter(|(_, seq, write)| held(write) == *seq).map(|(_, _, write)| write.submitted).max();
    let due = newest.unwrap_or(0).max(cut.began);
    for (id, sequence, write) in all() {
        if write.acknowledged < due && held(&write) < sequence {
            return Some(format!(
                "write {sequence} of writer {id} is missing on device {}",
                DEVICES[write.device]
            ));
        }
        if write.submitted > cut.ended && held(&write) == sequence {
            return Some(format!("write {sequence} of writer {id} came after the take"));
        }
    }
    None
}

/// The sequence in each sector of an image.
fn sequences(image: &[u8]) -> Vec<u64> {
    let sound = |(number, sector): (u64, &[u8])| match judge(sector, number) {
        Ok(Found::Zero) => 0,
        Ok(Found::Written(stamp)) => stamp.sequence,
        Err(damage) => panic!("I2: sector {number}: {damage:?}"),
    };
    (0..).zip(image.chunks(SECTOR)).map(sound).collect()
}

fn start(daemon: &Daemon, clock: &Arc<AtomicU64>, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Vec<Write>>> {
    let one = |id| {
        let disks = DEVICES.map(|name| daemon.connect(name)).into();
        let (clock, stop) = (clock.clone(), stop.clone());
        std::thread::spawn(move || write_on(id, disks, &clock, &stop))
    };
    (0..WRITERS).map(one).collect()
}

#[test]
fn its_images_are_a_consistent_cut() {
    let daemon = Daemon::start();
    for name in DEVICES {
        daemon.add_file(name, MIB);
    }
    let (clock, stop) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
    let writers = start(&daemon, &clock, &stop);
    let mut cuts = Vec::new();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(60));
        let began = clock.fetch_add(1, Ordering::SeqCst);
        daemon.ok(&["snapshot", "take", "d", "b", "a", "c", "--name", "s"]);
        let ended = clock.fetch_add(1, Ordering::SeqCst);
        let images = DEVICES.map(|name| sequences(&daemon.read_all(&format!("s/{name}")))).into();
        daemon.ok(&["snapshot", "remove", "s"]);
        cuts.push(Cut { images, began, ended });
    }
    stop.store(true, Ordering::SeqCst);
    let lists: Vec<Vec<Write>> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
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
    assert!(torn.contains("write 4 of writer 0 is missing on device d"), "{torn}");
    // Older than what was acknowledged before the take.
    assert!(violation(&lists, &cut([1, 2, 3, 0, 0, 0, 0, 0], 9, 10)).is_some());
    // A write of after the take shows.
    assert!(violation(&lists, &cut([1, 2, 3, 4, 5, 6, 7, 0], 7, 9)).unwrap().contains("came after"));
}
