//! Scenario 1, the corrupt loop: again and again a take, a full check of the image, writes at chunk borders and
//! everywhere, another full check, and the list of changes must name every block that was written (I2, I4).
#![cfg(test)]

mod common;

use common::changes::{Extent, blocks_of, extents, missed, verifier_notices, verify};
use common::model::{Model, Report, Why, ZERO, seed};
use common::oracle::{Damage, SECTOR};
use common::{Daemon, KIB, MIB};

const DISK: u64 = 8 * MIB;
const ROUNDS: u64 = 20;
/// What other systems copy at once, so that borders are where mistakes have been seen.
const CHUNK_SECTORS: u64 = 256 * KIB / SECTOR as u64;
const BLOCK: u64 = 4 * KIB;

fn take(daemon: &Daemon, round: u64) -> String {
    let name = format!("s{round}");
    daemon.ok(&["snapshot", "take", "disk", "--name", &name]);
    name
}

#[test]
fn twenty_rounds() {
    let mut random = seed();
    let daemon = Daemon::start();
    daemon.add_file("disk", DISK);
    let mut client = daemon.connect("disk");
    let mut model = Model::new(DISK);
    model.fill(&mut client);
    let mut before = take(&daemon, 0);
    let mut image_before = daemon.read_all("s0/disk");
    model.check(&image_before, "I2: s0 at its take");
    let mut written: Vec<Extent> = Vec::new();
    for round in 1..=ROUNDS {
        let held = model.clone();
        written.push(model.write(&mut client, 0, 1));
        written.push(model.write(&mut client, 2 * CHUNK_SECTORS, 2));
        written.push(model.write(&mut client, 3 * CHUNK_SECTORS, 3));
        for _ in 0..8 {
            written.push(model.write_somewhere(&mut client, &mut random, 1024));
        }
        held.check(&daemon.read_all(&format!("{before}/disk")), &format!("I2: {before} after writes"));

        let now = take(&daemon, round);
        let image = daemon.read_all(&format!("{now}/disk"));
        model.check(&image, &format!("I2: {now} at its take"));
        let listed = extents(&daemon.json(&["changes", "disk", "--since", &before, "--until", &now]));
        assert_eq!(missed(&written, &listed), [], "I4: round {round}");
        assert_eq!(listed, blocks_of(&written, BLOCK), "more than was written, round {round}");
        verify(&image_before, &listed, &image).unwrap_or_else(|why| panic!("I4: round {round}: {why}"));
        if round == 1 {
            verifier_notices(&image_before, &listed, &image);
        }
        daemon.ok(&["snapshot", "remove", &before]);
        (before, image_before) = (now, image);
        written.clear();
    }
    model.check(&daemon.read_all("disk"), "I1: the disk in the end");
}

#[test]
fn garbage_beneath_an_image_gives_exactly_one_report_for_each_sector() {
    let daemon = Daemon::start();
    let path = daemon.add_file("disk", DISK);
    let mut client = daemon.connect("disk");
    let mut model = Model::new(DISK);
    model.fill(&mut client);
    client.flush().unwrap();
    let name = take(&daemon, 0);
    model.check(&daemon.read_all("s0/disk"), "I2");
    // Behind the daemon's back: what it has not copied it reads from there.
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let last = model.sectors() - 1;
    let planted = [0, last / 2, last];
    for sector in planted {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; SECTOR], sector * SECTOR as u64).unwrap();
    }
    let reports = model.reports(&daemon.read_all(&format!("{name}/disk")));
    let expected = planted.map(|sector| Report { sector, why: Why::Damaged(Damage::Tag) });
    assert_eq!(reports, expected);
}

#[test]
fn an_old_a_lost_and_a_strange_sector_are_reported() {
    let daemon = Daemon::start();
    daemon.add_file("disk", MIB);
    let mut client = daemon.connect("disk");
    let mut model = Model::new(MIB);
    model.fill(&mut client);
    let old = daemon.read_all("disk");
    model.write(&mut client, 100, 3);
    let mut disk = daemon.read_all("disk");
    assert_eq!(model.reports(&disk), []);
    disk[101 * SECTOR..102 * SECTOR].copy_from_slice(&old[101 * SECTOR..102 * SECTOR]);
    disk[7 * SECTOR..8 * SECTOR].fill(0);
    let strange = common::oracle::filled(9, 1, 77, 1);
    disk[9 * SECTOR..10 * SECTOR].copy_from_slice(&strange);
    let why: Vec<(u64, Why)> =
        model.reports(&disk).into_iter().map(|report| (report.sector, report.why)).collect();
    let expected = [
        (7, Why::Write { expected: (1, 1), found: ZERO }),
        (9, Why::Write { expected: (1, 1), found: (77, 1) }),
        (101, Why::Write { expected: (1, 2), found: (1, 1) }),
    ];
    assert_eq!(why, expected);
}
