//! Diff storage of every kind: exact, in its bounds, given back; and what is refused.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_block::*;

use super::support::*;
use crate::cow::*;

fn spec(kind: StoreKind, limit: u64) -> StoreSpec {
    StoreSpec { kind, limit, step: MIB }
}

fn open(kind: StoreKind, limit: u64) -> Arc<DiffStorage> {
    DiffStorage::open(spec(kind, limit)).unwrap()
}

fn refused(kind: StoreKind, want: ErrorKind, why: &str) {
    let error = DiffStorage::open(spec(kind, 4 * MIB)).err().expect("refused");
    assert_eq!(error.kind(), want, "I8: {error}");
    assert!(error.to_string().contains(why), "{error}");
}

/// A file of bytes 0xee.
fn filled(dir: &tempfile::TempDir, name: &str, size: u64) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, vec![0xee; size as usize]).unwrap();
    path
}

/// Preserves 6 MiB in the storage, lets it reach its place, compares and removes.
fn use_up(storage: &Arc<DiffStorage>) {
    let (store, device) = device(6, Pace::Mixed);
    let before = store.contents();
    let snapshot = take_with("s", &device, None, storage, Arc::new(NoEvents));
    overwrite(&device, 0, 6 * MIB, 9);
    for _ in 0..5000 {
        if storage.backlog() == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(snapshot.state(), SnapshotState::Active);
    assert!(contents(image(&snapshot)) == before, "I2");
    assert!(storage.used() >= 6 * MIB);
    snapshot.remove(FREEZE).unwrap();
    assert_eq!(storage.used(), 0);
}

#[test]
fn a_directory_gets_a_file_without_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(StoreKind::Directory(dir.path().to_owned()), 16 * MIB);
    assert_eq!(storage.size(), MIB, "the first step is reserved");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is to be seen");
    use_up(&storage);
    assert!(storage.size() >= 6 * MIB, "it grew");
    refused(StoreKind::Directory(filled(&dir, "file", 1)), ErrorKind::Invalid, "not a directory");
    refused(StoreKind::Directory(dir.path().join("none")), ErrorKind::NotFound, "none");
}

#[test]
fn ranges_are_used_and_nothing_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (filled(&dir, "one", 8 * MIB), filled(&dir, "two", 8 * MIB));
    // Odd numbers of granules: the tail under a segment is not used, and a range under one not at all.
    let ranges = [
        (one.clone(), ByteRange::new(4096, 3 * MIB + 8192)),
        (one.clone(), ByteRange::new(6 * MIB, MIB)),
        (one.clone(), ByteRange::new(7 * MIB + 4096, 4096)),
        (two.clone(), ByteRange::new(MIB, 3 * MIB + 4096)),
    ];
    let storage = open(StoreKind::Ranges(ranges.to_vec()), 64 * MIB);
    assert_eq!(storage.limit(), 7 * MIB, "whole segments in ranges");
    use_up(&storage);
    for (path, used) in [(&one, &ranges[..3]), (&two, &ranges[3..])] {
        let bytes = fs::read(path).unwrap();
        let outside = |at: u64| !used.iter().any(|(_, range)| range.contains(ByteRange::new(at, 1)));
        let foreign = (0..8 * MIB).filter(|&at| outside(at)).find(|&at| bytes[at as usize] != 0xee);
        assert_eq!(foreign, None, "I1: a byte outside the ranges of {}", path.display());
        assert!(bytes.iter().any(|&byte| byte != 0xee), "it was used");
    }
    drop(storage);
    assert_eq!(fs::metadata(&one).unwrap().len(), 8 * MIB, "a foreign file is left as it is");
}

#[test]
fn a_range_in_a_hole_gets_its_space_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    fs::File::create(&path).unwrap().set_len(16 * MIB).unwrap();
    let storage = open(StoreKind::Ranges(vec![(path.clone(), ByteRange::new(MIB, 8 * MIB))]), 64 * MIB);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 8 * MIB, "later there may be none");
    use_up(&storage);
}

#[test]
fn ranges_that_cannot_be_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(&dir, "file", 4 * MIB);
    let linked = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &linked).unwrap();
    let ranges = |ranges: &[(&Path, u64, u64)]| {
        let typed = ranges.iter().map(|(path, at, len)| ((*path).to_owned(), ByteRange::new(*at, *len)));
        StoreKind::Ranges(typed.collect())
    };
    let path = path.as_path();
    let invalid = ErrorKind::Invalid;
    refused(ranges(&[]), invalid, "0 ranges are named");
    refused(ranges(&[(path, 0, 0)]), invalid, "is empty");
    refused(ranges(&[(path, 512, MIB)]), invalid, "multiples of 4096");
    refused(ranges(&[(path, 0, MIB + 512)]), invalid, "multiples of 4096");
    refused(ranges(&[(path, 0, MIB), (path, MIB - 4096, MIB)]), invalid, "overlaps");
    refused(ranges(&[(path, 0, MIB), (&linked, 4096, MIB)]), ErrorKind::Busy, "overlaps 0+1048576");
    refused(ranges(&[(path, 0, MIB), (path, 3 * MIB, 2 * MIB)]), ErrorKind::OutOfRange, "beyond its end");
    refused(ranges(&[(path, 0, 128 * 1024), (path, MIB, 8192)]), invalid, "none of the ranges has 262144");
    refused(ranges(&[(dir.path(), 0, MIB)]), invalid, "neither a file nor");
    refused(ranges(&[(&dir.path().join("no"), 0, MIB)]), ErrorKind::NotFound, "no");
    let many: Vec<_> = (0..1025).map(|at| (path, at * MIB, MIB)).collect();
    refused(ranges(&many), invalid, "1025 ranges");
    assert!(fs::read(path).unwrap().iter().all(|&byte| byte == 0xee), "nothing was done to it");

    let first = open(ranges(&[(path, 0, 2 * MIB)]), 4 * MIB);
    refused(ranges(&[(path, MIB, 2 * MIB)]), ErrorKind::Busy, "is in use by another storage");
    let beside = open(ranges(&[(path, 2 * MIB, MIB)]), 4 * MIB);
    drop((first, beside));
    drop(open(ranges(&[(path, MIB, 2 * MIB)]), 4 * MIB));
}

#[test]
fn what_a_storage_may_not_be_for_an_origin() {
    let dir = tempfile::tempdir().unwrap();
    let (source, other) = (filled(&dir, "disk", 4 * MIB), filled(&dir, "other", 4 * MIB));
    let linked = dir.path().join("link");
    fs::hard_link(&source, &linked).unwrap();
    let identity = FileIdentity::of(&source).unwrap();
    let check = |kind| spec(kind, MIB).check_origin("disk", &identity);
    let error = check(StoreKind::File(linked.clone())).unwrap_err();
    assert!(error.to_string().contains("is the file of the origin disk"), "{error}");
    check(StoreKind::File(other.clone())).unwrap();
    check(StoreKind::Directory(dir.path().to_owned())).unwrap();

    let ranges = vec![
        (linked, ByteRange::new(MIB, MIB)),
        (other, ByteRange::new(0, MIB)),
        (source, ByteRange::new(0, MIB)),
    ];
    let ranges = spec(StoreKind::Ranges(ranges), 8 * MIB);
    ranges.check_origin("disk", &identity).unwrap();
    let own = [ByteRange::new(0, MIB), ByteRange::new(MIB, MIB)];
    assert_eq!(ranges.ranges_on(&identity), own, "under any name");
    let error = ranges.check_extend("disk", &identity).unwrap_err();
    assert!(error.to_string().contains("is on disk itself"), "{error}");
    assert_eq!(open(ranges.kind.clone(), 8 * MIB).ranges_on(&identity), own);
}

#[test]
fn a_block_device_has_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(&dir, "file", MIB);
    refused(StoreKind::BlockDevice(path), ErrorKind::Invalid, "is not a block device");
    refused(StoreKind::BlockDevice("/dev/null".into()), ErrorKind::Invalid, "is not a block device");
    refused(StoreKind::BlockDevice(dir.path().join("none")), ErrorKind::NotFound, "none");
}

/// A file in the place of one of the operating system, as a simulated folder gives them.
struct Fake(fs::File);

impl bowline_state::StateFile for Fake {
    fn len(&self) -> Result<u64> {
        Ok(self.0.metadata().unwrap().len())
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<usize> {
        self.0.read_exact_at(data, offset).map_err(|error| Error::from_io("read", error))?;
        Ok(data.len())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.write_all_at(data, offset).map_err(|error| Error::from_io("write", error))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len).map_err(|error| Error::from_io("grow", error))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_made_up_medium_takes_the_place_of_a_file() {
    let medium = || -> Arc<dyn Medium> {
        let file = Arc::new(Fake(tempfile::tempfile().unwrap()));
        Arc::new(StateMedium::new(file, "made-up").unwrap())
    };
    let kind = StoreKind::File("made-up".into());
    let storage = DiffStorage::on_medium(spec(kind.clone(), 4 * MIB), medium(), Some(MIB)).unwrap();
    storage.extend_on(spec(kind, 8 * MIB), medium(), Some(MIB)).unwrap();
    assert_eq!(storage.limit(), 12 * MIB);
    use_up(&storage);
}

#[test]
fn a_storage_that_is_kept_is_opened_again_with_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept");
    let stores = [spec(StoreKind::File(path.clone()), 4 * MIB)];
    let storage = DiffStorage::open(stores[0].clone()).unwrap();
    storage.keep(true);
    let origin = Arc::from("disk");
    let mut segments = Vec::new();
    for number in 0..6u8 {
        let store::Got::Segment(segment) = storage.segment(&origin) else { panic!("no segment") };
        segment.hold(1);
        segment.write(0, 4096, |room| room.fill(number + 1));
        storage.store(&segment);
        segments.push(segment);
    }
    while storage.backlog() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let places: Vec<u32> = segments.iter().map(|segment| segment.place).collect();
    drop((segments, storage));
    assert!(path.exists(), "it is kept");

    let again = DiffStorage::reopen(&stores).unwrap();
    let used = [places[1], places[4]].into();
    let adopted = again.adopt(&used).unwrap();
    assert_eq!(again.used(), 2 * SEGMENT_BYTES);
    for (segment, byte) in adopted.iter().zip([2, 5]) {
        let mut room = [0; 4096];
        assert!(matches!(segment.read_now(0, &mut room), Now::Done(Ok(()))));
        assert_eq!(room, [byte; 4096]);
    }
    assert!(again.adopt(&used).is_err(), "I8: what is taken cannot be taken again");
    assert!(again.adopt(&[4000].into()).is_err(), "I8: nor what there is not");
    // The places between are handed out again, those in use are not.
    let mut handed_out = Vec::new();
    while let store::Got::Segment(segment) = again.segment(&origin) {
        assert!(!used.contains(&segment.place));
        handed_out.push(segment);
    }
    assert_eq!(handed_out.len(), 14);
    again.keep(false);
    drop((adopted, handed_out, again));
    assert!(!path.exists(), "given back in the end");
    let memory = [spec(StoreKind::Memory, MIB)];
    assert!(DiffStorage::reopen(&memory).is_err(), "memory does not outlive a process");
    assert_eq!(DiffStorage::reopen(&stores).err().unwrap().kind(), ErrorKind::NotFound);
}
