//! Which mounts stand on a device, found through the programs of others: nbdkit serves and logs, nbdfuse makes a file of
//! it, a loop device a disk, with a file system on it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // helpers of tests

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bowline_block::{ByteRange, ErrorKind};
use bowline_kernel::mounts;
use bowline_kernel::probe::{
    Finding, ReadWatcher, Signature, mounts_of, probe, read_signature, stands_on_device,
};
use common::{Loop, Mounted, can, run};

const SIZE: u64 = 320 << 20;
const LIMIT: Duration = Duration::from_secs(5);

/// What nbdkit logged of reads.
struct Log {
    file: PathBuf,
    from: AtomicUsize,
}

impl Log {
    fn reads(&self) -> Vec<ByteRange> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let number = |line: &str, name: &str| {
            let rest = line.split(name).nth(1)?;
            let digits = rest.split_whitespace().next()?.trim_start_matches("0x");
            u64::from_str_radix(digits, 16).ok()
        };
        let read = |line: &str| Some(ByteRange::new(number(line, "offset=")?, number(line, "count=")?));
        let new = text.get(self.from.load(Ordering::SeqCst)..).unwrap_or_default();
        new.lines().filter(|line| line.contains(" Read ")).filter_map(read).collect()
    }
}

impl ReadWatcher for Log {
    fn clear(&self) {
        let length = fs::metadata(&self.file).map_or(0, |meta| meta.len());
        self.from.store(usize::try_from(length).unwrap(), Ordering::SeqCst);
    }

    fn saw(&self, range: ByteRange) -> bool {
        let mut at = range.start();
        let mut reads = self.reads();
        reads.sort_by_key(|read| read.start());
        for read in reads {
            if read.start() <= at {
                at = at.max(read.end());
            }
        }
        at >= range.end()
    }
}

/// A disk served by nbdkit as a file.
struct Served {
    nbdkit: Child,
    nbdfuse: Child,
    log: Log,
    file: PathBuf,
}

impl Served {
    fn new(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name);
        let (disk, socket, log) = (path("disk"), path("sock"), path("log"));
        File::create(&disk).unwrap().set_len(SIZE).unwrap();
        let nbdkit = Command::new("nbdkit")
            .args(["--foreground", "--filter=log", "--unix"])
            .args([&socket, Path::new("file"), &disk])
            .arg(format!("logfile={}", log.display()))
            .spawn()
            .unwrap();
        wait("nbdkit", || socket.exists());
        fs::create_dir(path("fuse")).unwrap();
        let file = path("fuse").join("disk");
        fs::write(path("empty"), "").unwrap();
        let nbdfuse = Command::new("nbdfuse")
            .args([&path("fuse").join("disk"), Path::new("--unix"), &socket])
            .spawn()
            .unwrap();
        wait("nbdfuse", || fs::metadata(&file).is_ok_and(|meta| meta.len() == SIZE));
        Self { nbdkit, nbdfuse, log: Log { file: log, from: AtomicUsize::new(0) }, file }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = run("fusermount3", &["-u", "-z", self.file.parent().unwrap().to_str().unwrap()]);
        for child in [&mut self.nbdfuse, &mut self.nbdkit] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_mounts_on_a_device_are_found_and_no_others() {
    if !can(&["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "nbdkit", "nbdfuse", "fusermount3", "addpart"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A stranger of the same size, mounted as well.
    let stranger = Loop::new(&folder.path().join("stranger"), SIZE);
    let strange = Mounted::make("ext4", stranger.node(), &folder.path().join("strange"));
    for kind in ["ext4", "btrfs", "partition"] {
        let folder = tempfile::tempdir().unwrap();
        let served = Served::new(folder.path());
        let device = Loop::new(&served.file, SIZE);
        let offset = if kind == "partition" { 1 << 20 } else { 0 };
        let node = if offset > 0 { device.partition(offset, SIZE - offset) } else { device.node.clone() };
        let kind = if offset > 0 { "xfs" } else { kind };
        let mounted = Mounted::make(kind, node.to_str().unwrap(), &folder.path().join("m"));
        mounted.sync();
        let found = mounts_of(SIZE, &served.log, LIMIT).unwrap();
        let places: Vec<_> = found
            .mounts
            .iter()
            .map(|one| (one.mount.mount_point.clone(), one.whole.clone(), one.offset))
            .collect();
        assert_eq!(places, [(mounted.at.clone(), device.node.clone(), Some(offset))], "{kind} {found:?}");
        // Those of other tests may be.
        let ours = found.unclear.iter().find(|one| [&mounted.at, &strange.at].contains(&&one.mount_point));
        assert_eq!(ours, None);
        // What is put there stands on it, what is put elsewhere does not.
        for path in [&mounted.at.join("store"), &device.node, &node, &served.file] {
            let how = stands_on_device(path, SIZE, &served.log, LIMIT).unwrap();
            assert!(how.is_some(), "{kind}: {}", path.display());
        }
        for path in [&strange.at.join("store"), &stranger.node, &folder.path().join("store")] {
            assert_eq!(stands_on_device(path, SIZE, &served.log, LIMIT).unwrap(), None, "{}", path.display());
        }
        // Another device of that size sees nothing of it.
        let blind = Log { file: folder.path().join("nothing"), from: AtomicUsize::new(0) };
        assert_eq!(mounts_of(SIZE, &blind, LIMIT).unwrap().mounts, []);
        assert_eq!(mounts_of(SIZE + (1 << 20), &served.log, LIMIT).unwrap().mounts, []);
        drop(mounted);
        drop(device);
    }
    drop(strange);
}

/// Sends a signal to a program of this test.
fn signal(child: &Child, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(process, signal).unwrap();
}

/// A server that hangs, below a mounted file system: it cannot be told, and nobody waits for it.
#[test]
fn a_server_that_hangs_is_given_up_and_counts_as_unclear() {
    if !can(&["mkfs.ext4", "nbdkit", "nbdfuse", "fusermount3"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let served = Served::new(folder.path());
    let device = Loop::new(&served.file, SIZE);
    let mounted = Mounted::make("ext4", device.node(), &folder.path().join("m"));
    mounted.sync();
    signal(&served.nbdkit, rustix::process::Signal::STOP);
    let (limit, began) = (Duration::from_millis(300), Instant::now());
    let found = mounts_of(SIZE, &served.log, limit);
    let stands = stands_on_device(&mounted.at.join("store"), SIZE, &served.log, limit);
    let took = began.elapsed();
    signal(&served.nbdkit, rustix::process::Signal::CONT);
    let found = found.unwrap();
    assert!(found.unclear.iter().any(|one| one.mount_point == mounted.at), "{found:?}");
    assert_eq!(found.mounts, []);
    // The path itself cannot be looked up, unless the kernel still knows it.
    let error = stands.unwrap_err();
    assert!([ErrorKind::Timeout, ErrorKind::Busy].contains(&error.kind()), "{error}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    let again = mounts_of(SIZE, &served.log, LIMIT).unwrap();
    assert_eq!(again.mounts.len(), 1, "{again:?}");
    drop(mounted);
    drop(device);
}

/// While others write and read: what they do is not taken for the probe, nor the probe missed.
#[test]
fn a_busy_file_system_is_found_all_the_same() {
    if !can(&["mkfs.ext4", "nbdkit", "nbdfuse", "fusermount3"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let served = Served::new(folder.path());
    let device = Loop::new(&served.file, SIZE);
    let mounted = Mounted::make("ext4", device.node(), &folder.path().join("m"));
    let stop = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while stop.load(Ordering::SeqCst) == 0 {
                let path = mounted.at.join("busy");
                fs::write(&path, vec![1; 16 << 20]).unwrap();
                mounted.sync();
                assert_eq!(fs::read(&path).unwrap().len(), 16 << 20);
            }
        });
        for _ in 0..10 {
            let found = mounts_of(SIZE, &served.log, LIMIT);
            if !found.as_ref().is_ok_and(|found| found.mounts.len() == 1) {
                stop.store(1, Ordering::SeqCst);
                panic!("{found:?}");
            }
        }
        stop.store(1, Ordering::SeqCst);
    });
    drop(mounted);
    drop(device);
}

/// Sees everything: as a device that a backup reads from end to end.
struct SeesAll;

impl ReadWatcher for SeesAll {
    fn clear(&self) {}

    fn saw(&self, _: ByteRange) -> bool {
        true
    }
}

#[test]
fn a_device_that_is_read_from_end_to_end_proves_nothing() {
    if !can(&[]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&folder.path().join("disk"), SIZE);
    let number = mounts::device_number(&device.node).unwrap();
    let candidate = mounts::block_device(number).unwrap();
    assert_eq!(probe(&candidate, &SeesAll, LIMIT), Finding::Unclear);
}

#[test]
fn a_device_that_does_not_answer_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    // Opening a pipe that nobody writes to hangs as a dead file system does.
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let signature = Signature::random(SIZE).unwrap();
    let began = Instant::now();
    let error = read_signature(&pipe, &signature, Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(began.elapsed() < LIMIT);
    let _ = rustix::fs::open(&pipe, rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
}

#[test]
fn signatures_lie_within_the_device_and_apart() {
    for size in [512 << 10, 1 << 20, SIZE, 16 << 40] {
        let signature = Signature::random(size).unwrap();
        let mut all = [signature.reads.clone(), signature.decoys.clone()].concat();
        assert_eq!((signature.reads.len(), all.len()), (8, 16));
        all.sort_by_key(|range| range.start());
        assert!(all.windows(2).all(|pair| pair[0].end() <= pair[1].start()));
        assert!(all.iter().all(|range| range.end() <= size && range.is_aligned_to(4096)));
    }
    assert_ne!(Signature::random(SIZE).unwrap(), Signature::random(SIZE).unwrap());
    assert_eq!(Signature::random(4096).unwrap_err().kind(), ErrorKind::Invalid);
}
