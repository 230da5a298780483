//! Diff storage on a real block device, a loop device over a file. Needs root; says so where it is not had.
#![cfg(all(test, not(feature = "shuttle")))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bowline_block::{Buf, ByteRange, ErrorKind, Flags, Io, Now, Op, Request, Store};
use bowline_device::Device;
use bowline_filter::cow::{DiffStorage, FileIdentity, Limits, NoEvents, Origin, StoreKind, StoreSpec, take};
use bowline_store::{FileOptions, FileStore};

const MIB: u64 = 1 << 20;

struct Loop(PathBuf);

impl Loop {
    fn attach(file: &Path) -> Option<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(file);
        let why = match command.output() {
            Ok(output) if output.status.success() => {
                return Some(Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())));
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        skip(&format!("there is no loop device: {why}"));
        None
    }
}

impl Loop {
    /// A partition of a loop device outlives its detaching, and would be in the way of the next user's.
    fn forget_partition(&self) {
        let _ = Command::new("delpart").arg(&self.0).arg("1").output();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.forget_partition();
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

fn skip(why: &str) {
    let ci = std::env::var_os("BOWLINE_CI").is_some_and(|value| !value.is_empty());
    assert!(!ci, "not skipped under BOWLINE_CI: {why}");
    println!("skipped: {why}");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
}

fn write(device: &Device, at: u64, data: &[u8]) {
    let range = ByteRange::new(at, data.len() as u64);
    if let Now::Done(done) = device.write_now(range, data, Flags::empty()) {
        return done.unwrap();
    }
    block_on(device.submit(Io::new(Request::new(Op::Write, range), Buf::copy_of(data)))).result.unwrap();
}

fn contents(store: &dyn Store) -> Vec<u8> {
    let range = ByteRange::new(0, store.geometry().size);
    let done =
        block_on(store.submit(Io::new(Request::new(Op::Read, range), Buf::zeroed(range.len() as usize))));
    done.result.unwrap();
    done.data.to_vec()
}

fn spec(kind: StoreKind) -> StoreSpec {
    StoreSpec { kind, limit: 64 * MIB, step: MIB }
}

fn backing(dir: &tempfile::TempDir, name: &str, size: u64) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// Takes a snapshot into the storage, overwrites the whole device but `spared`, and compares.
fn use_up(device: &Arc<Device>, storage: &Arc<DiffStorage>, excluded: &[ByteRange]) {
    let size = device.geometry().size;
    let noise: Vec<u8> = (0..size / 512).flat_map(|at| [(at % 251 + 1) as u8; 512]).collect();
    let spared = |at: u64| excluded.iter().any(|range| range.contains(ByteRange::new(at, 65536)));
    let pieces = || (0..size).step_by(65536).filter(|&at| !spared(at));
    pieces().for_each(|at| write(device, at, &noise[at as usize..at as usize + 65536]));
    let before = contents(&**device);
    let origin = Origin { excluded: excluded.to_vec(), ..Origin::new(device.clone(), None) };
    let snapshot = take("s", &[origin], storage, Arc::new(NoEvents), Limits::default()).unwrap();
    pieces().for_each(|at| write(device, at, &[9; 65536]));
    assert!(storage.used() > 0);
    let image = contents(&**snapshot.devices()[0].image());
    let differs = (0..size).step_by(65536).find(|&at| {
        let part = at as usize..at as usize + 65536;
        let want = if spared(at) { &[0; 65536][..] } else { &before[part.clone()] };
        image[part] != *want
    });
    assert_eq!(differs, None, "I2");
    snapshot.remove(std::time::Duration::from_secs(5)).unwrap();
    assert_eq!(storage.used(), 0);
}

#[test]
fn a_block_device_is_of_one_user_and_has_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Loop::attach(&backing(&dir, "store", 12 * MIB + 4096)) else { return };
    let kind = || StoreKind::BlockDevice(disk.0.clone());
    let storage = DiffStorage::open(spec(kind())).unwrap();
    assert_eq!(storage.limit(), 12 * MIB, "whole segments of the device, however large the limit");
    let error = DiffStorage::open(spec(kind())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("is mounted or in use"), "{error}");

    let file = backing(&dir, "origin", 8 * MIB);
    let origin = FileStore::open(&file, &FileOptions::default()).unwrap().store;
    use_up(&Device::new("disk", Arc::new(origin)), &storage, &[]);
    drop(storage);
    drop(DiffStorage::open(spec(kind())).unwrap());

    let Some(small) = Loop::attach(&backing(&dir, "small", 128 * 1024)) else { return };
    let error = DiffStorage::open(spec(StoreKind::BlockDevice(small.0.clone()))).err().unwrap();
    assert!(error.to_string().contains("has 131072 bytes, the least is 262144"), "{error}");
}

#[test]
fn ranges_of_a_block_device_that_is_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Loop::attach(&backing(&dir, "disk", 16 * MIB)) else { return };
    let identity = FileIdentity::of(&disk.0).unwrap();
    let error = spec(StoreKind::BlockDevice(disk.0.clone())).check_origin("disk", &identity).unwrap_err();
    assert!(error.to_string().contains("is the device of the origin disk"), "{error}");

    let origin = FileStore::open(&disk.0, &FileOptions::default()).unwrap().store;
    let device = Device::new("disk", Arc::new(origin));
    let own = [ByteRange::new(4 * MIB, 6 * MIB), ByteRange::new(11 * MIB, 4 * MIB)];
    let ranges = spec(StoreKind::Ranges(own.iter().map(|&range| (disk.0.clone(), range)).collect()));
    ranges.check_origin("disk", &identity).unwrap();
    assert_eq!(ranges.ranges_on(&identity), own);
    let storage = DiffStorage::open(ranges).unwrap();
    use_up(&device, &storage, &own);
    let beyond = StoreKind::Ranges(vec![(disk.0.clone(), ByteRange::new(15 * MIB, 2 * MIB))]);
    assert_eq!(DiffStorage::open(spec(beyond)).err().unwrap().kind(), ErrorKind::OutOfRange);
    drop((device, storage));
}

#[test]
fn a_disk_and_its_partition_share_their_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let file = backing(&dir, "disk", 16 * MIB);
    let Some(disk) = Loop::attach(&file) else { return };
    disk.forget_partition();
    // Whether or not the kernel looks for partitions by itself: one of 4 MiB from 1 MiB on.
    if !Command::new("addpart")
        .arg(&disk.0)
        .args(["1", "2048", "8192"])
        .status()
        .is_ok_and(|done| done.success())
    {
        return skip("addpart cannot make a partition of a loop device");
    }
    // Where nobody makes nodes for partitions, the kernel still tells their numbers.
    let name = disk.0.file_name().unwrap().to_str().unwrap().to_owned();
    let Ok(numbers) = std::fs::read_to_string(format!("/sys/block/{name}/{name}p1/dev")) else {
        return skip("a loop device has no partitions here");
    };
    let (major, minor) = numbers.trim().split_once(':').unwrap();
    let number = rustix::fs::makedev(major.parse().unwrap(), minor.parse().unwrap());
    let partition = dir.path().join("partition");
    let (kind, mode) = (rustix::fs::FileType::BlockDevice, rustix::fs::Mode::RUSR);
    if rustix::fs::mknodat(rustix::fs::CWD, &partition, kind, mode, number).is_err() {
        return skip("a device node cannot be made");
    }
    let inner = FileIdentity::of(&partition).unwrap();
    let outer = FileIdentity::of(&disk.0).unwrap();
    let check =
        |path: &Path, origin| spec(StoreKind::BlockDevice(path.to_owned())).check_origin("disk", origin);
    for (store, origin) in [(&disk.0, &inner), (&partition, &outer)] {
        let error = check(store, origin).unwrap_err();
        assert!(error.to_string().contains("shares its sectors"), "{error}");
        let ranges = StoreKind::Ranges(vec![(store.clone(), ByteRange::new(0, MIB))]);
        let error = spec(ranges).check_origin("disk", origin).unwrap_err();
        assert!(error.to_string().contains("under other numbers"), "{error}");
    }
}
