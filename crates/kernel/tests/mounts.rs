//! What real mounts and loop devices stand on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // helpers of tests

mod common;

use std::path::Path;

use bowline_block::ByteRange;
use bowline_kernel::ancestors::{Ancestor, ancestors, stands_on};
use bowline_kernel::{block, mounts};
use common::{Loop, Mounted, can, said};

const SIZE: u64 = 320 << 20;

#[test]
fn a_file_is_known_to_stand_on_everything_below_it() {
    if !can(&["mkfs.ext4", "mkfs.xfs", "addpart"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk one");
    let device = Loop::new(&disk, 2 * SIZE);
    let part = device.partition(1 << 20, 2 * SIZE - (1 << 20)).to_str().unwrap().to_owned();
    let lower = Mounted::make("ext4", &part, &folder.path().join("lo wer"));
    let inner = Loop::new(&lower.at.join("inner"), SIZE);
    let upper = Mounted::make("xfs", inner.node(), &folder.path().join("upper"));

    let store = upper.at.join("not/there/yet");
    let chain = ancestors(&store).unwrap();
    let names: Vec<String> = chain.iter().map(ToString::to_string).collect();
    let expected = [
        format!("the file {}", store.display()),
        format!("the xfs file system at {}", upper.at.display()),
        inner.node().to_owned(),
        format!("the file {}", inner.file.display()),
        format!("the ext4 file system at {}", lower.at.display()),
        part.clone(),
        device.node().to_owned(),
        format!("the file {}", disk.display()),
    ];
    assert_eq!(names[..8], expected);
    let Ancestor::Device(partition) = &chain[5] else { panic!("{chain:?}") };
    assert_eq!(partition.partition.map(|(_, start)| start), Some(1 << 20));
    assert_eq!(partition.size, 2 * SIZE - (1 << 20));

    for origin in [&disk, &device.node, &inner.file, &inner.node, Path::new(&part), &store] {
        let how = stands_on(&store, origin).unwrap();
        assert!(how.is_some(), "{}", origin.display());
    }
    let how = stands_on(&store, &inner.file).unwrap().unwrap();
    assert_eq!(how, names[..4].join(", on "));
    // Not the other way round, and not on a neighbour; the same file by another name counts.
    assert_eq!(stands_on(&disk, &inner.file).unwrap(), None);
    assert_eq!(stands_on(&folder.path().join("neighbour"), &disk).unwrap(), None);
    let other_name = folder.path().join("link");
    std::fs::hard_link(&disk, &other_name).unwrap();
    assert!(stands_on(&store, &other_name).unwrap().is_some());

    let mounted = mounts::mounted_block_devices().unwrap();
    let found = mounted.iter().find(|one| one.mount_point == upper.at).unwrap();
    assert_eq!((found.fs_type.as_str(), &found.device.path, found.device.size), ("xfs", &inner.node, SIZE));
    assert_eq!(found.device.loop_file.as_ref(), Some(&inner.file));
    drop(upper);
    drop(inner);
    drop(lower);
}

#[test]
fn btrfs_is_found_by_its_devices_all_of_them() {
    if !can(&["mkfs.btrfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let one = Loop::new(&folder.path().join("one"), SIZE);
    let other = Loop::new(&folder.path().join("other"), SIZE);
    said("mkfs.btrfs", &["-q", "-f", one.node(), other.node()]);
    let mounted = Mounted::mount("btrfs", one.node(), &folder.path().join("m"));
    let all = mounts::mounted_block_devices().unwrap();
    let mut found: Vec<_> = all
        .iter()
        .filter(|found| found.mount_point == mounted.at)
        .map(|found| found.device.path.clone())
        .collect();
    found.sort();
    let mut expected = vec![one.node.clone(), other.node.clone()];
    expected.sort();
    assert_eq!(found, expected);
    assert!(stands_on(&mounted.at.join("x"), &other.file).unwrap().is_some());
}

#[test]
fn block_devices_are_asked_discarded_and_zeroed() {
    if !can(&[]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    std::fs::write(&file, vec![7; 1 << 20]).unwrap();
    let device = Loop::new(&file, 1 << 20);
    let node = std::fs::File::options().read(true).write(true).open(&device.node).unwrap();
    assert_eq!(block::size_bytes(&node).unwrap(), 1 << 20);
    assert_eq!(block::logical_block_bytes(&node).unwrap(), 512);
    assert!(!block::is_read_only(&node).unwrap());
    block::zero_out(&node, ByteRange::new(4096, 8192)).unwrap();
    block::discard(&node, ByteRange::new(65536, 65536)).unwrap();
    rustix::fs::fsync(&node).unwrap();
    let found = std::fs::read(&file).unwrap();
    let zeroes: Vec<usize> = (0..found.len()).filter(|&at| found[at] == 0).collect();
    let expected: Vec<usize> = (4096..12288).chain(65536..131_072).collect();
    assert!(zeroes == expected, "{} zeroes", zeroes.len());
    let beyond = block::discard(&node, ByteRange::new(1 << 20, 4096)).unwrap_err();
    assert!(beyond.to_string().contains("discard 1048576"), "{beyond}");
    let plain = std::fs::File::open(&file).unwrap();
    assert!(block::size_bytes(&plain).is_err());
}
