//! Restarts: put away and taken up, with damage in between, removed and taken further.

use std::sync::Arc;
use std::time::SystemTime;

use bowline_block::*;
use bowline_device::Device;
use bowline_sim::{PowerSwitch, SimDisk};
use bowline_state::{Folder, SimFolder};

use super::kept_world::*;
use super::support::*;
use crate::cow::*;

/// A world that was put away cleanly: what the next daemon finds.
struct PutAway {
    folder: SimFolder,
    disk: Vec<u8>,
    noted: Vec<Noted>,
}

const FINGERPRINT: &[u8] = b"as it was";

fn put_away(seed: u64) -> PutAway {
    let mut world = World::new(seed);
    world.live(30);
    world.take(true);
    for _ in 0..8 {
        world.write();
    }
    for snapshot in world.snapshots.iter().filter(|one| one.is_persistent()) {
        snapshot.save_images().unwrap();
    }
    for noted in &mut world.noted {
        noted.all_saved();
    }
    let history = world.snapshots.last().unwrap().devices()[0].history().clone();
    history.suspend(FINGERPRINT.to_vec()).unwrap();
    let moment = world.power.now();
    let noted = world.held_at(moment).into_iter().cloned().collect();
    PutAway { disk: world.now.clone(), noted, folder: world.folder.cut_at(moment, 0) }
}

impl PutAway {
    fn device(&self, size: u64) -> Arc<Device> {
        let disk = Arc::new(SimDisk::new(size, 1).answering_now());
        let device = Device::new("disk", disk);
        let len = (self.disk.len() as u64).min(size) as usize;
        put(&device, Op::Write, 0, &self.disk[..len]).unwrap();
        device
    }

    fn held(&self) -> Vec<HeldSnapshot> {
        self.noted.iter().map(|one| one.held.clone()).collect()
    }

    fn back(&self, fingerprint: &[u8]) -> (Arc<Device>, Vec<Snapshot>) {
        let device = self.device(SIZE);
        let snapshots = bring_back(&self.folder, &device, &self.held(), fingerprint).unwrap();
        (device, snapshots)
    }

    fn check(&self, snapshots: &[Snapshot]) {
        for (noted, snapshot) in self.noted.iter().zip(snapshots) {
            assert_eq!(snapshot.state(), SnapshotState::Active, "{}", noted.held.name);
            assert_eq!(snapshot.id(), noted.held.id);
            let found = read(image(snapshot), ByteRange::new(0, SIZE)).unwrap();
            assert!(found == noted.image, "I2: {} came back", noted.held.name);
        }
    }

    fn all_failed(&self, snapshots: &[Snapshot], why: &str) {
        assert!(!snapshots.is_empty());
        snapshots.iter().for_each(|one| assert_failed(one, why));
    }
}

#[test]
fn what_was_put_away_comes_back_and_goes_on() {
    for seed in 0..4 {
        let away = put_away(seed);
        let (device, snapshots) = away.back(FINGERPRINT);
        away.check(&snapshots);
        put(&device, Op::Write, 0, &vec![3; SIZE as usize]).unwrap();
        away.check(&snapshots);
        // A next one, on the same history.
        let history = snapshots.last().map(|one| one.devices()[0].history().clone());
        let storage = store_in(&away.folder, &spec("next"), true).unwrap();
        let folder: Arc<dyn Folder> = Arc::new(away.folder.clone());
        let origin = [Origin::new(device.clone(), history)];
        let next = take_persistent("next", &origin, &storage, Arc::new(NoEvents), limits(), &folder).unwrap();
        put(&device, Op::Write, 0, &vec![4; SIZE as usize]).unwrap();
        away.check(&snapshots);
        assert!(contents(image(&next)).iter().all(|&byte| byte == 3), "I2");
        assert!(next.devices()[0].epoch() > snapshots.last().unwrap().devices()[0].epoch());
        // All removed, in some order, nothing is left.
        next.remove(FREEZE).unwrap();
        for (at, snapshot) in snapshots.iter().enumerate().skip(1).chain(snapshots.iter().enumerate().take(1))
        {
            snapshot.remove(FREEZE).unwrap();
            let rest = if at == 0 { 0 } else { at + 1 };
            snapshots.iter().skip(rest).take(snapshots.len() * rest).for_each(|one| {
                assert_eq!(one.state(), SnapshotState::Active);
            });
        }
        let names = away.folder.names().unwrap();
        assert!(!names.iter().any(|name| name.contains("journal")), "{names:?}");
        assert!(device.filters().is_empty(), "I6: the filter is gone with its last snapshot");
    }
}

#[test]
fn restarts_without_a_stop_between_keep_all() {
    let away = put_away(7);
    let mut folder = away.folder.clone();
    for round in 0..5u8 {
        let device = away.device(SIZE);
        let fingerprint = if round == 0 { FINGERPRINT } else { b"whatever it is" };
        let snapshots = bring_back(&folder, &device, &away.held(), fingerprint).unwrap();
        away.check(&snapshots);
        put(&device, Op::Write, u64::from(round) * 4 * G, &vec![round + 9; 6 * G as usize]).unwrap();
        away.check(&snapshots);
        // The origin is the test's: the next round begins with what was there at first, preserved by now.
        folder = folder.kill();
        drop(snapshots);
    }
}

#[test]
fn an_origin_that_was_changed_meanwhile_fails_its_snapshots() {
    let away = put_away(1);
    let (device, snapshots) = away.back(b"other");
    away.all_failed(&snapshots, "was changed while no daemon was watching");
    put(&device, Op::Write, 0, &[1; 512]).unwrap();
    let removed = snapshots.iter().all(|one| one.remove(FREEZE).is_ok());
    assert!(removed);

    let away = put_away(2);
    let small = away.device(SIZE - 512);
    let snapshots = bring_back(&away.folder, &small, &away.held(), FINGERPRINT).unwrap();
    away.all_failed(&snapshots, "bytes now, and had");
    let again = bring_back(&away.folder.kill(), &away.device(SIZE), &away.held(), FINGERPRINT).unwrap();
    away.all_failed(&again, "bytes now, and had");
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let away = put_away(3);
    let first = away.noted[0].held.name.clone();
    let names = away.folder.names().unwrap();
    let journal = names.iter().find(|name| name.ends_with(".journal")).unwrap().clone();
    let bytes = away.folder.contents(&journal).unwrap();
    let fails = |damage: &dyn Fn(&SimFolder), why: &str| {
        let folder = away.folder.kill_at(u64::MAX);
        damage(&folder);
        let device = away.device(SIZE);
        let snapshots = bring_back(&folder, &device, &away.held(), FINGERPRINT).unwrap();
        assert_failed(&snapshots[0], why);
        put(&device, Op::Write, 0, &vec![1; SIZE as usize]).expect("I1: the origin goes on");
        snapshots
    };
    fails(&|folder| folder.remove(&journal).unwrap(), "no journal of device disk knows it");
    fails(&|folder| folder.put(&journal, b"what").unwrap(), "no journal of device disk knows it");
    let mut flipped = bytes.clone();
    flipped[1100] ^= 1;
    fails(&|folder| folder.put(&journal, &flipped).unwrap(), "a good frame follows");
    let store = format!("{first}.store");
    fails(&|folder| folder.remove(&store).unwrap(), "there is no");
    fails(&|folder| folder.put(&store, &vec![0; 8 << 20]).unwrap(), "holds no snapshots");
    let other = format!("{}.store", away.noted.last().unwrap().held.name);
    let foreign = away.folder.contents(&other).unwrap();
    if away.noted.len() > 1 {
        fails(&|folder| folder.put(&store, &foreign).unwrap(), "is another one");
    }
}

#[test]
fn a_damaged_block_is_an_error_and_never_wrong_bytes() {
    let away = put_away(4);
    let last = away.noted.last().unwrap();
    let store = format!("{}.store", last.held.name);
    let bytes = away.folder.contents(&store).unwrap();
    let segment = SEGMENT_BYTES as usize;
    let mut seen = 0;
    for slot in 0..32 {
        let folder = away.folder.kill_at(u64::MAX);
        let mut damaged = bytes.clone();
        damaged[segment + slot * 4096 + 77] ^= 0x10;
        folder.put(&store, &damaged).unwrap();
        let device = away.device(SIZE);
        let snapshots = bring_back(&folder, &device, &away.held(), FINGERPRINT).unwrap();
        for (noted, snapshot) in away.noted.iter().zip(&snapshots) {
            // Piece by piece, not aligned to blocks.
            for at in (0..SIZE).step_by(1536) {
                let range = ByteRange::new(at, 1536.min(SIZE - at));
                match read(image(snapshot), range) {
                    Ok(found) => {
                        let wanted = &noted.image[range.start() as usize..range.end() as usize];
                        assert!(found == wanted, "I2: {range}");
                    }
                    Err(error) => {
                        assert!(error.to_string().contains("is damaged"), "{error}");
                        seen += 1;
                        assert_failed(snapshot, "is damaged");
                        break;
                    }
                }
            }
        }
    }
    assert!(seen > 3, "{seen} damaged blocks were met");
}

#[test]
fn a_snapshot_of_two_devices_comes_back_whole_or_failed() {
    let power = PowerSwitch::new();
    let folder = SimFolder::powered_by(&power);
    let disks: Vec<_> =
        (0..2).map(|seed| Arc::new(SimDisk::new(SIZE, seed).powered_by(&power).answering_now())).collect();
    let devices: Vec<_> =
        disks.iter().zip(["a", "b"]).map(|(disk, name)| Device::new(name, disk.clone())).collect();
    devices.iter().zip(1u8..).for_each(|(device, byte)| {
        put(device, Op::Write, 0, &vec![byte; SIZE as usize]).unwrap();
    });
    let origins: Vec<_> = devices.iter().map(|device| Origin::new(device.clone(), None)).collect();
    let journals: Arc<dyn Folder> = Arc::new(folder.clone());
    let storage = store_in(&folder, &spec("two"), true).unwrap();
    let snapshot =
        take_persistent("two", &origins, &storage, Arc::new(NoEvents), limits(), &journals).unwrap();
    devices.iter().for_each(|device| put(device, Op::Write, 0, &[9; 8192]).unwrap());
    let device = |name: &str| HeldDevice { name: name.to_owned(), tracked: None, excluded: Vec::new() };
    let held = HeldSnapshot {
        name: "two".to_owned(),
        id: snapshot.id(),
        taken_at: SystemTime::UNIX_EPOCH,
        on_full: OnFull::Drop,
        devices: vec![device("a"), device("b")],
        failed: None,
    };
    let left = folder.cut_at(power.now(), 0);
    let back = |left: &SimFolder, names: &[&str]| {
        let journals: Arc<dyn Folder> = Arc::new(left.clone());
        let there: Vec<_> = names
            .iter()
            .zip(&disks)
            .map(|(name, disk)| {
                let image = disk.cut_at(power.now(), bowline_sim::Crash::KeepAll);
                let disk = Arc::new(SimDisk::with_image(image, 1).answering_now());
                Returned { device: Device::new(*name, disk), tracker: None, fingerprint: Vec::new() }
            })
            .collect();
        let recovery = Recovery {
            folder: &journals,
            devices: &there,
            held: std::slice::from_ref(&held),
            open: &|specs| store_in(left, &specs[0], false),
            events: &|_| Arc::new(NoEvents),
            limits: limits(),
        };
        recover(&recovery).unwrap().remove(0)
    };
    let both = back(&left.kill_at(u64::MAX), &["a", "b"]);
    assert_eq!(both.state(), SnapshotState::Active);
    for (device, byte) in both.devices().iter().zip(1u8..) {
        assert!(contents(&**device.image()).iter().all(|&found| found == byte), "I2, I3");
    }
    let one = back(&left.kill_at(u64::MAX), &["a"]);
    assert!(matches!(one.state(), SnapshotState::Failed { ref reason } if reason == "device b is not there"));
    assert_eq!(one.devices().len(), 1);
    one.remove(FREEZE).unwrap();
}

#[test]
fn storage_that_ends_with_the_process_is_refused() {
    let (_, device) = device(1, Pace::Now);
    let folder: Arc<dyn Folder> = Arc::new(SimFolder::new());
    let origin = [Origin::new(device.clone(), None)];
    let storage = memory(8 * MIB);
    let refused = take_persistent("s", &origin, &storage, Arc::new(NoEvents), limits(), &folder);
    let error = refused.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("does not outlive"), "{error}");
    assert!(device.filters().is_empty() && folder.names().unwrap().is_empty(), "nothing was taken");
}
