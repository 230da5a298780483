//! Who owns the bytes of real file systems.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // helpers of tests

mod common;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;

use bowline_block::{ByteRange, ErrorKind};
use bowline_kernel::explain::{ByteOwner, Explanation, Limits, explain};
use bowline_kernel::fiemap::{Which, for_each_extent};
use common::{Loop, Mounted, can, said};

const SIZE: u64 = 320 << 20;
const MIB: u64 = 1 << 20;

/// Where a file is, once it is there.
fn places(file: &Path) -> Vec<ByteRange> {
    let mut found = Vec::new();
    for_each_extent(File::open(file).unwrap(), Which::Synced, |extent| {
        found.push(extent.physical);
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn bytes_of(explanation: &Explanation, owner: &ByteOwner) -> u64 {
    explanation.shares.iter().filter(|share| share.owner == *owner).map(|share| share.bytes).sum()
}

/// The invariant: the shares sum up to what was asked, the largest first.
fn check(explanation: &Explanation, asked: u64) {
    let sum: u64 = explanation.shares.iter().map(|share| share.bytes).sum();
    assert_eq!((sum, explanation.bytes), (asked, asked), "{explanation:?}");
    assert!(explanation.shares.windows(2).all(|pair| pair[0].bytes >= pair[1].bytes));
    assert!(explanation.shares.iter().all(|share| share.extents > 0 && share.bytes > 0));
}

fn moved(ranges: &[ByteRange], offset: u64) -> Vec<ByteRange> {
    ranges.iter().map(|range| range.moved_to(range.start() + offset)).collect()
}

/// Files by name, a deleted one as free, the rest as what the file system says; in a partition and without one.
fn files_are_named(kind: &str, options: &[&str], offset: u64) {
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&folder.path().join("disk"), SIZE + offset);
    let node = if offset == 0 { device.node.clone() } else { device.partition(offset, SIZE) };
    let node = node.to_str().unwrap();
    let mut arguments = vec!["-q"];
    arguments.extend(options);
    arguments.push(node);
    said(&format!("mkfs.{kind}"), &arguments);
    let mounted = Mounted::mount(kind, node, &folder.path().join("m"));
    let at = |name: &str| mounted.at.join(name);
    let ask = |extents: &[ByteRange]| {
        let explanation = explain(&mounted.at, offset, extents, Limits::default()).unwrap();
        assert_eq!(explanation.incomplete, None);
        explanation
    };

    fs::create_dir(at("deep folder")).unwrap();
    let names = ["one", "deep folder/other", "gone"];
    for (index, name) in names.iter().enumerate() {
        fs::write(at(name), vec![1 + u8::try_from(index).unwrap(); (5 + index) << 20]).unwrap();
    }
    fs::hard_link(at("one"), at("deep folder/same")).unwrap();
    std::os::unix::fs::symlink("/", at("to the root")).unwrap();
    let [one, other, gone] = names.map(|name| moved(&places(&at(name)), offset));
    fs::remove_file(at("gone")).unwrap();
    mounted.sync();

    // All of one, half of another, what was deleted; unsorted, and one of them twice.
    let half = ByteRange::new(other[0].start(), 4096);
    let mut asked = [gone.clone(), one.clone(), vec![half], one.clone()].concat();
    let explanation = ask(&asked);
    check(&explanation, (7 * MIB) + (5 * MIB) + 4096);
    let first =
        [at("one"), at("deep folder/same")].map(|path| bytes_of(&explanation, &ByteOwner::File(path)));
    assert_eq!(first.iter().sum::<u64>(), 5 * MIB, "a hard link counts once: {explanation:?}");
    assert!(first.contains(&0));
    assert_eq!(bytes_of(&explanation, &ByteOwner::File(at("deep folder/other"))), 4096);
    assert_eq!(bytes_of(&explanation, &ByteOwner::Free), 7 * MIB, "{explanation:?}");
    assert_eq!(explanation.shares[0].owner, ByteOwner::Free);

    // The whole device, and what lies around it.
    asked = vec![ByteRange::new(0, offset + SIZE + MIB)];
    let explanation = ask(&asked);
    check(&explanation, offset + SIZE + MIB);
    assert_eq!(bytes_of(&explanation, &ByteOwner::Outside), offset + MIB);
    assert_eq!(bytes_of(&explanation, &ByteOwner::File(at("deep folder/other"))), 6 * MIB);
    let metadata = explanation.shares.iter().filter(|share| matches!(share.owner, ByteOwner::Metadata(_)));
    let told: u64 = metadata.map(|share| share.bytes).sum();
    let unknown = bytes_of(&explanation, &ByteOwner::Unknown);
    assert!(bytes_of(&explanation, &ByteOwner::Metadata("journal")) >= 4 * MIB, "{explanation:?}");
    if kind == "ext4" || options.contains(&"rmapbt=1") {
        assert!(unknown < told / 4, "{explanation:?}");
    } else {
        assert!(unknown > 0, "{explanation:?}");
    }
    check(&ask(&[]), 0);
}

#[test]
fn files_of_ext4_are_named() {
    if can(&["mkfs.ext4", "addpart"]) {
        files_are_named("ext4", &["-F"], 0);
        files_are_named("ext4", &["-F", "-b", "1024"], 3 * MIB);
    }
}

#[test]
fn files_of_xfs_are_named() {
    if can(&["mkfs.xfs", "addpart"]) {
        files_are_named("xfs", &["-f", "-m", "rmapbt=0"], 0);
        files_are_named("xfs", &["-f", "-m", "rmapbt=1"], 5 * MIB);
    }
}

/// A wrong offset is what a mistake about partitions would be: the oracle must notice.
#[test]
fn a_planted_wrong_offset_is_noticed() {
    if !can(&["mkfs.ext4"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&folder.path().join("disk"), SIZE);
    let mounted = Mounted::make("ext4", device.node(), &folder.path().join("m"));
    let file = mounted.at.join("file");
    fs::write(&file, vec![1; 8 << 20]).unwrap();
    let asked = places(&file);
    mounted.sync();
    let owner = ByteOwner::File(file);
    let right = explain(&mounted.at, 0, &asked, Limits::default()).unwrap();
    assert_eq!(bytes_of(&right, &owner), 8 * MIB);
    let wrong = explain(&mounted.at, MIB, &asked, Limits::default()).unwrap();
    check(&wrong, 8 * MIB);
    assert_ne!(bytes_of(&wrong, &owner), 8 * MIB);
    // What is asked of too much is told as far as it got, and says so.
    let limits = Limits { files: 0, ..Limits::default() };
    let cut = explain(&mounted.at, 0, &asked, limits).unwrap();
    check(&cut, 8 * MIB);
    assert!(cut.incomplete.is_some_and(|why| why.contains("0 files")));
    assert_eq!(cut.shares[0].owner, ByteOwner::Unknown);
}

/// A file of thousands of extents takes several pages.
#[test]
fn a_file_in_thousands_of_pieces_is_claimed_whole() {
    if !can(&["mkfs.ext4"]) {
        return;
    }
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&folder.path().join("disk"), SIZE);
    let mounted = Mounted::make("ext4", device.node(), &folder.path().join("m"));
    let path = mounted.at.join("sparse");
    let file = File::create(&path).unwrap();
    for block in 0..3000_u64 {
        file.write_all_at(&[1; 4096], block * 8192).unwrap();
    }
    let asked = places(&path);
    assert!(asked.len() > 1000, "{} extents", asked.len());
    mounted.sync();
    let explanation = explain(&mounted.at, 0, &asked, Limits::default()).unwrap();
    check(&explanation, 3000 * 4096);
    assert_eq!(bytes_of(&explanation, &ByteOwner::File(path)), 3000 * 4096);
}

#[test]
fn what_cannot_be_explained_is_refused_with_the_reason() {
    if !can(&["mkfs.btrfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let device = Loop::new(&folder.path().join("disk"), SIZE);
    let mounted = Mounted::make("btrfs", device.node(), &folder.path().join("m"));
    let asked = [ByteRange::new(0, 4096)];
    let error = explain(&mounted.at, 0, &asked, Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("logical addresses"), "{error}");
    let error = explain(Path::new("/proc"), 0, &asked, Limits::default()).unwrap_err();
    assert!(error.to_string().contains("only ext2, ext3, ext4 and xfs"), "{error}");
    let error = explain(&mounted.at.join("x"), 0, &asked, Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
