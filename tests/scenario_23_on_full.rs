//! Scenario 23, what happens when storage is full, fails or stalls: with `drop` the snapshot fails and writers hardly
//! notice; with `hold` they wait, at most as long as was said, and then the snapshot fails; or storage is added in time,
//! and nothing was lost. The origin is right in each case (I1, I2).
#![cfg(test)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::fuse::Fuse;
use common::model::{Model, seed};
use common::tools::{eventually, wait};
use common::{Daemon, MIB, tool};

const DISK: u64 = 8 * MIB;
/// So much that not all of its old contents can be on their way to storage at once.
const LARGE: u64 = 32 * MIB;
/// What waking up and being scheduled may cost on a busy machine.
const SLACK: Duration = Duration::from_secs(8);

struct Held {
    daemon: Daemon,
    now: Model,
    then: Model,
}

impl Held {
    fn new(take: &[&str]) -> Self {
        Self::of(DISK, take)
    }

    fn of(bytes: u64, take: &[&str]) -> Self {
        let daemon = Daemon::start();
        daemon.add_file("disk", bytes);
        let mut now = Model::new(bytes);
        now.fill(&mut daemon.connect("disk"));
        daemon.ok(&[&["snapshot", "take", "disk", "--name", "s"], take].concat());
        Held { daemon, then: now.clone(), now }
    }

    /// Writes everything again; the longest that one write took.
    fn overwrite(&mut self) -> Duration {
        let mut client = self.daemon.connect("disk");
        let mut longest = Duration::ZERO;
        for first in (0..self.now.sectors()).step_by(64) {
            let begun = Instant::now();
            self.now.write(&mut client, first, 64);
            longest = longest.max(begun.elapsed());
        }
        longest
    }

    fn state(&self) -> String {
        self.daemon.json(&["snapshot", "show", "s"])["state"].as_str().unwrap().to_owned()
    }

    fn has_failed(&self) {
        eventually("the snapshot has failed", || (self.state() == "failed").then_some(()));
        assert_eq!(self.daemon.count_events("failed", "s"), 1);
        self.origin_is_right();
        // What is said of it has its reason, and the next one works.
        assert!(self.daemon.json(&["snapshot", "show", "s"])["reason"].is_string());
        self.daemon.ok(&["snapshot", "remove", "s"]);
        self.daemon.ok(&["snapshot", "take", "disk", "--name", "next"]);
        self.now.check(&self.daemon.read_all("next/disk"), "I2: the next one");
    }

    fn origin_is_right(&self) {
        self.now.check(&self.daemon.read_all("disk"), "I1");
        assert_eq!(self.daemon.json(&["device", "show", "disk"])["io"]["errors"], 0, "I1");
    }
}

#[test]
fn dropped_at_once() {
    let mut held = Held::new(&["--limit", "1M", "--on-full", "drop"]);
    let longest = held.overwrite();
    assert!(longest < SLACK, "a write took {longest:?}");
    held.has_failed();
}

#[test]
fn held_for_the_time_that_was_said() {
    let mut held = Held::new(&["--limit", "1M", "--on-full", "hold", "--hold-timeout", "2s"]);
    let longest = held.overwrite();
    assert!(longest >= Duration::from_millis(1900), "writers did not wait: {longest:?}");
    assert!(longest < Duration::from_secs(2) + SLACK, "a write was held for {longest:?}");
    held.has_failed();
    assert_eq!(held.daemon.count_events("no-space", "s"), 1);
}

#[test]
fn extended_in_time() {
    extended_by(|_| "mem".into());
}

/// Whether a file stands on the device itself is looked for through the device, whose writers wait for that file.
#[test]
fn extended_in_time_by_a_file() {
    extended_by(|daemon| daemon.path("more.diff"));
}

fn extended_by(store: impl Fn(&Daemon) -> PathBuf) {
    let mut held = Held::new(&["--limit", "1M", "--on-full", "hold", "--hold-timeout", "25s"]);
    let longest = std::thread::scope(|scope| {
        let socket = held.daemon.socket();
        let store = store(&held.daemon);
        let helper = scope.spawn(move || extend_when_full(&socket, &store));
        let longest = held.overwrite();
        helper.join().unwrap();
        longest
    });
    assert!(longest < Duration::from_secs(9), "a write was held for {longest:?}");
    assert_eq!(held.state(), "active");
    assert_eq!(held.daemon.count_events("failed", "s"), 0);
    held.origin_is_right();
    held.then.check(&held.daemon.read_all("s/disk"), "I2: nothing was lost while writers waited");
    let limit = held.daemon.json(&["snapshot", "show", "s"])["store"]["limit"].as_u64().unwrap();
    assert!(limit >= 33 * MIB, "it has room for {limit}");
}

/// As whoever follows the events does.
fn extend_when_full(socket: &Path, store: &Path) {
    let bowline = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        common::tools::finish(command.arg("--socket").arg(socket).args(args))
    };
    eventually("there is no space", || {
        let events = bowline(&["events"]);
        String::from_utf8_lossy(&events.stdout).contains("no-space").then_some(())
    });
    let extended = bowline(&["snapshot", "extend", "s", store.to_str().unwrap(), "--limit", "32M"]);
    assert!(extended.status.success(), "{}", common::tools::both(&extended));
}

/// Storage that can be made to fail or to stall: a server's disk, as a file through FUSE.
struct Far {
    server: Child,
    trigger: PathBuf,
    file: Option<Fuse>,
}

impl Far {
    /// `None`, said aloud, where there is no nbdkit or no FUSE.
    fn new(folder: &Path) -> Option<Self> {
        let nbdkit = tool("nbdkit")?;
        let (socket, trigger) = (folder.join("far.sock"), folder.join("trigger"));
        let server = Command::new(nbdkit)
            .args(["--foreground", "--exit-with-parent", "--unix"])
            .arg(&socket)
            .args(["--filter=error", "memory", "64M", "error=EIO", "error-rate=100%"])
            .arg(format!("error-file={}", trigger.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut far = Far { server, trigger, file: None };
        eventually("nbdkit listens", || socket.exists().then_some(()));
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        far.file = Some(Fuse::mount(folder.join("mnt"), &uri)?);
        Some(far)
    }

    fn ranges(&self) -> String {
        format!("ranges:{}@0+64M", self.file.as_ref().unwrap().file.display())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.server.id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::CONT);
        let _ = self.server.kill();
        let _ = wait(&mut self.server, Duration::from_secs(5));
    }
}

#[test]
fn storage_that_begins_to_fail() {
    let folder = tempfile::tempdir().unwrap();
    let Some(far) = Far::new(folder.path()) else { return };
    let mut held = Held::new(&["--store", &far.ranges()]);
    let mut client = held.daemon.connect("disk");
    let mut random = seed();
    for _ in 0..20 {
        held.now.write_somewhere(&mut client, &mut random, 64);
    }
    held.then.check(&held.daemon.read_all("s/disk"), "I2: while the storage is sound");
    std::fs::write(&far.trigger, "").unwrap();
    let longest = held.overwrite();
    assert!(longest < Duration::from_secs(10) + SLACK, "a write took {longest:?}");
    // It is told when it is written to, or read from, at the latest.
    held.daemon.connect("s/disk").read_all().expect_err("its storage answers EIO");
    held.has_failed();
}

#[test]
fn storage_that_stalls() {
    let folder = tempfile::tempdir().unwrap();
    let Some(far) = Far::new(folder.path()) else { return };
    let hold = ["--on-full", "hold", "--hold-timeout", "3s"];
    let mut held = Held::of(LARGE, &[&["--store", &far.ranges()], &hold[..]].concat());
    far.signal(rustix::process::Signal::STOP);
    let longest = held.overwrite();
    // So much is on its way that some had to wait; and none as long as the storage stalls.
    assert!(longest >= Duration::from_millis(2900), "nobody waited: {longest:?}");
    assert!(longest < Duration::from_secs(3) + SLACK, "a write was held for {longest:?}");
    held.has_failed();
    far.signal(rustix::process::Signal::CONT);
    held.origin_is_right();
}

#[test]
fn storage_that_stalls_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let Some(far) = Far::new(folder.path()) else { return };
    let hold = ["--on-full", "hold", "--hold-timeout", "20s"];
    let mut held = Held::of(LARGE, &[&["--store", &far.ranges()], &hold[..]].concat());
    far.signal(rustix::process::Signal::STOP);
    let longest = std::thread::scope(|scope| {
        let far = &far;
        scope.spawn(move || {
            std::thread::sleep(Duration::from_secs(3));
            far.signal(rustix::process::Signal::CONT);
        });
        held.overwrite()
    });
    assert!(longest < Duration::from_secs(3) + SLACK, "a write was held for {longest:?}");
    assert_eq!(held.state(), "active");
    held.origin_is_right();
    held.then.check(&held.daemon.read_all("s/disk"), "I2: nothing was lost while it stalled");
}
