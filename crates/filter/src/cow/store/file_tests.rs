//! A storage's file by itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bowline_block::ErrorKind;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Medium, StoreFile};

const STEP: u64 = 1 << 20;

#[test]
fn a_signal_while_it_grows_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let file = StoreFile::open(&dir.path().join("diff"), STEP).unwrap();
    let mut tries = 0;
    let grown = file.grow_by(2 * STEP, |from, len| {
        assert_eq!((from, len), (STEP, STEP));
        tries += 1;
        if tries < 3 { Err(Errno::INTR) } else { Ok(()) }
    });
    grown.unwrap();
    assert_eq!((tries, file.size()), (3, 2 * STEP));
    let full = file.grow_by(3 * STEP, |_, _| Err(Errno::NOSPC)).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.size(), 2 * STEP);
}

#[test]
fn a_file_is_of_one_storage_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("diff");
    let refused = |path: &std::path::Path| {
        let error = StoreFile::open(path, STEP).err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Busy, "I8: {error}");
        assert!(error.to_string().contains("is in use"), "{error}");
    };
    let first = StoreFile::open(&path, STEP).unwrap();
    refused(&path);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), STEP, "the first one's file is as it was");
    first.dispose();
    drop(first);
    assert!(!path.exists());

    // Another process has only just begun with it.
    let theirs = std::fs::File::create(&path).unwrap();
    flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
    refused(&path);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "nothing was done to it");
    drop(theirs);
    StoreFile::open(&path, STEP).unwrap().dispose();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
}
