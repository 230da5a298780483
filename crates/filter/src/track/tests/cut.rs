//! Power cuts at every write and sync of the tracker's files, with what was not synced lost, torn or reordered.

use std::sync::atomic::Ordering;

use bowline_sim::Rng;
use bowline_state::SimFolder;

use super::rig::{Event, Rig, check, open};
use crate::track::Continuity;

const SIZE: u64 = 96 << 20;

/// Cuts at each moment from `from` on, and checks what an open finds.
fn cut_everywhere(folder: &SimFolder, log: &[Event], from: u64, seeds: u64) -> Result<u64, String> {
    let mut crashed = 0;
    for moment in from..folder.cut_points() {
        for seed in (0..seeds).map(|seed| if seed < 2 { seed } else { moment << 8 | seed }) {
            let left = folder.cut_at(moment, seed);
            let opened = open(&left, SIZE, None);
            crashed += u64::from(matches!(opened.continuity, Continuity::AfterCrash { .. }));
            check(&opened, log, moment, SIZE).map_err(|why| {
                format!("cut at {moment}, seed {seed}: {why}\n{}", folder.history().join("\n"))
            })?;
            let again = open(&left.cut_at(left.power().now(), seed), SIZE, None);
            check(&again, log, moment, SIZE)
                .map_err(|why| format!("cut again at {moment}, seed {seed}: {why}"))?;
        }
    }
    Ok(crashed)
}

#[test]
fn i4_no_cut_loses_a_changed_block() {
    for seed in 0..3 {
        let mut rig = Rig::new(SimFolder::new(), SIZE, None);
        rig.play(&mut Rng::new(seed), 50);
        let crashed = cut_everywhere(&rig.folder, &rig.log, 0, 4).unwrap();
        assert!(crashed > 50, "most cuts are crashes: {crashed}");
    }
}

#[test]
fn i4_no_cut_around_a_clean_stop_loses_a_changed_block() {
    let folder = SimFolder::new();
    let mut rng = Rng::new(11);
    let mut rig = Rig::new(folder.clone(), SIZE, None);
    rig.play(&mut rng, 25);
    let session = rig.save();
    let mut log = rig.log.clone();
    drop(rig);
    let mut rig = Rig::new(folder.clone(), SIZE, Some(session));
    assert_eq!(rig.continuity, Continuity::Clean);
    rig.play(&mut rng, 25);
    log.extend(&rig.log);
    rig.save();
    cut_everywhere(&folder, &log, 0, 4).unwrap();
}

#[test]
fn i4_no_cut_behind_a_crash_loses_a_changed_block() {
    for seed in 0..4 {
        let mut rng = Rng::new(40 + seed);
        let mut rig = Rig::new(SimFolder::new(), SIZE, None);
        rig.play(&mut rng, 30);
        let mut log = rig.log.clone();
        // The process dies, or the power is cut; all that was acknowledged lies before.
        let folder = if seed % 2 == 0 { rig.folder.kill() } else { rig.folder.power_cut(seed) };
        for event in &mut log {
            match event {
                Event::Write { moment, .. } | Event::Take { moment, .. } => *moment = 0,
            }
        }
        let mut rig = Rig::new(folder, SIZE, None);
        assert!(matches!(rig.continuity, Continuity::AfterCrash { .. }), "{:?}", rig.continuity);
        rig.play(&mut rng, 30);
        log.extend(&rig.log);
        cut_everywhere(&rig.folder, &log, 0, 3).unwrap();
    }
}

#[test]
fn a_skipped_sync_of_intents_is_noticed() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.tracker.inner.durable.as_ref().unwrap().skip_sync.store(true, Ordering::SeqCst);
    rig.play(&mut Rng::new(5), 50);
    let error = cut_everywhere(&rig.folder, &rig.log, 0, 4).unwrap_err();
    assert!(error.contains("is missed"), "{error}");
}

#[test]
fn a_kill_is_a_cut_that_loses_nothing() {
    let mut rig = Rig::new(SimFolder::new(), SIZE, None);
    rig.play(&mut Rng::new(77), 60);
    for moment in 0..rig.folder.cut_points() {
        let opened = open(&rig.folder.kill_at(moment), SIZE, None);
        check(&opened, &rig.log, moment, SIZE).unwrap();
    }
}
