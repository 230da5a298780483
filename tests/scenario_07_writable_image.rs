//! Scenario 7, writable images: origin and image are written at once, at odd places and in odd lengths, and both are
//! right after reopening; what was written to the image is in the next increment, for whoever goes on from the image
//! would miss it (I2, I4); and nothing of it ever reaches the origin (I1).
#![cfg(test)]

mod common;

use common::changes::{Extent, extents, missed};
use common::model::{Model, Report, Why, seed};
use common::nbd::{FUA, WRITE};
use common::oracle::{Damage, SECTOR};
use common::writer::Random;
use common::{Daemon, KIB, MIB, Nbd, NbdError};

/// The last block of 4 KiB is short.
const DISK: u64 = 8 * MIB + 3 * SECTOR as u64;
const AT_2_MIB: u64 = 2 * MIB / SECTOR as u64;
const AT_4_MIB: u64 = 4 * MIB / SECTOR as u64;
/// 126 KiB: no multiple of what is preserved at once.
const ODD: u64 = 126 * KIB / SECTOR as u64;

struct Pair {
    daemon: Daemon,
    origin: Model,
    image: Model,
    /// Of an older snapshot, whose image nobody writes to.
    before: Model,
}

impl Pair {
    fn new(store: &[&str]) -> Self {
        let daemon = Daemon::start();
        daemon.add_tracked("disk", DISK);
        let mut origin = Model::new(DISK);
        origin.fill(&mut daemon.connect("disk"));
        daemon.ok(&["snapshot", "take", "disk", "--name", "before"]);
        daemon.ok(&[&["snapshot", "take", "disk", "--name", "s"], store].concat());
        let before = origin.clone();
        let image = origin.clone().of_writer(2);
        Pair { daemon, origin, image, before }
    }

    fn connect_both(&self) -> (Nbd, Nbd) {
        (self.daemon.connect("disk"), self.daemon.connect("s/disk"))
    }

    /// Over connections of its own: what only one client sees is not written.
    fn check(&self, when: &str) {
        self.origin.check(&self.daemon.read_all("disk"), &format!("I1: the origin {when}"));
        self.image.check(&self.daemon.read_all("s/disk"), &format!("I2: the image {when}"));
        self.before.check(&self.daemon.read_all("before/disk"), &format!("I2: another image {when}"));
        assert_eq!(self.daemon.json(&["snapshot", "show", "s"])["state"], "active");
    }
}

/// Writes, zeroings and discards of anything from one sector to 200.
fn write_much(model: &mut Model, disk: &mut Nbd, mut random: Random, times: u64) -> Vec<Extent> {
    let mut touched = Vec::new();
    for _ in 0..times {
        touched.push(match random.below(8) {
            0 | 1 => {
                let count = 1 + random.below(64);
                let first = random.below(model.sectors() - count);
                model.zero(disk, first, count, random.below(2) == 0)
            }
            _ => model.write_somewhere(disk, &mut random, 200),
        });
    }
    touched
}

/// Both at once, round by round; gives what was written to the image.
fn concurrently(pair: &mut Pair, random: &mut Random, rounds: u64) -> Vec<Extent> {
    let mut written = Vec::new();
    for round in 0..rounds {
        let seeds = [random.below(u64::MAX) | 1, random.below(u64::MAX) | 1];
        let (mut disk, mut image) = pair.connect_both();
        let Pair { origin, image: of_image, .. } = pair;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_much(origin, &mut disk, Random(seeds[0]), 60));
            written.extend(write_much(of_image, &mut image, Random(seeds[1]), 60));
            writer.join().unwrap();
        });
        image.flush().unwrap();
        drop((disk, image));
        pair.check(&format!("after round {round}"));
    }
    written
}

#[test]
fn both_are_written_at_once_in_memory() {
    let mut random = seed();
    let mut pair = Pair::new(&[]);
    concurrently(&mut pair, &mut random, 4);
    pair.daemon.ok(&["snapshot", "remove", "s"]);
    pair.origin.check(&pair.daemon.read_all("disk"), "I1: after the snapshot is gone");
}

#[test]
fn both_are_written_at_once_in_a_file() {
    let mut random = seed();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s.diff");
    let mut pair = Pair::new(&["--store", store.to_str().unwrap(), "--step", "1M", "--limit", "128M"]);
    concurrently(&mut pair, &mut random, 3);
    pair.daemon.ok(&["snapshot", "remove", "s"]);
    pair.origin.check(&pair.daemon.read_all("disk"), "I1: after the snapshot is gone");
}

#[test]
fn odd_lengths_at_odd_places() {
    let mut pair = Pair::new(&[]);
    let (mut disk, mut image) = pair.connect_both();
    // Whether the image or the origin is written first, and whether both are at the same place.
    for at in [AT_2_MIB, AT_4_MIB, AT_2_MIB + 1, AT_4_MIB - 3, 0, pair.image.sectors() - ODD] {
        pair.image.write(&mut image, at, ODD);
        pair.origin.write(&mut disk, 0, ODD);
        pair.origin.write(&mut disk, at, 5);
        pair.image.write(&mut image, at + 2, 1);
    }
    pair.check("after odd writes");
    let (offset, bytes) = pair.image.next_write(77, 3);
    image.request(WRITE, FUA, (offset, bytes.len() as u64), &bytes, 0).unwrap();
    drop((disk, image));
    pair.check("after a write with FUA");
}

#[test]
fn what_is_written_to_an_image_is_in_the_next_increment() {
    let mut random = seed();
    let mut pair = Pair::new(&[]);
    let mut image = pair.daemon.connect("s/disk");
    let written: Vec<Extent> =
        (0..10).map(|_| pair.image.write_somewhere(&mut image, &mut random, 16)).collect();
    pair.daemon.ok(&["snapshot", "take", "disk", "--name", "t"]);
    for args in
        [&["changes", "disk", "--since", "s", "--until", "t"][..], &["changes", "t/disk", "--since", "s"]]
    {
        let listed = extents(&pair.daemon.json(args));
        assert_eq!(missed(&written, &listed), [], "I4: {args:?}");
        // The checker: without its first extent the list would be refused.
        assert!(!missed(&written, &listed[1..]).is_empty());
    }
}

#[test]
fn garbage_in_an_image_gives_exactly_three_reports() {
    let pair = Pair::new(&[]);
    let last = pair.image.sectors() - 1;
    let planted = [0, last / 2, last];
    let mut image = pair.daemon.connect("s/disk");
    for sector in planted {
        image.write(sector * SECTOR as u64, &[0x5a; SECTOR]).unwrap();
    }
    let reports = pair.image.reports(&pair.daemon.read_all("s/disk"));
    assert_eq!(reports, planted.map(|sector| Report { sector, why: Why::Damaged(Damage::Tag) }));
    pair.origin.check(&pair.daemon.read_all("disk"), "I1");
    // A write that went to the wrong side would be reported there.
    let reports = pair.before.reports(&pair.daemon.read_all("s/disk"));
    assert_eq!(reports.len(), 3);
}

#[test]
fn an_image_can_be_exported_for_reading_only() {
    let pair = Pair::new(&[]);
    let socket = pair.daemon.path("ro.sock");
    let address = format!("unix:{}", socket.display());
    pair.daemon.ok(&["export", "add", "s/disk", "--nbd", &address, "--read-only"]);
    let mut reader = Nbd::connect_unix(&socket, "s/disk").unwrap();
    let refused = reader.write(0, &[1; 512]);
    assert!(matches!(refused, Err(NbdError::Errno(1))), "{refused:?}");
    reader.read(0, 512).unwrap();
    pair.check("after a refused write");
}
