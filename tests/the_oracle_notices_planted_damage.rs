//! The checkers of the other tests, shown to fail where they must.
#![cfg(test)]

mod common;

use common::oracle::{Damage, Found, SECTOR, Stamp, crc32, filled, judge};
use common::prefix::{Log, Op, OpKind};

const FIRST: u64 = 8;

/// A disk of 64 sectors; the writer's part begins at sector 8.
fn disk_after(log: &Log, n: usize) -> Vec<u8> {
    let mut disk = vec![0; 64 * SECTOR];
    for (sequence, op) in (1..).zip(&log.ops[..n]) {
        let bytes = match op.kind {
            OpKind::Write => filled(op.first, op.count, log.writer, sequence),
            OpKind::Zero => vec![0; usize::try_from(op.count).unwrap() * SECTOR],
        };
        sectors_mut(&mut disk, op.first, op.count).copy_from_slice(&bytes);
    }
    disk
}

fn sectors_mut(disk: &mut [u8], first: u64, count: u64) -> &mut [u8] {
    &mut disk[usize::try_from(first).unwrap() * SECTOR..][..usize::try_from(count).unwrap() * SECTOR]
}

fn log() -> Log {
    let op = |kind, first, count| Op { kind, first: FIRST + first, count };
    let ops = vec![
        op(OpKind::Write, 0, 16),
        op(OpKind::Write, 8, 16),
        op(OpKind::Zero, 4, 8),
        op(OpKind::Write, 30, 4),
        op(OpKind::Write, 0, 2),
        op(OpKind::Zero, 0, 1),
        op(OpKind::Zero, 30, 1),
    ];
    Log { writer: 3, first: FIRST, count: 48, ops }
}

#[test]
fn every_beginning_is_recognised() {
    let log = log();
    for n in 0..=log.ops.len() {
        let n_found = log.prefix_of(&disk_after(&log, n), n as u64, n as u64);
        assert_eq!(n_found, Ok(n as u64));
    }
}

#[test]
fn a_flipped_bit_a_misplaced_sector_and_garbage_are_seen() {
    let sector = filled(7, 1, 1, 5);
    assert_eq!(judge(&sector, 7), Ok(Found::Written(Stamp { writer: 1, sequence: 5, number: 7 })));
    assert_eq!(judge(&vec![0; SECTOR], 7), Ok(Found::Zero));
    assert_eq!(judge(&sector, 8), Err(Damage::Number(7)));
    assert_eq!(judge(&vec![0xa5; SECTOR], 7), Err(Damage::Tag));
    for byte in [8, 20, 35, 40, 300, 511] {
        let mut torn = sector.clone();
        torn[byte] ^= 4;
        assert_eq!(judge(&torn, 7), Err(Damage::Checksum), "byte {byte}");
    }
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
}

#[test]
fn garbage_in_the_first_the_middle_and_the_last_sector_is_seen() {
    let log = log();
    for number in [FIRST, FIRST + 24, FIRST + 47] {
        let mut disk = disk_after(&log, 5);
        sectors_mut(&mut disk, number, 1).fill(0x5a);
        let why = log.prefix_of(&disk, 0, 7).unwrap_err();
        assert!(why.contains(&format!("sector {number} is damaged")), "{why}");
    }
}

#[test]
fn a_sector_of_another_time_is_seen() {
    let log = log();
    let copy = |from: &[u8], to: &mut [u8], number: u64| {
        let from = common::tools::part(from, (FIRST + number) * SECTOR as u64, SECTOR as u64);
        sectors_mut(to, FIRST + number, 1).copy_from_slice(from);
    };
    // One old sector under a newer disk: a write was lost.
    let mut disk = disk_after(&log, 5);
    copy(&disk_after(&log, 1), &mut disk, 14);
    assert!(log.prefix_of(&disk, 0, 7).unwrap_err().contains("no beginning"));
    // One new sector over an older disk: a write that came after the take shows through.
    let mut disk = disk_after(&log, 2);
    copy(&disk_after(&log, 4), &mut disk, 33);
    assert!(log.prefix_of(&disk, 0, 7).unwrap_err().contains("no beginning"));
    // A zeroing that was done by half.
    let mut disk = disk_after(&log, 4);
    copy(&disk_after(&log, 2), &mut disk, 11);
    assert!(log.prefix_of(&disk, 0, 7).unwrap_err().contains("no beginning"));
}

#[test]
fn an_image_of_the_wrong_instant_is_seen() {
    let log = log();
    let disk = disk_after(&log, 4);
    assert!(log.prefix_of(&disk, 5, 7).unwrap_err().contains("were acknowledged before"));
    assert!(log.prefix_of(&disk, 1, 3).unwrap_err().contains("only 3 were submitted"));
    assert!(log.is_all_of(&disk).is_err());
}
