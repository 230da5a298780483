//! `docs/file-systems.md` is run as it stands, once for each file system.
#![cfg(test)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::cage::caged;
use common::filesystem::Kind;
use common::tools::wait;
use common::{run, tool};

const LIMIT: Duration = Duration::from_secs(150);
const PAGE: &str = include_str!("../docs/file-systems.md");

/// The first command that fails ends it; then its loop devices are given back, for they are not this cage's alone.
const BEGIN: &str = "set -e -u -x -m -o pipefail\n\
    trap '[ $? = 0 ] || losetup --detach ${disk:-} ${image:-}' EXIT\n";

/// The commands of the page: those for all, and those for this file system.
fn commands(kind: &str) -> String {
    let mut commands = String::new();
    let mut taken = None;
    for line in PAGE.lines() {
        match (line.strip_prefix("```"), taken) {
            (Some(language), None) => {
                let mut words = language.split(' ');
                let is_shell = words.next() == Some("sh");
                let kinds: Vec<&str> = words.collect();
                taken = Some(is_shell && (kinds.is_empty() || kinds.contains(&kind)));
            }
            (Some(_), Some(_)) => taken = None,
            (None, Some(true)) => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

fn as_it_stands(kind: Kind) {
    let needed = ["nbdfuse", "fusermount3", "bash", "cmp"];
    if !kind.is_usable() || needed.iter().any(|name| tool(name).is_none()) {
        return;
    }
    // The folders that the page names are this test's own.
    let mount = tool("mount").unwrap();
    for folder in ["/srv", "/mnt", "/run"] {
        run(&mount, ["-t", "tmpfs", "tmpfs", folder]);
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_bowline")).parent().unwrap();
    let path = format!("{}:{}:/usr/sbin:/sbin", binary.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new(tool("bash").unwrap());
    bash.args(["-c", &format!("{BEGIN}{}echo arrived", commands(kind.name()))]);
    bash.env("PATH", path).env_remove("BOWLINE_SOCKET").env_remove("XDG_RUNTIME_DIR");
    // Into a file: what the page starts in the background would hold a pipe open.
    let log = tempfile::NamedTempFile::new().unwrap();
    // Appended to by all: one's output must not overwrite another's.
    let appended = std::fs::File::options().append(true).open(log.path()).unwrap();
    let mut ran =
        bash.stdin(Stdio::null()).stdout(appended.try_clone().unwrap()).stderr(appended).spawn().unwrap();
    let ended = wait(&mut ran, LIMIT - Duration::from_secs(20));
    let said = std::fs::read_to_string(log.path()).unwrap();
    drop(ran.kill());
    let right = ended.is_some_and(|status| status.success()) && said.contains("\narrived\n");
    assert!(right, "{kind:?}: {ended:?}\n{said}");
    assert!(!said.contains("panicked"), "{kind:?}: {said}");
}

#[test]
fn ext4() {
    caged("ext4", LIMIT, || as_it_stands(Kind::Ext4));
}

#[test]
fn xfs() {
    caged("xfs", LIMIT, || as_it_stands(Kind::Xfs));
}

#[test]
fn btrfs() {
    caged("btrfs", LIMIT, || as_it_stands(Kind::Btrfs));
}
