//! Damage is found by the check, and growth is bounded by compaction.

use std::sync::Arc;

use bowline_block::{Error, ErrorKind};
use bowline_sim::Rng;
use bowline_state::{Folder, FolderFault, FolderOp, SimFolder, Trouble};

use super::support::*;
use crate::cow::journal::check::{JournalReport, check_journal};
use crate::cow::journal::*;

fn check(folder: &SimFolder) -> JournalReport {
    check_journal(folder, NAME, |_, _| {
        let store = folder.open("store")?.ok_or_else(|| Error::new(ErrorKind::NotFound, "no store"))?;
        Ok(Box::new(move |segment, slot, data: &mut [u8]| {
            let at = offset(Place { store: 0, segment, slot });
            match store.read_at(at, data)? {
                got if got == data.len() => Ok(()),
                _ => Err(Error::new(ErrorKind::Io, "the store ends there")),
            }
        }))
    })
    .unwrap()
}

#[test]
fn the_check_finds_every_kind_of_damage() {
    let mut world = World::new(3);
    world.live(40);
    let folder = world.folder.kill();
    let report = check(&folder);
    assert_eq!((report.problems, report.device.as_str()), (Vec::new(), "disk"));
    assert!(report.blocks > 5 && !report.snapshots.is_empty());
    let store = folder.contents("store").unwrap();
    let journal = folder.contents(NAME).unwrap();
    let found = |name: &str, bytes: &[u8], what: &str| {
        let other = folder.kill_at(0);
        other.put(name, bytes).unwrap();
        let problems = check(&other).problems;
        assert!(problems.iter().any(|problem| problem.contains(what)), "{what}: {problems:?}");
    };
    found("store", &vec![0; store.len()], "is damaged");
    found("store", &store[..4096], "ends there");
    found(NAME, &[], "too short");
    let mut flipped = journal.clone();
    flipped[1100] ^= 1;
    found(NAME, &flipped, "a good frame follows");
    let mut rng = Rng::new(1);
    let noticed = (0..200).filter(|_| {
        let other = folder.kill_at(0);
        let mut bytes = store.clone();
        bytes[rng.index(store.len())] ^= 1 << rng.below(8);
        other.put("store", &bytes).unwrap();
        !check(&other).problems.is_empty()
    });
    assert!(noticed.count() > 5, "a bit of a preserved block is noticed wherever it is");
}

#[test]
fn a_journal_of_dead_records_is_written_anew_while_it_is_used() {
    let world = World::new(1);
    let taken = Taken { epoch: 1, snapshot: uuid::Uuid::nil(), size: header().size, store: 0 };
    let commit = |records| {
        let told = world.journal.commit(Vec::new(), records).wait(std::time::Duration::from_secs(20));
        assert_eq!(told, Some(Outcome::Durable));
    };
    commit(vec![Record::Member(taken)]);
    let image = |first| Record::ImageZero(Zero { epoch: 1, first, count: 1 });
    // One image block written again and again, a kilobyte of records in each commit.
    for round in 0..30_000u64 {
        commit((0..20).map(|at| image((round + at) % BLOCKS)).collect());
        if world.journal.counts().compactions >= 2 {
            break;
        }
    }
    let counts = world.journal.counts();
    assert!(counts.compactions >= 2, "{counts:?}");
    assert!(counts.bytes < 300 << 10, "I9: bounded by what is alive: {counts:?}");
    commit(vec![Record::Zero(Zero { epoch: 2, first: 5, count: 2 })]);
    for seed in 0..6 {
        let left = world.folder.cut_at(world.folder.power().now(), seed);
        let file = left.open(NAME).unwrap().unwrap();
        let mut index = Index::new(&header());
        scan(&*file, None, |record| index.add(record)).unwrap();
        let holding = index.resolve().unwrap().remove(&1).unwrap();
        assert_eq!(holding.copied.pieces().collect::<Vec<_>>(), [Piece { first: 5, count: 2, at: None }]);
        assert_eq!(holding.written.pieces().map(|piece| piece.count).sum::<u64>(), BLOCKS);
    }
}

#[test]
fn a_cut_at_any_moment_of_a_compaction_leaves_the_old_or_the_new_one() {
    let world = World::new(1);
    let taken = Taken { epoch: 1, snapshot: uuid::Uuid::nil(), size: header().size, store: 0 };
    let commit =
        |records| drop(world.journal.commit(Vec::new(), records).wait(std::time::Duration::from_secs(20)));
    commit(vec![Record::Member(taken)]);
    for first in 0..BLOCKS {
        commit(vec![Record::Zero(Zero { epoch: 1, first, count: 1 })]);
    }
    let from = world.folder.power().now();
    let folder: Arc<dyn Folder> = Arc::new(world.folder.clone());
    let file = folder.open(NAME).unwrap().unwrap();
    let scanned = scan(&*file, None, |_| Ok(())).unwrap();
    let done =
        super::super::compact::compact(&*folder, NAME, &*file, scanned.end, scanned.next_sequence).unwrap();
    assert!(done.end < scanned.end);
    folder.rename(&done.name, NAME).unwrap();
    folder.sync().unwrap();
    let mut walk = world.folder.walk();
    for moment in from..world.folder.cut_points() {
        walk.go_to(moment);
        for seed in 0..20 {
            let left = walk.cut(seed);
            let file = left.open(NAME).unwrap().unwrap();
            let mut index = Index::new(&header());
            let read = scan(&*file, None, |record| index.add(record)).unwrap();
            let holding = index.resolve().unwrap().remove(&1).unwrap();
            assert_eq!(holding.copied.pieces().map(|piece| piece.count).sum::<u64>(), BLOCKS);
            assert_eq!(read.next_sequence, scanned.next_sequence, "the tail fits behind either");
        }
    }
}

/// Its new name may not last: the file that had it before must say as well that it failed.
#[test]
fn a_journal_that_fails_while_it_is_replaced_has_failed_under_either_name() {
    let world = World::new(1);
    let taken = Taken { epoch: 1, snapshot: uuid::Uuid::nil(), size: header().size, store: 0 };
    let commit = |records| {
        let told = world.journal.commit(Vec::new(), records).wait(std::time::Duration::from_secs(20));
        told.expect("told in time")
    };
    assert_eq!(commit(vec![Record::Member(taken)]), Outcome::Durable);
    let trouble = Trouble::Fail(ErrorKind::Io);
    world.folder.plan(FolderFault { op: Some(FolderOp::SyncNames), after: 0, times: 1, trouble });
    let image = |first| Record::ImageZero(Zero { epoch: 1, first, count: 1 });
    let failed = (0..30_000u64).any(|round| {
        let told = commit((0..20).map(|at| image((round + at) % BLOCKS)).collect());
        matches!(told, Outcome::NoJournal(_))
    });
    assert!(failed, "the new name could not be made durable");
    for seed in 0..32 {
        let left = world.folder.cut_at(world.folder.power().now(), seed);
        if let Some(file) = left.open(NAME).unwrap() {
            assert!(scan(&*file, None, |_| Ok(())).unwrap().failed.is_some(), "I2, seed {seed}");
        }
    }
}
