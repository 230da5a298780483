//! I2 for persistent snapshots: the power goes at every moment, the process is killed, things fail.

use std::time::{Duration, Instant};

use bowline_block::ErrorKind;
use bowline_state::{FolderFault, Trouble};

use super::kept_world::*;
use crate::cow::SnapshotState;
use crate::cow::journal::Damage;

#[test]
fn i2_i7_persistent_snapshots_are_exact_after_every_cut() {
    for seed in 0..6 {
        let mut world = World::new(seed);
        world.live(24);
        let cuts = world.check_every_cut(3).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
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
    for nth in (0..60).step_by(step) {
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
    let failed = with_failures(None, 2).unwrap();
    assert!(failed > 10, "{failed} snapshots failed");
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
