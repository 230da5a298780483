//! Diff storage in ranges of the origin itself: exact outside them (I2), and the origin comes first inside (I1).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bowline_block::*;
use bowline_device::Device;
use bowline_store::{FileOptions, FileStore};

use super::support::*;
use super::threads::Dice;
use crate::cow::*;

const SIZE: u64 = 18 * MIB;
/// Where the storage is: two ranges, one of which begins inside a word of bits, one across a border of zones.
const OWN: [ByteRange; 2] = [ByteRange::new(2 * MIB + 8192, 4 * MIB), ByteRange::new(12 * MIB, 5 * MIB)];

struct Disk {
    dir: tempfile::TempDir,
    device: Arc<Device>,
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sectors = (0..SIZE / 512).flat_map(|at| [(at % 251 + 1) as u8; 512]);
        std::fs::write(dir.path().join("disk"), sectors.collect::<Vec<_>>()).unwrap();
        let opened = FileStore::open(&dir.path().join("disk"), &FileOptions::default()).unwrap();
        Self { device: Device::new("disk", Arc::new(opened.store)), dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn storage(&self) -> Arc<DiffStorage> {
        let ranges = OWN.map(|range| (self.path(), range)).to_vec();
        DiffStorage::open(StoreSpec { kind: StoreKind::Ranges(ranges), limit: SIZE, step: MIB }).unwrap()
    }

    fn origin(&self, storage: &DiffStorage, earlier: Option<&Snapshot>) -> Origin {
        let history = earlier.map(|one| one.devices()[0].history().clone());
        let excluded = storage.ranges_on(&FileIdentity::of(&self.path()).unwrap());
        Origin { excluded, ..Origin::new(self.device.clone(), history) }
    }

    fn take(&self, name: &str, earlier: Option<&Snapshot>, told: &Arc<Told>) -> Snapshot {
        let storage = self.storage();
        let origin = self.origin(&storage, earlier);
        take(name, &[origin], &storage, told.clone(), limits()).unwrap()
    }
}

fn is_own(at: u64) -> bool {
    OWN.iter().any(|range| range.contains(ByteRange::new(at, 1)))
}

/// An image is what the origin was outside the ranges, and zero inside.
fn check(image: &ImageStore, before: &[u8]) -> std::result::Result<(), String> {
    let have = contents(image);
    for at in (0..before.len()).step_by(4096) {
        let want = if is_own(at as u64) { &[0; 4096] } else { &before[at..at + 4096] };
        if have[at..at + 4096] != *want {
            return Err(format!("I2: block {at} of the image is {:?}…", &have[at..at + 8]));
        }
    }
    Ok(())
}

/// Writes of 4 KiB outside the ranges.
fn scribble(device: &Device, dice: &mut Dice, count: u64) {
    for _ in 0..count {
        let at = dice.roll(SIZE / G) * G;
        if !is_own(at) {
            write(device, at, &[dice.roll(255) as u8; 4096]);
        }
    }
}

#[test]
fn the_image_is_exact_outside_the_ranges_under_load() {
    let disk = Disk::new();
    let before = contents(&*disk.device);
    let told = Arc::new(Told::default());
    let snapshot = disk.take("s", None, &told);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 1..4 {
            let device = &disk.device;
            scope.spawn(move || scribble(device, &mut Dice(seed), 2000));
        }
        let reader = scope.spawn(|| {
            let mut dice = Dice(99);
            while !stop.load(Ordering::Relaxed) {
                let at = dice.roll(SIZE / G) * G;
                let have = read(image(&snapshot), ByteRange::new(at, G)).unwrap();
                let old = &before[at as usize..(at + G) as usize];
                assert!(if is_own(at) { have == [0; 4096] } else { have == old }, "I2 at {at}");
            }
        });
        std::thread::sleep(Duration::from_millis(700));
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    check(image(&snapshot), &before).unwrap();
    assert_eq!(snapshot.state(), SnapshotState::Active, "{:?}", told.all());
    let preserved = snapshot.devices()[0].stats().stored_blocks * G;
    assert!(preserved > 4 * MIB && snapshot.storage().used() >= preserved);
    // The check notices damage.
    let error = check(image(&snapshot), &vec![1; SIZE as usize]).unwrap_err();
    assert!(error.starts_with("I2: block 0"), "{error}");

    let storage = snapshot.storage().clone();
    snapshot.remove(FREEZE).unwrap();
    assert_eq!(storage.used(), 0);
    assert!(snapshot.devices()[0].history().is_over(), "nothing of it is left in the stack");
    assert!(disk.device.filters().is_empty());
}

#[test]
fn writes_of_others_into_the_ranges_pass_and_fail_the_snapshot_once() {
    for op in [Op::Write, Op::Discard, Op::WriteZeroes] {
        let disk = Disk::new();
        let told = Arc::new(Told::default());
        let snapshot = disk.take("s", None, &told);
        let mut dice = Dice(7);
        scribble(&disk.device, &mut dice, 700);
        assert_eq!(snapshot.state(), SnapshotState::Active);
        // From just before a range into it, again and again, while the storage is being written.
        let at = OWN[0].start() - G;
        for round in 0..50u8 {
            let range = ByteRange::new(at + u64::from(round) * 2 * G, 3 * G);
            block_on(perform(&*disk.device, op, range, &[round + 1; 3 * 4096])).unwrap();
            let have = read(&*disk.device, range).unwrap();
            let byte = if op == Op::Write { round + 1 } else { 0 };
            assert!(have.iter().all(|&one| one == byte), "I1: {op:?} {round}");
            scribble(&disk.device, &mut dice, 20);
        }
        assert_failed(&snapshot, "went to where it is kept");
        let failed: Vec<_> = told.all().into_iter().filter(|one| one.contains(" failed ")).collect();
        assert_eq!(failed.len(), 1, "{:?}", told.all());
        // Nothing of the storage lands there later.
        let before = contents(&*disk.device);
        std::thread::sleep(Duration::from_millis(100));
        snapshot.remove(FREEZE).unwrap();
        drop(snapshot);
        assert!(contents(&*disk.device) == before, "I1: the origin is its users'");
        assert!(disk.device.filters().is_empty());
    }
}

#[test]
fn a_write_waits_for_what_is_being_written_there_and_not_for_ever() {
    for stuck in [false, true] {
        let disk = Disk::new();
        let storage = disk.storage();
        let writing = Arc::new(AtomicBool::new(false));
        let seen = writing.clone();
        let wait = Duration::from_millis(if stuck { 2500 } else { 300 });
        storage.plan(|faults| {
            faults.write = Some(Arc::new(move |_| {
                seen.store(true, Ordering::Relaxed);
                std::thread::sleep(wait);
                Ok(())
            }));
        });
        let hold = Duration::from_secs(1);
        let origin = disk.origin(&storage, None);
        let limits = Limits { hold, ..limits() };
        let snapshot = take("s", &[origin], &storage, Arc::new(NoEvents), limits).unwrap();
        overwrite(&disk.device, 0, MIB, 3);
        while !writing.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        write(&*disk.device, OWN[0].start(), &vec![0x77; 1 << 20]);
        let held = begun.elapsed();
        if stuck {
            assert!(held >= hold && held < hold * 2, "I1: bounded, {held:?}");
        } else {
            assert!(held < hold, "{held:?}");
            drop(snapshot);
            std::thread::sleep(wait);
            let have = read(&*disk.device, ByteRange::new(OWN[0].start(), MIB)).unwrap();
            assert!(have.iter().all(|&byte| byte == 0x77), "I1: nothing landed over it");
        }
    }
}

#[test]
fn older_and_newer_snapshots_in_other_places_stay_exact() {
    let disk = Disk::new();
    let at_old = contents(&*disk.device);
    let old = take_one("old", &disk.device, None);
    let told = Arc::new(Told::default());
    let own = disk.take("own", Some(&old), &told);
    let mut dice = Dice(3);
    scribble(&disk.device, &mut dice, 1000);
    // What was in the ranges before is the older image's: it was preserved before the storage was let into them.
    assert!(contents(image(&old)) == at_old, "I2");
    let at_new = contents(&*disk.device);
    let new = take_with("new", &disk.device, Some(&own), &memory(64 * MIB), Arc::new(NoEvents));
    scribble(&disk.device, &mut dice, 1000);
    check(image(&new), &at_new).unwrap();
    new.remove(FREEZE).unwrap();
    scribble(&disk.device, &mut dice, 1000);
    assert!(contents(image(&old)) == at_old, "I2");
    // The exclusion ends with the storage, not with the snapshot: the older image still reads what is in it.
    let storage = Arc::downgrade(own.storage());
    own.remove(FREEZE).unwrap();
    drop(own);
    assert!(storage.upgrade().is_some(), "it has contents of the older snapshot");
    assert!(contents(image(&old)) == at_old, "I2");
    let last = take_with("last", &disk.device, Some(&old), &memory(64 * MIB), Arc::new(NoEvents));
    let probe = ByteRange::new(OWN[1].start(), G);
    assert_eq!(read(image(&last), probe).unwrap(), [0; 4096], "left out of later images too");
    write(&*disk.device, OWN[0].start(), &[1; 512]);
    assert_failed(&old, "went to where it is kept");
    assert_eq!(last.state(), SnapshotState::Active, "nothing of its own is there");
    last.remove(FREEZE).unwrap();
    old.remove(FREEZE).unwrap();
    assert!(storage.upgrade().is_none());
    assert!(disk.device.filters().is_empty());
}

#[test]
fn ranges_beyond_the_device_are_refused() {
    let disk = Disk::new();
    let storage = disk.storage();
    for (range, kind) in [
        (ByteRange::new(SIZE - G, 2 * G), ErrorKind::OutOfRange),
        (ByteRange::new(512, 4096), ErrorKind::Invalid),
    ] {
        let origin = Origin { excluded: vec![range], ..Origin::new(disk.device.clone(), None) };
        let error = take("s", &[origin], &storage, Arc::new(NoEvents), limits()).err().unwrap();
        assert_eq!(error.kind(), kind, "I8: {error}");
    }
    assert!(disk.device.filters().is_empty());
}
