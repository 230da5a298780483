//! A real block device as the source of a device: direct by default, in its own sectors, for one user.
#![cfg(test)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::nbd::{FUA, WRITE};
use common::tools::{both, finish, first_difference, is_root, noise, part, skip};
use common::{Daemon, MIB, file_bytes, sparse_file, tool};

/// A loop device over a file, given back when this is dropped.
struct Loop {
    device: PathBuf,
}

impl Loop {
    fn attach(file: &Path, sector: u64) -> Option<Self> {
        let losetup = tool("losetup")?;
        let mut command = Command::new(losetup);
        let output =
            finish(command.args(["--find", "--show", "--sector-size", &sector.to_string()]).arg(file));
        if !output.status.success() {
            skip(&format!("there is no loop device: {}", both(&output).trim()));
            return None;
        }
        Some(Self { device: PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()) })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

#[test]
fn in_its_own_sectors_with_snapshots_and_for_one_user() {
    if !is_root() {
        return;
    }
    for sector in [512, 4096] {
        let daemon = Daemon::start();
        let file = daemon.path("backing");
        sparse_file(&file, 64 * MIB);
        let Some(disk) = Loop::attach(&file, sector) else { return };
        let source = disk.device.to_str().unwrap();
        if sector == 4096 {
            let said = daemon.refused(&["device", "add", "small", source, "--block-size", "512"]);
            assert!(said.contains("cannot be smaller"), "{said}");
        }
        daemon.ok(&["device", "add", "blk", source]);
        let shown = daemon.json(&["device", "show", "blk", "--json"]);
        assert_eq!(shown["block_size"], sector);
        assert_eq!(shown["cache"], "direct");
        assert_eq!(shown["size"], 64 * MIB);
        let said = daemon.refused(&["device", "add", "again", source]);
        assert!(said.contains("in use") || said.contains("locked"), "{said}");

        let mut client = daemon.connect("blk");
        let old = noise(sector, 8 * MIB);
        client.write(MIB, &old).unwrap();
        client.flush().unwrap();
        daemon.ok(&["snapshot", "take", "blk", "--name", "s"]);
        let new = noise(sector + 1, 4 * MIB);
        client.write(3 * MIB, &new).unwrap();
        client.write(60 * MIB, &noise(9, sector)).unwrap();
        let image = daemon.read_all("s/blk");
        assert_eq!(first_difference(part(&image, MIB, 8 * MIB), &old), None);
        assert!(image[60 * 1024 * 1024..].iter().all(|&byte| byte == 0));
        assert_eq!(first_difference(part(&daemon.read_all("blk"), 3 * MIB, 4 * MIB), &new), None);
        drop(client);
        daemon.ok(&["snapshot", "remove", "s"]);
        daemon.ok(&["device", "remove", "blk"]);
        // Removed, it is free for others at once.
        daemon.ok(&["device", "add", "again", source, "--cache", "buffered"]);
        assert_eq!(daemon.json(&["device", "show", "again", "--json"])["cache"], "buffered");
        daemon.ok(&["device", "remove", "again"]);
    }
}

/// I7: what was flushed, or written with FUA, is on the store below. Here that can be seen: through the page cache of the
/// loop device nothing reaches the file behind it before somebody makes it.
#[test]
fn i7_a_flush_and_fua_reach_the_store_below() {
    if !is_root() {
        return;
    }
    for cache in ["buffered", "direct"] {
        let daemon = Daemon::start();
        let file = daemon.path("backing");
        sparse_file(&file, 64 * MIB);
        let Some(disk) = Loop::attach(&file, 512) else { return };
        daemon.ok(&["device", "add", "blk", disk.device.to_str().unwrap(), "--cache", cache]);
        let mut client = daemon.connect("blk");
        let (flushed, durable) = (noise(1, MIB), noise(2, 64 * 1024));
        client.write(8 * MIB, &flushed).unwrap();
        client.flush().unwrap();
        let below = file_bytes(&file);
        assert_eq!(first_difference(part(&below, 8 * MIB, MIB), &flushed), None, "{cache}: flush");
        client.request(WRITE, FUA, (32 * MIB, durable.len() as u64), &durable, 0).unwrap();
        let below = file_bytes(&file);
        let found = part(&below, 32 * MIB, durable.len() as u64);
        assert_eq!(first_difference(found, &durable), None, "{cache}: FUA");
        drop(client);
        daemon.ok(&["device", "remove", "blk"]);
    }
}
