//! I2 for persistent snapshots: the power goes at every moment, the process is killed, things fail.

use bowline_sim::{Crash, SimDisk};

use super::kept_world::*;
use super::support::*;
use crate::cow::journal::Damage;
use crate::cow::*;

#[test]
fn i2_persistent_snapshots_are_exact_after_every_cut() {
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
