//! I2 for persistent snapshots: the power goes at every moment, the process is killed, things fail.

use std::time::{Duration, Instant};

use bowline_block::{ErrorKind, Op};
use bowline_state::{FolderFault, FolderOp, Trouble};

use super::kept_world::*;
use super::support::{G, image};
use crate::cow::SnapshotState;
use crate::cow::journal::Damage;

#[test]
fn i2_i7_persistent_snapshots_are_exact_after_every_cut() {
    for seed in 0..4 {
        let mut world = World::new(seed);
        world.live(18);
        let cuts = world.check_every_cut(2).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(cuts > 50, "{cuts} cuts");
    }
}

#[test]
fn each_planted_mistake_is_noticed() {
    let noticed = |plant: &dyn Fn(&mut World)| {
        (0..6).any(|seed| {
            let mut world = World::new(seed);
            plant(&mut world);
            world.live(24);
            world.check_every_cut(4).is_err()
        })
    };
    assert!(noticed(&|world| world.plant(Damage::NoDataSync)), "data that is not synced");
    assert!(noticed(&|world| world.plant(Damage::NoRecordSync)), "records that are not synced");
    assert!(noticed(&|world| world.plant(Damage::RecordFirst)), "records before their data");
    assert!(noticed(&|world| world.no_hold = true), "writes that are not held");
}

/// Some operation on journal or store fails; how many snapshots failed by that.
fn with_failures(damage: Option<Damage>, step: usize) -> Result<usize, String> {
    let mut failed = 0;
    for nth in (0..48).step_by(step) {
        let mut world = World::new(nth);
        world.may_fail = true;
        if let Some(damage) = damage {
            world.plant(damage);
        }
        world.take(true);
        let trouble = Trouble::Fail(ErrorKind::Io);
        world.folder.plan(FolderFault { op: None, after: nth, times: 1, trouble });
        world.live(10);
        world.folder.release();
        failed += world.snapshots.iter().filter(|one| one.state() != SnapshotState::Active).count();
        world.check_every_cut(2).map_err(|why| format!("operation {nth}: {why}"))?;
    }
    Ok(failed)
}

#[test]
fn i1_i2_what_failed_never_comes_back_as_good() {
    let failed = with_failures(None, 3).unwrap();
    assert!(failed > 8, "{failed} snapshots failed");
}

#[test]
fn a_failure_that_is_not_recorded_is_noticed() {
    with_failures(Some(Damage::NoFailureMark), 1).unwrap_err();
}

#[test]
fn i1_a_store_or_journal_that_stalls_holds_writers_only_so_long() {
    for nth in 0..4 {
        let mut world = World::new(nth);
        world.limits.hold = Duration::from_millis(200);
        world.write();
        world.take(true);
        world.folder.stall(nth);
        let begun = Instant::now();
        for _ in 0..8 {
            world.write();
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "I1: {took:?}");
        assert!(took > Duration::from_millis(150), "something stalled: {took:?}");
        assert!(matches!(world.snapshots[0].state(), SnapshotState::Failed { .. }));
        world.folder.release();
    }
}

/// Until its failure is on record a snapshot would come back as good: what writers do meanwhile must be preserved.
#[test]
fn i2_writers_wait_until_a_failure_is_on_record() {
    for seed in 0..4 {
        let mut world = World::new(seed);
        world.may_fail = true;
        (0..6).for_each(|_| world.write());
        world.take(true);
        world.folder.stall(0);
        let folder = world.folder.clone();
        let begun = std::sync::Barrier::new(2);
        image(&world.snapshots[0]).snapshot.fail("planted".to_owned());
        until(|| folder.stalled() == 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begun.wait();
                // Time to get by, for a writer that does not wait.
                std::thread::sleep(Duration::from_millis(100));
                folder.release();
            });
            begun.wait();
            (0..6).for_each(|_| world.write());
        });
        world.check_every_cut(3).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn first_writes_at_once_share_their_syncs() {
    let mut world = World::new(2);
    for at in 0..40 {
        put(&world.device, Op::Write, at * G, &[7; G as usize]).unwrap();
    }
    world.take(true);
    let keeper = world.snapshots[0].devices()[0].history().chain.load().keeper.clone().unwrap();
    let before = keeper.journal.counts();
    // The first group's sync is stalled: what comes meanwhile is the next one.
    let op = Some(FolderOp::Sync);
    world.folder.plan(FolderFault { op, after: 0, times: 1, trouble: Trouble::Stall });
    let device = &world.device;
    std::thread::scope(|scope| {
        scope.spawn(|| put(device, Op::Write, 0, &[1; 512]).unwrap());
        until(|| world.folder.stalled() == 1);
        for at in 1..33 {
            scope.spawn(move || put(device, Op::Write, at * G, &[1; 512]).unwrap());
        }
        until(|| keeper.journal.waiting() == 32);
        world.folder.release();
    });
    let after = keeper.journal.counts();
    assert_eq!((after.commits - before.commits, after.groups - before.groups), (33, 2), "syncs are shared");
    // A block is preserved once: the next write to it costs nothing.
    put(device, Op::Write, 0, &[2; 512]).unwrap();
    assert_eq!(keeper.journal.counts(), after);
}

fn until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it takes too long");
        std::thread::yield_now();
    }
}
