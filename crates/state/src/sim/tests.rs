//! The simulated folder does what a disk may do, and no more: each rule is shown by the cuts it allows and forbids.

use std::collections::BTreeSet;

use bowline_block::ErrorKind;

use super::*;

const SEEDS: std::ops::Range<u64> = 0..300;

/// The different contents that cuts at the newest moment may leave of a file; `None` is no such file.
fn possible(folder: &SimFolder, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    SEEDS.map(|seed| folder.cut_at(folder.power().now(), seed).contents(name)).collect()
}

fn sectors(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|&byte| [byte; 512]).collect()
}

#[test]
fn unsynced_writes_are_lost_torn_and_reordered_and_synced_ones_stay() {
    let folder = SimFolder::new();
    let file = folder.create("a").unwrap();
    file.write_at(0, &sectors(&[1, 1])).unwrap();
    file.sync().unwrap();
    Folder::sync(&folder).unwrap();
    assert_eq!(possible(&folder, "a").len(), 1, "I7: all of it is durable");
    file.write_at(0, &sectors(&[2, 2])).unwrap();
    file.write_at(0, &sectors(&[3, 3])).unwrap();
    let found = possible(&folder, "a");
    for want in [[1, 1], [2, 2], [3, 3], [2, 3], [1, 3]] {
        assert!(found.contains(&Some(sectors(&want))), "{want:?} may be left");
    }
    file.sync().unwrap();
    assert_eq!(possible(&folder, "a"), [Some(sectors(&[3, 3]))].into());
    assert_eq!(folder.unsynced(), 0);
}

#[test]
fn a_size_may_be_there_without_its_bytes_and_a_cut_file_may_be_long_again() {
    let folder = SimFolder::new();
    folder.put("a", &sectors(&[1])).unwrap();
    let file = folder.open("a").unwrap().unwrap();
    file.write_at(512, &sectors(&[2, 2])).unwrap();
    let found = possible(&folder, "a");
    for want in [vec![1], vec![1, 0, 0], vec![1, 2, 0], vec![1, 2, 2], vec![1, 0, 2]] {
        assert!(found.contains(&Some(sectors(&want))), "{want:?} may be left");
    }
    file.sync().unwrap();
    file.set_len(512).unwrap();
    let found = possible(&folder, "a");
    assert_eq!(found, [Some(sectors(&[1])), Some(sectors(&[1, 2, 2]))].into());
}

#[test]
fn a_name_is_durable_after_the_folder_was_synced_and_not_before() {
    let folder = SimFolder::new();
    let file = folder.create("a").unwrap();
    file.write_at(0, b"x").unwrap();
    file.sync().unwrap();
    assert_eq!(possible(&folder, "a"), [None, Some(b"x".to_vec())].into(), "syncing a file is not enough");
    Folder::sync(&folder).unwrap();
    assert_eq!(possible(&folder, "a"), [Some(b"x".to_vec())].into());
    folder.rename("a", "b").unwrap();
    for seed in SEEDS {
        let left = folder.cut_at(folder.power().now(), seed);
        assert_eq!(left.names().unwrap().len(), 1, "a rename is one or the other");
    }
    assert_eq!(possible(&folder, "b").len(), 2);
    folder.remove("b").unwrap();
    assert_eq!(possible(&folder, "b").len(), 2);
    Folder::sync(&folder).unwrap();
    assert_eq!(possible(&folder, "b"), [None].into());
    assert_eq!(file.len().unwrap(), 1, "who has it open still has it");
}

#[test]
fn a_rename_over_unsynced_contents_may_leave_an_empty_file() {
    let folder = SimFolder::new();
    folder.put("a", b"old").unwrap();
    folder.create("b").unwrap().write_at(0, b"new").unwrap();
    folder.rename("b", "a").unwrap();
    let found = possible(&folder, "a");
    assert!(found.contains(&Some(Vec::new())) && found.contains(&Some(b"old".to_vec())), "{found:?}");
}

#[test]
fn replace_is_all_or_nothing_at_every_cut_and_every_failure() {
    let folder = SimFolder::new();
    folder.put("a", &sectors(&[1, 1, 1])).unwrap();
    let from = folder.power().now();
    folder.put("a", &sectors(&[2, 2])).unwrap();
    for moment in from..folder.cut_points() {
        for seed in SEEDS {
            let found = folder.cut_at(moment, seed).contents("a").unwrap();
            assert!(found == sectors(&[1, 1, 1]) || found == sectors(&[2, 2]), "at {moment} with {seed}");
        }
    }
    assert_eq!(possible(&folder, "a").len(), 1, "durable when it returns");
    for nth in 0..5 {
        folder.fail(nth, ErrorKind::Io);
        assert_eq!(folder.put("a", b"3").unwrap_err().kind(), ErrorKind::Io);
        assert!(
            possible(&folder, "a").iter().flatten().all(|found| found == b"3" || *found == sectors(&[2, 2]))
        );
    }
}

#[test]
fn a_sync_that_fails_loses_what_it_should_have_kept_for_good() {
    let folder = SimFolder::new();
    folder.put("a", &sectors(&[1])).unwrap();
    let file = folder.open("a").unwrap().unwrap();
    let lost = (0..40).any(|_| {
        file.write_at(0, &sectors(&[2])).unwrap();
        folder.fail(0, ErrorKind::Io);
        file.sync().unwrap_err();
        file.sync().unwrap();
        assert_eq!(folder.contents("a").unwrap(), sectors(&[2]), "it still reads");
        let lost = possible(&folder, "a") == [Some(sectors(&[1]))].into();
        file.write_at(0, &sectors(&[1])).unwrap();
        file.sync().unwrap();
        lost
    });
    assert!(lost, "the sync that succeeded did not bring back what the failed one dropped");
}

#[test]
fn the_dead_and_the_powerless_do_nothing_more() {
    let folder = SimFolder::new();
    let file = folder.create("a").unwrap();
    file.write_at(0, b"x").unwrap();
    let killed = folder.kill();
    assert_eq!(file.write_at(0, b"y").unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(killed.contents("a").unwrap(), b"x", "all that was done is there");
    assert_eq!(killed.unsynced(), 2, "and can still be lost");
    assert!(possible(&killed, "a").contains(&None));
    let left = killed.power_cut(0);
    assert!(left.names().unwrap().is_empty());
    assert_eq!(killed.names().unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn what_stalls_goes_on_when_released_and_space_ends() {
    let folder = SimFolder::new();
    let file = folder.create("a").unwrap();
    folder.stall(0);
    let stuck = std::thread::spawn(move || {
        file.write_at(0, b"x").unwrap();
        file
    });
    while folder.stalled() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(folder.contents("a").unwrap(), b"");
    folder.release();
    let file = stuck.join().unwrap();
    assert_eq!(folder.contents("a").unwrap(), b"x");
    folder.limit_space(Some(8192));
    file.write_at(4096, b"x").unwrap();
    assert_eq!(file.write_at(8192, b"x").unwrap_err().kind(), ErrorKind::NoSpace);
}

#[test]
fn one_switch_cuts_a_disk_and_a_folder_at_one_moment() {
    use bowline_block::{Buf, ByteRange, Flags, Io, Op, Request, Store};
    use bowline_sim::{Crash, SimDisk, run_alone};
    let power = PowerSwitch::new();
    let (disk, folder) = (SimDisk::new(4096, 1).powered_by(&power), SimFolder::powered_by(&power));
    let file = folder.create("number").unwrap();
    Folder::sync(&folder).unwrap();
    let from = power.now();
    // The file says first what the disk will hold.
    for number in 1..6u8 {
        file.write_at(0, &[number]).unwrap();
        file.sync().unwrap();
        let request = Request::new(Op::Write, ByteRange::new(0, 512)).with_flags(Flags::FUA);
        run_alone(disk.submit(Io::new(request, Buf::copy_of(&[number; 512])))).unwrap().result.unwrap();
    }
    let mut differed = false;
    for moment in from..=power.now() {
        let said = folder.cut_at(moment, 0).contents("number").unwrap().first().copied().unwrap_or(0);
        let held = disk.cut_at(moment, Crash::LoseAll).sector(0)[0];
        assert!(said == held || said == held + 1, "{said} and {held} at {moment}");
        differed |= said != held;
    }
    assert!(differed, "cuts between the two are among them");
    let left = folder.power_cut(0);
    assert_eq!(left.contents("number").unwrap(), [5]);
    let read = Io::new(Request::new(Op::Read, ByteRange::new(0, 512)), Buf::zeroed(512));
    assert_eq!(run_alone(disk.submit(read)).unwrap().result.unwrap_err().kind(), ErrorKind::Gone);
}
