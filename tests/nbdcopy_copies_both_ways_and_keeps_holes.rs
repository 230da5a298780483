//! nbdcopy over several connections: the same bytes at both ends, and holes stay holes.
#![cfg(test)]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::tools::{append_zeroes, first_difference, noise, part};
use common::{Daemon, MIB, file_bytes, run, sparse_file, tool};

fn stored_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// 64 MiB with 3 MiB of data.
fn sparse_source(path: &Path) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    sparse_file(path, 64 * MIB);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    for (seed, at) in [(1, 0), (2, 20 * MIB), (3, 63 * MIB)] {
        file.write_all_at(&noise(seed, MIB), at).unwrap();
    }
    file_bytes(path)
}

#[test]
fn what_goes_in_over_four_connections_comes_out() {
    let Some(nbdcopy) = tool("nbdcopy") else { return };
    let daemon = Daemon::start();
    let disk = daemon.add_file("disk", 64 * MIB);
    let (from, back) = (daemon.path("from.raw"), daemon.path("back.raw"));
    let mut bytes = noise(5, 40 * MIB);
    append_zeroes(&mut bytes, 24 * MIB);
    std::fs::write(&from, &bytes).unwrap();
    let (from, back_arg, uri) = (from.to_str().unwrap(), back.to_str().unwrap(), daemon.uri("disk"));
    run(&nbdcopy, ["--connections=4", "--flush", from, &uri]);
    assert_eq!(first_difference(&file_bytes(&disk), &bytes), None);
    run(&nbdcopy, ["--connections=4", &uri, back_arg]);
    assert_eq!(first_difference(&file_bytes(&back), &bytes), None);
}

#[test]
fn it_copies_from_device_to_device() {
    let Some(nbdcopy) = tool("nbdcopy") else { return };
    let daemon = Daemon::start();
    daemon.add_file("a", 16 * MIB);
    daemon.ok(&["device", "add", "b", "mem:16M", "--block-size", "4096"]);
    let bytes = noise(6, 16 * MIB);
    daemon.connect("a").write(0, &bytes).unwrap();
    run(&nbdcopy, ["--connections=4", &daemon.uri("a"), &daemon.uri("b")]);
    assert_eq!(first_difference(&daemon.read_all("b"), &bytes), None);
}

#[test]
fn a_sparse_file_stays_sparse_both_ways() {
    let Some(nbdcopy) = tool("nbdcopy") else { return };
    let daemon = Daemon::start();
    let disk = daemon.add_file("disk", 64 * MIB);
    let (from, back) = (daemon.path("from.raw"), daemon.path("back.raw"));
    let bytes = sparse_source(&from);
    run(&nbdcopy, ["--connections=2", from.to_str().unwrap(), &daemon.uri("disk")]);
    run(&nbdcopy, ["--connections=2", &daemon.uri("disk"), back.to_str().unwrap()]);
    for path in [&disk, &back] {
        assert_eq!(first_difference(&file_bytes(path), &bytes), None, "{path:?}");
        assert!(
            stored_bytes(path) <= 4 * MIB,
            "{path:?} takes {} bytes for 3 MiB of data",
            stored_bytes(path)
        );
    }
}

#[test]
fn an_image_reports_the_holes_of_its_instant() {
    let Some(nbdcopy) = tool("nbdcopy") else { return };
    let daemon = Daemon::start();
    let disk = daemon.add_file("disk", 64 * MIB);
    let (from, back) = (daemon.path("from.raw"), daemon.path("back.raw"));
    let bytes = sparse_source(&from);
    run(&nbdcopy, [from.to_str().unwrap(), &daemon.uri("disk")]);
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    let mut client = daemon.connect("disk");
    client.write(30 * MIB, &noise(9, MIB)).unwrap();
    client.trim(20 * MIB, MIB).unwrap();
    client.write_zeroes(63 * MIB, MIB).unwrap();
    run(&nbdcopy, ["--connections=4", &daemon.uri("s/disk"), back.to_str().unwrap()]);
    assert_eq!(first_difference(&file_bytes(&back), &bytes), None, "I2");
    assert!(stored_bytes(&back) <= 5 * MIB, "the copy takes {} bytes for 3 MiB of data", stored_bytes(&back));
    assert!(part(&file_bytes(&disk), 20 * MIB, MIB).iter().all(|&byte| byte == 0));
}
