//! The power goes, the process is killed, operations fail: at every one of them.

use bowline_block::ErrorKind;

use super::support::*;
use crate::cow::journal::commit::Damage;
use crate::cow::journal::*;

#[test]
fn i2_what_was_committed_is_there_after_every_cut() {
    for seed in 0..8 {
        let mut world = World::new(seed);
        world.live(24);
        let cuts = world.check_every_cut(6).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(cuts > 20, "{cuts} cuts");
    }
}

#[test]
fn each_planted_mistake_is_noticed() {
    for damage in [Damage::NoDataSync, Damage::NoRecordSync, Damage::RecordFirst] {
        let noticed = (0..6).any(|seed| {
            let mut world = World::new(seed).plant(damage);
            world.live(24);
            world.check_every_cut(6).is_err()
        });
        assert!(noticed, "{damage:?} must be noticed");
    }
}

/// Every operation in turn fails, once or from then on.
fn with_failures(damage: Option<Damage>, times: u64, step: usize) -> Result<u64, String> {
    let mut lost = 0;
    for nth in (0..40).step_by(step) {
        let mut world = World::new(nth);
        if let Some(damage) = damage {
            world = world.plant(damage);
        }
        world.take();
        let trouble = bowline_state::Trouble::Fail(ErrorKind::Io);
        let op = None;
        world.folder.plan(bowline_state::FolderFault { op, after: nth, times, trouble });
        world.live(10);
        world.folder.release();
        world.live(6);
        lost += u64::from(world.lost.is_some());
        world.check_every_cut(3).map_err(|why| format!("operation {nth}: {why}"))?;
    }
    Ok(lost)
}

#[test]
fn i1_i2_a_failing_store_costs_its_commits_and_a_failing_journal_says_so_for_good() {
    let lost = with_failures(None, 1, 1).unwrap();
    assert!((5..35).contains(&lost), "{lost} of 40 journals were lost; some failures hit the store only");
    with_failures(None, 3, 4).unwrap();
}

#[test]
fn a_failed_journal_that_does_not_say_so_is_noticed() {
    with_failures(Some(Damage::NoFailureMark), 1, 1).unwrap_err();
}

#[test]
fn nobody_is_told_of_a_failure_that_cannot_be_marked() {
    let world = World::new(1);
    let trouble = bowline_state::Trouble::Fail(ErrorKind::Io);
    world.folder.plan(bowline_state::FolderFault { op: None, after: 0, times: 1000, trouble });
    let ticket = world.journal.commit(Vec::new(), vec![Record::Removed { epoch: 77 }]);
    assert_eq!(ticket.wait(std::time::Duration::from_millis(700)), None);
    let amid = world.journal.commit(Vec::new(), vec![Record::Removed { epoch: 78 }]);
    assert_eq!(amid.outcome(), None, "nor who comes meanwhile");
    world.folder.release();
    let told = ticket.wait(std::time::Duration::from_secs(20));
    assert!(matches!(told, Some(Outcome::NoJournal(_))), "{told:?}");
    let told = amid.wait(std::time::Duration::from_secs(20));
    assert!(matches!(told, Some(Outcome::NoJournal(_))), "{told:?}");
    let later = world.journal.commit(Vec::new(), Vec::new());
    assert!(matches!(later.outcome(), Some(Outcome::NoJournal(_))), "no more is taken");
}

#[test]
fn what_is_asked_for_at_once_is_one_group() {
    let world = World::new(1);
    // The first one's sync is stalled; the others gather behind it.
    world.folder.stall(0);
    let ask = |epoch| world.journal.commit(Vec::new(), vec![Record::Removed { epoch }]);
    let first = ask(90);
    while world.folder.stalled() == 0 {
        std::thread::yield_now();
    }
    let tickets: Vec<_> = (100..132).map(ask).collect();
    world.folder.release();
    for ticket in tickets.iter().chain([&first]) {
        assert_eq!(ticket.wait(std::time::Duration::from_secs(20)), Some(Outcome::Durable));
    }
    let Counts { commits, groups, .. } = world.journal.counts();
    assert_eq!((commits, groups), (33, 2));
}

#[test]
fn a_daemon_goes_on_where_the_last_one_was_cut_again_and_again() {
    for seed in 0..8 {
        let mut world = World::new(seed);
        world.live(12);
        let moment = world.folder.power().now() - seed % 5;
        let left = world.folder.cut_at(moment, seed * 7);
        let file = bowline_state::Folder::open(&left, NAME).unwrap().unwrap();
        let mut index = Index::new(&header());
        let scanned = scan(&*file, None, |record| index.add(record)).unwrap();
        let folder = std::sync::Arc::new(left.clone());
        let opened = Record::Opened { last_epoch: index.last_epoch };
        let journal = Journal::resume(folder, NAME, &scanned, vec![opened]).unwrap();
        let zero = Record::Zero(Zero { epoch: index.last_epoch + 1, first: 0, count: BLOCKS });
        let done = journal.commit(Vec::new(), vec![zero.clone()]).wait(std::time::Duration::from_secs(20));
        assert_eq!(done, Some(Outcome::Durable));
        for again in 0..6 {
            let left = left.cut_at(left.power().now(), again);
            let file = bowline_state::Folder::open(&left, NAME).unwrap().unwrap();
            let mut last = None;
            scan(&*file, None, |record| {
                last = Some(record);
                Ok(())
            })
            .unwrap();
            assert_eq!(last, Some(zero.clone()), "seed {seed}");
        }
    }
}
