//! `docs/pull-backup.md`, run as it stands: a full copy and twenty increments under load, with stock tools only. After
//! each, the copy is the image, byte for byte (I4).
#![cfg(test)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::tools::{both, finish_within, first_difference};
use common::writer::Writers;
use common::{Daemon, MIB, Ran, file_bytes, tool};

const DOCUMENT: &str = include_str!("../docs/pull-backup.md");
const DISK: u64 = 8 * MIB;
const ROUNDS: u64 = 20;

/// The commands below each heading of the document.
fn commands() -> BTreeMap<&'static str, String> {
    let mut commands: BTreeMap<&str, String> = BTreeMap::new();
    let (mut heading, mut inside) = ("", false);
    for line in DOCUMENT.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                let script = commands.entry(heading).or_default();
                script.push_str(line);
                script.push('\n');
            }
            _ => heading = line.strip_prefix("## ").unwrap_or(heading),
        }
    }
    commands
}

struct Backup {
    daemon: Daemon,
    commands: BTreeMap<&'static str, String>,
    bash: PathBuf,
    copy: PathBuf,
}

impl Backup {
    /// `None`, said aloud, where a tool is missing.
    fn new() -> Option<Self> {
        for name in ["nbdcopy", "nbdinfo", "qemu-img", "jq"] {
            tool(name)?;
        }
        let bash = tool("bash")?;
        let daemon = Daemon::start();
        daemon.add_tracked("disk", DISK);
        let copy = daemon.path("backup.raw");
        Some(Backup { daemon, commands: commands(), bash, copy })
    }

    /// Runs what the document shows below a heading.
    fn try_run(&self, heading: &str, previous: &str, next: &str) -> Ran {
        let script = self.commands.get(heading).unwrap_or_else(|| panic!("nothing below {heading:?}"));
        let program = Path::new(env!("CARGO_BIN_EXE_bowline")).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths(std::iter::once(program).chain(std::env::split_paths(&path))).unwrap();
        let mut command = Command::new(&self.bash);
        command
            .args(["-euo", "pipefail", "-c", script])
            .env("PATH", path)
            .env("BOWLINE_SOCKET", self.daemon.socket())
            .env("NBD", self.daemon.nbd_socket())
            .env("DISK", "disk")
            .env("BACKUP", &self.copy)
            .env("PREV", previous)
            .env("NEXT", next);
        let output = finish_within(&mut command, Duration::from_secs(60));
        if !output.status.success() {
            eprintln!("{heading}: {}", both(&output));
        }
        Ran::of(&output)
    }

    fn run(&self, heading: &str, previous: &str, next: &str) {
        assert_eq!(self.try_run(heading, previous, next).code, 0, "{heading}, {previous} to {next}");
    }

    fn is_image(&self, snapshot: &str) -> Option<String> {
        first_difference(&file_bytes(&self.copy), &self.daemon.read_all(&format!("{snapshot}/disk")))
    }
}

const FULL: &str = "Once: a full copy";
const CHANGED: &str = "Each time: what changed since";
const FUSE: &str = "The same through a file";
const COMPLETE: &str = "When it is complete";
const SURE: &str = "To make sure";

#[test]
fn twenty_increments_under_load_are_each_image() {
    let Some(backup) = Backup::new() else { return };
    let fuse = tool("nbdfuse").is_some() && Path::new("/dev/fuse").exists();
    // A process for each extent: however slow this machine is, a round has no more than so many.
    let writers = Writers::start_frugal((0..2).map(|_| backup.daemon.connect("disk")).collect());
    writers.allow(100);
    writers.let_write(10);
    backup.run(FULL, "", "b0");
    assert_eq!(backup.is_image("b0"), None, "the full copy");
    for round in 1..=ROUNDS {
        writers.allow(24);
        writers.let_write(3);
        let (previous, next) = (format!("b{}", round - 1), format!("b{round}"));
        // By one way and by the other; the section with the loop takes the snapshot, too.
        backup.run(CHANGED, &previous, &next);
        assert_eq!(backup.is_image(&next), None, "I4: round {round}");
        if fuse && round % 5 == 0 {
            // As if the loop had not run: what it wrote is taken back.
            let copied = file_bytes(&backup.copy);
            let extents = std::fs::read_to_string(backup.copy.with_extension("raw.extents")).unwrap();
            let mut spoilt = copied.clone();
            for line in extents.lines() {
                let at: usize = line.split(' ').next().unwrap().parse().unwrap();
                spoilt[at..at + 512].fill(0x5a);
            }
            std::fs::write(&backup.copy, spoilt).unwrap();
            assert!(backup.is_image(&next).is_some(), "nobody notices what is spoilt");
            backup.run(FUSE, &previous, &next);
            assert_eq!(backup.is_image(&next), None, "I4: round {round}, through a file");
        }
        backup.run(COMPLETE, &previous, &next);
    }
    let last = format!("b{ROUNDS}");
    backup.run(SURE, "", &last);
    // What has to be shown of a comparison: that it can fail.
    let mut copy = file_bytes(&backup.copy);
    copy[12345] ^= 1;
    std::fs::write(&backup.copy, copy).unwrap();
    assert_ne!(backup.try_run(SURE, "", &last).code, 0, "a flipped bit in the copy is not noticed");
    for log in writers.finish() {
        log.is_all_of(&backup.daemon.read_all("disk")).unwrap_or_else(|why| panic!("I6: {why}"));
    }
}

#[test]
fn a_base_that_is_gone_is_said_and_not_an_empty_map() {
    let Some(backup) = Backup::new() else { return };
    backup.run(FULL, "", "b0");
    backup.daemon.connect("disk").write(4096, &[7; 4096]).unwrap();
    let ran = backup.try_run(CHANGED, "never", "b1");
    assert_ne!(ran.code, 0, "{ran:?}");
    assert_ne!(backup.is_image("b1"), None, "nothing was copied");
    backup.daemon.ok(&["snapshot", "remove", "b1"]);
    // As the document has it: from the one that is still there.
    backup.run(CHANGED, "b0", "b2");
    assert_eq!(backup.is_image("b2"), None);
}
