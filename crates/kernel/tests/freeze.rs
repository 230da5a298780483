//! Freezing real file systems on loop devices.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // helpers of tests

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bowline_block::ErrorKind;
use bowline_kernel::freeze::{FrozenFs, freeze_all, try_thaw_all};
use common::{Loop, Mounted, can};

const SIZE: u64 = 320 << 20;
const LONG: Duration = Duration::from_secs(20);

/// Writes on and on, on a thread; counts.
fn writer(folder: &Path) -> (Arc<AtomicU64>, impl FnOnce()) {
    let count = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (path, counted, stopped) = (folder.join("written"), count.clone(), stop.clone());
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            fs::write(&path, counted.load(Ordering::SeqCst).to_string()).unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (count, move || {
        stop.store(true, Ordering::SeqCst);
        thread.join().unwrap();
    })
}

fn moves(count: &AtomicU64, for_at_most: Duration) -> bool {
    let (before, began) = (count.load(Ordering::SeqCst), Instant::now());
    while began.elapsed() < for_at_most {
        // One write may have been under way.
        if count.load(Ordering::SeqCst) > before + 1 {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn a_freeze_holds_a_writer_until_the_thaw() {
    for kind in ["ext4", "xfs"] {
        if !can(&[&format!("mkfs.{kind}")]) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let device = Loop::new(&folder.path().join("disk"), SIZE);
        let mounted = Mounted::make(kind, device.node(), &folder.path().join("m"));
        let (count, stop) = writer(&mounted.at);
        assert!(moves(&count, LONG), "the writer does not write");
        let frozen = FrozenFs::freeze(&mounted.at, LONG).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!moves(&count, Duration::from_millis(300)), "{kind}: written while frozen");
        assert!(frozen.is_frozen());
        // Twice is refused, and does not end the first.
        let twice = FrozenFs::freeze(&mounted.at, LONG).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::Busy);
        assert!(twice.to_string().contains("frozen already"), "{twice}");
        assert!(!moves(&count, Duration::from_millis(100)));
        frozen.thaw().unwrap();
        assert!(moves(&count, LONG), "{kind}: not thawed");
        drop(FrozenFs::freeze(&mounted.at, LONG).unwrap());
        assert!(moves(&count, LONG), "{kind}: not thawed by the drop");
        stop();
    }
}

#[test]
fn what_is_held_too_long_thaws_by_itself_and_says_so() {
    if !can(&["mkfs.ext4"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&folder.path().join("disk"), SIZE);
    let mounted = Mounted::make("ext4", device.node(), &folder.path().join("m"));
    let (count, stop) = writer(&mounted.at);
    let frozen = FrozenFs::freeze_and_hold(&mounted.at, LONG, Duration::from_millis(200)).unwrap();
    assert!(moves(&count, LONG), "still frozen");
    assert!(!frozen.is_frozen());
    let error = frozen.thaw().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("held for 200ms"), "{error}");
    stop();
}

/// A file system whose device does not answer: its lower one is frozen.
#[test]
fn a_freeze_that_takes_too_long_fails_and_is_undone_when_it_comes() {
    if !can(&["mkfs.ext4"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&folder.path().join("disk"), 2 * SIZE);
    let lower = Mounted::make("ext4", device.node(), &folder.path().join("lower"));
    let inner = Loop::new(&lower.at.join("inner"), SIZE);
    let upper = Mounted::make("ext4", inner.node(), &folder.path().join("upper"));
    lower.sync();
    fs::write(upper.at.join("file"), vec![7; 1 << 20]).unwrap();
    let below = FrozenFs::freeze_and_hold(&lower.at, LONG, LONG).unwrap();
    let began = Instant::now();
    let error = FrozenFs::freeze(&upper.at, Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("did not come to rest within 300ms"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "the limit was not kept");
    below.thaw().unwrap();
    // The ioctl returns now, and what it froze is let go at once.
    let (count, stop) = writer(&upper.at);
    assert!(moves(&count, LONG), "left frozen");
    stop();
    // In the right order, asked for in the wrong one and one of them twice, it works.
    for asked in [[&lower.at, &upper.at, &lower.at], [&upper.at, &lower.at, &upper.at]] {
        fs::write(upper.at.join("file"), vec![8; 1 << 20]).unwrap();
        let both = freeze_all(&asked.map(Clone::clone), Duration::from_secs(10)).unwrap();
        let order: Vec<&Path> = both.iter().map(FrozenFs::mount_point).collect();
        assert_eq!(order, [upper.at.as_path(), lower.at.as_path()]);
        try_thaw_all(both).unwrap();
    }
    // All or none.
    let missing = lower.at.join("nothing");
    assert!(freeze_all(&[upper.at.clone(), missing], Duration::from_secs(10)).is_err());
    let (count, stop) = writer(&upper.at);
    assert!(moves(&count, LONG), "left frozen");
    stop();
    drop(upper);
    drop(inner);
    drop(lower);
}

#[test]
fn what_cannot_be_frozen_says_why() {
    if !can(&[]) {
        return;
    }
    let error = FrozenFs::freeze(Path::new("/proc"), LONG).unwrap_err();
    assert!(error.to_string().contains("cannot be frozen"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    // The folder of a file system that was unmounted: freezing it would freeze the one that it is on.
    for nothing in [Path::new("/nothing/there"), folder.path()] {
        let error = FrozenFs::freeze(nothing, LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    fs::write(folder.path().join("file"), "not frozen").unwrap();
}
