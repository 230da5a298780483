//! qemu-io verifies patterns after writes, discards and zeroings, on both block sizes.
#![cfg(test)]

mod common;

use std::process::Command;

use common::tools::{both, finish};
use common::{Daemon, MIB, tool};

fn disk(block_size: &str) -> Daemon {
    let daemon = Daemon::start();
    let path = daemon.path("disk.raw");
    let path = path.to_str().unwrap();
    daemon.ok(&["device", "add", "disk", path, "--size", "16M", "--block-size", block_size]);
    daemon
}

/// Runs commands of qemu-io in one session. Returns what it said, and whether every pattern was verified.
fn qemu_io(daemon: &Daemon, commands: &[&str]) -> Option<(String, bool)> {
    let program = tool("qemu-io")?;
    let mut command = Command::new(program);
    command.args(["-f", "raw", "-t", "none"]).arg(daemon.uri("disk"));
    for one in commands {
        command.args(["-c", one]);
    }
    let output = finish(&mut command);
    let said = both(&output);
    let sound = output.status.success() && !said.contains("verification failed") && !said.contains("failed:");
    Some((said, sound))
}

fn verified(block_size: &str, commands: &[&str]) {
    let daemon = disk(block_size);
    if let Some((said, sound)) = qemu_io(&daemon, commands) {
        assert!(sound, "{said}");
    }
}

#[test]
fn writes_at_any_alignment_of_512() {
    verified(
        "512",
        &[
            "write -P 0xa1 0 1M",
            "write -P 0xb2 512 512",
            "write -P 0xc3 4608 7680",
            "write -f -P 0xd4 1048064 1024",
            "flush",
            "read -P 0xa1 0 512",
            "read -P 0xb2 512 512",
            "read -P 0xa1 1024 3584",
            "read -P 0xc3 4608 7680",
            "read -P 0xd4 1048064 1024",
            "read -P 0 1049088 1M",
        ],
    );
}

#[test]
fn discards_and_zeroings() {
    for block_size in ["512", "4096"] {
        verified(
            block_size,
            &[
                "write -P 0x11 0 4M",
                "write -z 1M 64k",
                "write -z -u 2M 64k",
                "discard 3M 64k",
                "flush",
                "read -P 0x11 0 1M",
                "read -P 0 1M 64k",
                "read -P 0x11 1114112 983040",
                "read -P 0 2M 64k",
                "read -P 0 3M 64k",
                "write -P 0x22 3M 64k",
                "read -P 0x22 3M 64k",
            ],
        );
    }
}

#[test]
fn blocks_of_4096() {
    verified(
        "4096",
        &[
            "write -P 0x41 4096 4096",
            "write -P 0x42 12288 65536",
            "read -P 0x41 4096 4096",
            "read -P 0 8192 4096",
            "read -P 0x42 12288 65536",
            // qemu reads, changes and writes the block where a request is smaller.
            "write -P 0x43 512 512",
            "read -P 0x43 512 512",
            "read -P 0 0 512",
        ],
    );
}

#[test]
fn one_request_of_32_mib() {
    let daemon = Daemon::start();
    daemon.add_file("disk", 64 * MIB);
    let commands = ["write -P 0x77 1M 32M", "read -P 0x77 1M 32M", "read -P 0 33M 31M"];
    if let Some((said, sound)) = qemu_io(&daemon, &commands) {
        assert!(sound, "{said}");
    }
}

#[test]
fn a_wrong_pattern_would_be_seen() {
    let daemon = disk("512");
    if let Some((said, sound)) = qemu_io(&daemon, &["write -P 0xa1 0 1M", "read -P 0xa2 0 1M"]) {
        assert!(!sound && said.contains("verification failed"), "{said}");
    }
}
