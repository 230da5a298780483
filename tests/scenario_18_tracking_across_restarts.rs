//! Scenario 18, tracking across restarts: after a clean stop increments go on, exactly; after kill -9 they are somewhat
//! larger and miss nothing; and where nobody can know what changed, because the tracker's files were damaged, exchanged or
//! put back from an older copy, or the device was written to while the daemon was down, a full read is asked for, and
//! never guessed (I4).
#![cfg(test)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::changes::{Extent, blocks_of, extents, missed, total, verify};
use common::model::{Model, seed};
use common::oracle::{SECTOR, filled};
use common::tools::eventually;
use common::writer::{Random, Writers};
use common::{Daemon, KIB, MIB, Nbd, Start, tool};
use serde_json::{Value, json};

const DISK: u64 = 64 * MIB;
const BLOCK: u64 = 4 * KIB;
/// What is written to before and after: the rest of the disk must not be in any increment.
const PART: u64 = 8 * MIB;
/// What is counted as changed after a crash where a single byte of it may have been; and how many of these ahead of who
/// writes one after another.
const REGION: u64 = 256 * KIB;
const REGIONS_AHEAD: u64 = 16;
/// A disk that is much larger than what may be counted so.
const LARGE: u64 = 256 * MIB;

fn stateful() -> Start {
    let start = Start::new();
    let state = start.path("state");
    start.arg("--state").arg(state)
}

/// What a backup notes: from where on it wants to know.
#[derive(Clone)]
struct Base {
    epoch: u64,
    generation: String,
}

/// A backup's snapshot, taken, read and removed: what stays is the epoch.
fn base(daemon: &Daemon, device: &str) -> (Base, Vec<u8>) {
    let taken = daemon.call("POST", "/v1/snapshots", &json!({"devices": [device], "name": "base"}));
    let image = daemon.read_all(&format!("base/{device}"));
    daemon.ok(&["snapshot", "remove", "base"]);
    let part = &taken["devices"][0];
    let generation = part["generation"].as_str().unwrap().to_owned();
    (Base { epoch: part["epoch"].as_u64().unwrap(), generation }, image)
}

fn asked(daemon: &Daemon, device: &str, base: &Base) -> (u16, Value) {
    let query = format!("since={}&generation={}", base.epoch, base.generation);
    daemon.api("GET", &format!("/v1/devices/{device}/changes?{query}"), &Value::Null)
}

fn since(daemon: &Daemon, device: &str, base: &Base) -> Vec<Extent> {
    let (status, body) = asked(daemon, device, base);
    assert_eq!(status, 200, "{body}\n{}", daemon.log());
    extents(&body)
}

/// It must say that a full read is needed, and be of use again after one.
fn full_read_is_needed(daemon: &Daemon, device: &str, old: &Base, why: &str) {
    let (status, body) = asked(daemon, device, old);
    assert_eq!((status, &body["kind"]), (410, &"full-read-needed".into()), "{why}: {body}");
    let (new, _) = base(daemon, device);
    assert_ne!(new.generation, old.generation, "{why}");
    daemon.connect(device).write(MIB, &[9; 4096]).unwrap();
    assert_eq!(since(daemon, device, &new), [(MIB, BLOCK)], "{why}: the new generation");
}

struct Disk {
    model: Model,
    client: Nbd,
}

/// A tracked disk with data in its first part.
fn tracked(daemon: &Daemon, name: &str) -> Disk {
    daemon.add_tracked(name, DISK);
    let mut client = daemon.connect(name);
    let mut model = Model::new(PART);
    model.fill(&mut client);
    Disk { model, client }
}

fn writes(disk: &mut Disk, random: &mut Random, times: u64) -> Vec<Extent> {
    (0..times).map(|_| disk.model.write_somewhere(&mut disk.client, random, 32)).collect()
}

#[test]
fn clean_restarts_are_exact() {
    let mut random = seed();
    let mut daemon = stateful().start();
    let mut disk = tracked(&daemon, "disk");
    let (base, old) = base(&daemon, "disk");
    let mut written = Vec::new();
    for round in 0..4 {
        written.extend(writes(&mut disk, &mut random, 5));
        daemon = daemon.stop().start();
        disk.client = daemon.connect("disk");
        let listed = since(&daemon, "disk", &base);
        assert_eq!(listed, blocks_of(&written, BLOCK), "I4: after restart {round}");
        // And a take in between, which begins another epoch.
        daemon.ok(&["snapshot", "take", "disk", "--name", "between"]);
        written.extend(writes(&mut disk, &mut random, 5));
        daemon.ok(&["snapshot", "remove", "between"]);
    }
    let new = daemon.read_all("disk");
    let listed = since(&daemon, "disk", &base);
    assert_eq!(listed, blocks_of(&written, BLOCK), "I4");
    verify(&old, &listed, &new).unwrap_or_else(|why| panic!("I4: {why}"));
    // A restart that had forgotten what was written before it would be noticed.
    let short = blocks_of(&written[written.len() - 5..], BLOCK);
    verify(&old, &short, &new).expect_err("the epochs before the restart were left out");
}

/// Writes until it is cut off; what was acknowledged, and one write more that may have been done.
fn cut_off(daemon: Daemon, client: &mut Nbd, random: &mut Random, after_ms: u64) -> (Start, Vec<Extent>) {
    let mut written = Vec::new();
    let start = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for sequence in 1..100_000 {
                let first = random.below(PART / SECTOR as u64 - 8);
                let at = first * SECTOR as u64;
                written.push((at, 8 * SECTOR as u64));
                if client.write(at, &filled(first, 8, 3, sequence)).is_err() {
                    return;
                }
            }
        });
        std::thread::sleep(Duration::from_millis(after_ms));
        let start = daemon.kill();
        writer.join().unwrap();
        start
    });
    (start, written)
}

#[test]
fn kill_9_misses_nothing_and_adds_little() {
    let mut random = seed();
    let mut daemon = stateful().start();
    daemon.add_tracked("disk", LARGE);
    // There is data all over the disk, and only the first part of it is written to again.
    let mut client = daemon.connect("disk");
    for at in (0..LARGE).step_by(usize::try_from(4 * MIB).unwrap()) {
        client.write(at, &common::tools::noise(at, 64 * KIB)).unwrap();
    }
    let (base, _) = base(&daemon, "disk");
    let old = client.read(0, PART).unwrap();
    for round in 0..5 {
        if round % 2 == 1 {
            daemon.ok(&["snapshot", "take", "disk", "--name", "between"]);
        }
        let (start, written) = cut_off(daemon, &mut client, &mut random, 5 + 25 * round);
        daemon = start.start();
        client = daemon.connect("disk");
        let listed = since(&daemon, "disk", &base);
        let acknowledged = &written[..written.len().saturating_sub(1)];
        assert_eq!(missed(acknowledged, &listed), [], "I4: after kill {round}");
        let first: Vec<Extent> = listed.iter().map(|&(at, len)| (at, len.min(PART - at.min(PART)))).collect();
        verify(&old, &first, &client.read(0, PART).unwrap())
            .unwrap_or_else(|why| panic!("I4: {round}: {why}"));
        // Not everything, but the regions that were written to and what lies ahead of them.
        let bound = PART + (1 + REGIONS_AHEAD) * REGION;
        assert_eq!(missed(&listed, &[(0, bound)]), [], "what nobody wrote to, after kill {round}");
        assert!(total(&listed) <= bound && bound < LARGE / 3);
    }
    // It goes on exactly from there.
    let (base, _) = self::base(&daemon, "disk");
    daemon.connect("disk").write(5 * MIB, &[1; 512]).unwrap();
    assert_eq!(since(&daemon, "disk", &base), [(5 * MIB, BLOCK)]);
}

#[test]
fn kill_9_under_many_writers() {
    let mut daemon = stateful().start();
    daemon.add_tracked("disk", PART);
    let (base, old) = base(&daemon, "disk");
    for round in 0..3 {
        let writers = Writers::start((0..3).map(|_| daemon.connect("disk")).collect());
        writers.let_write(30);
        daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
        writers.let_write(30);
        daemon = daemon.kill().start();
        writers.end();
        let listed = since(&daemon, "disk", &base);
        let new = daemon.read_all("disk");
        verify(&old, &listed, &new).unwrap_or_else(|why| panic!("I4: {round}: {why}"));
        // Of what counts as changed for the crash alone nothing differs: one that does is left out.
        let at = old.iter().zip(&new).position(|(old, new)| old != new).unwrap() as u64;
        let without: Vec<_> = listed
            .iter()
            .copied()
            .filter(|&(offset, bytes)| !(offset..offset + bytes).contains(&at))
            .collect();
        verify(&old, &without, &new).expect_err("an extent was left out");
    }
}

/// The folder that a device's tracker keeps its files in.
fn tracker_of(state: &Path, device: &str) -> PathBuf {
    let mut folders = vec![state.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                let name = entry.file_name().into_string().unwrap();
                if path.join("intents").exists() && name.contains(device) {
                    return path;
                }
                folders.push(path);
            }
        }
    }
    panic!("no tracker of {device} in {}", state.display());
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &to);
        } else if path.is_file() {
            std::fs::copy(&path, to).unwrap();
        }
    }
}

/// A stopped daemon with two tracked disks that were written to since their bases.
struct Stopped {
    start: Start,
    a: Base,
    b: Base,
    written: Vec<Extent>,
}

impl Stopped {
    fn new() -> Self {
        let mut random = seed();
        let daemon = stateful().start();
        let (mut a, mut b) = (tracked(&daemon, "a"), tracked(&daemon, "b"));
        let (base_a, base_b) = (base(&daemon, "a").0, base(&daemon, "b").0);
        let written = writes(&mut a, &mut random, 10);
        writes(&mut b, &mut random, 10);
        drop((a, b));
        Stopped { start: daemon.stop(), a: base_a, b: base_b, written }
    }

    fn tracker(&self, device: &str) -> PathBuf {
        tracker_of(&self.start.path("state"), device)
    }

    fn file(&self, name: &str) -> PathBuf {
        let file = self.tracker("a").join(name);
        assert!(file.exists(), "{}", file.display());
        file
    }

    /// Only the device that was tampered with is concerned.
    fn only_a_needs_a_full_read(&self, why: &str) {
        let daemon = self.start.start();
        full_read_is_needed(&daemon, "a", &self.a, why);
        assert!(!since(&daemon, "b", &self.b).is_empty(), "{why}");
        let told = daemon
            .events()
            .into_iter()
            .any(|event| event["device"] == "a" && event["kind"] == "tracking-renewed");
        assert!(told, "{why}: nobody is told: {:#?}", daemon.events());
    }
}

#[test]
fn a_sound_one_needs_no_full_read() {
    let stopped = Stopped::new();
    let daemon = stopped.start.start();
    assert_eq!(since(&daemon, "a", &stopped.a), blocks_of(&stopped.written, BLOCK));
}

#[test]
fn damaged_files_are_not_believed() {
    let mut random = seed();
    for name in ["tracker", "sets", "live"] {
        let stopped = Stopped::new();
        let file = stopped.file(name);
        let mut bytes = std::fs::read(&file).unwrap();
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(&file, bytes).unwrap();
        let daemon = stopped.start.start();
        let (status, body) = asked(&daemon, "a", &stopped.a);
        // What is not read, and what can be known without it, may be damaged: but nothing is missed (I4).
        if status == 200 {
            assert_eq!(missed(&stopped.written, &extents(&body)), [], "I4: bit flipped at {at} of {name}");
        } else {
            full_read_is_needed(&daemon, "a", &stopped.a, &format!("bit flipped at {at} of {name}"));
        }
    }
}

#[test]
fn truncated_and_missing_files_are_not_believed() {
    for name in ["tracker", "sets", "live"] {
        let stopped = Stopped::new();
        let file = stopped.file(name);
        let length = std::fs::metadata(&file).unwrap().len();
        let shorter = std::fs::File::options().write(true).open(&file).unwrap();
        shorter.set_len(length - 1).unwrap();
        stopped.only_a_needs_a_full_read(&format!("{name} is one byte shorter"));
        let stopped = Stopped::new();
        std::fs::remove_file(stopped.file(name)).unwrap();
        stopped.only_a_needs_a_full_read(&format!("{name} is missing"));
    }
}

#[test]
fn the_files_of_another_device_are_not_believed() {
    let stopped = Stopped::new();
    let (a, b, aside) = (stopped.tracker("a"), stopped.tracker("b"), stopped.start.path("aside"));
    std::fs::rename(&a, &aside).unwrap();
    std::fs::rename(&b, &a).unwrap();
    std::fs::rename(&aside, &b).unwrap();
    let daemon = stopped.start.start();
    full_read_is_needed(&daemon, "a", &stopped.a, "exchanged");
    full_read_is_needed(&daemon, "b", &stopped.b, "exchanged");
}

#[test]
fn the_files_of_another_time_are_not_believed() {
    for whole in [true, false] {
        let stopped = Stopped::new();
        let (state, older) = (stopped.start.path("state"), stopped.start.path("older"));
        let kept = if whole { state.clone() } else { stopped.tracker("a") };
        copy_folder(&kept, &older);
        let daemon = stopped.start.start();
        daemon.connect("a").write(2 * MIB, &[5; 8192]).unwrap();
        let start = daemon.stop();
        std::fs::remove_dir_all(&kept).unwrap();
        copy_folder(&older, &kept);
        let daemon = start.start();
        full_read_is_needed(&daemon, "a", &stopped.a, "put back from an older copy");
    }
}

#[test]
fn a_device_that_was_written_to_meanwhile() {
    let stopped = Stopped::new();
    let file = std::fs::File::options().write(true).open(stopped.start.path("a.raw")).unwrap();
    file.write_all_at(&[0x77; 512], 7 * MIB).unwrap();
    stopped.only_a_needs_a_full_read("written to while the daemon was down");
}

#[test]
fn a_device_that_is_another_one_now() {
    let stopped = Stopped::new();
    let (file, aside) = (stopped.start.path("a.raw"), stopped.start.path("aside.raw"));
    std::fs::copy(&file, &aside).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    stopped.only_a_needs_a_full_read("a copy in its place");
    let stopped = Stopped::new();
    let file = std::fs::File::options().write(true).open(stopped.start.path("a.raw")).unwrap();
    file.set_len(DISK + MIB).unwrap();
    stopped.only_a_needs_a_full_read("another size");
}

/// A disk that forgets what was not flushed when its server is killed, as a power cut would make it.
struct Forgetful {
    server: Child,
    folder: tempfile::TempDir,
}

impl Forgetful {
    /// `None`, said aloud, where there is no nbdkit.
    fn start() -> Option<Self> {
        let nbdkit = tool("nbdkit")?;
        let folder = tempfile::tempdir().unwrap();
        common::sparse_file(&folder.path().join("disk.raw"), PART);
        let server = Self::serve(&nbdkit, folder.path());
        Some(Forgetful { server, folder })
    }

    fn serve(nbdkit: &Path, folder: &Path) -> Child {
        let socket = folder.join("sock");
        let _ = std::fs::remove_file(&socket);
        let server = Command::new(nbdkit)
            .args(["--foreground", "--exit-with-parent", "--filter=cache", "--unix"])
            .arg(&socket)
            .arg("file")
            .arg(folder.join("disk.raw"))
            .arg("cache=writeback")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("nbdkit listens", || socket.exists().then_some(()));
        server
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.folder.path().join("sock").display())
    }

    /// Kills the server and starts it again.
    fn lose_what_is_not_flushed(&mut self) {
        self.end();
        self.server = Self::serve(&tool("nbdkit").unwrap(), self.folder.path());
    }

    fn end(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A backup of an image has what was acknowledged and not yet flushed at the take. Were that lost, the device would
/// differ from the backup where nothing says that anything changed.
#[test]
fn what_an_image_shows_is_not_lost_by_a_power_cut() {
    let Some(mut disk) = Forgetful::start() else { return };
    let daemon = stateful().start();
    daemon.ok(&["device", "add", "disk", &disk.uri(), "--track"]);
    let mut random = seed();
    let mut model = Model::new(PART);
    let mut client = daemon.connect("disk");
    for _ in 0..20 {
        model.write_somewhere(&mut client, &mut random, 64);
    }
    let (base, old) = base(&daemon, "disk");
    // After the take, what is lost is in the list.
    let later: Vec<Extent> = (0..5).map(|_| model.write_somewhere(&mut client, &mut random, 64)).collect();
    disk.lose_what_is_not_flushed();
    let new = eventually("the device is back", || daemon.connect("disk").read_all().ok());
    let listed = since(&daemon, "disk", &base);
    verify(&old, &listed, &new).unwrap_or_else(|why| panic!("I4: {why}"));
    assert_eq!(missed(&later, &listed), [], "I4");
    // The disk does forget: what was written last is not there.
    assert_ne!(model.reports(&new), []);
}

/// The same without a tracker: what was preserved for the snapshot is the list.
#[test]
fn what_an_untracked_devices_image_shows_is_not_lost_by_a_power_cut() {
    let Some(mut disk) = Forgetful::start() else { return };
    let daemon = Daemon::start();
    daemon.ok(&["device", "add", "disk", &disk.uri()]);
    daemon.ok(&["device", "add", "other", "mem:1M"]);
    let mut random = seed();
    let mut model = Model::new(PART);
    let mut client = daemon.connect("disk");
    for _ in 0..20 {
        model.write_somewhere(&mut client, &mut random, 64);
    }
    daemon.ok(&["snapshot", "take", "disk", "other", "--name", "s"]);
    let old = daemon.read_all("s/disk");
    for _ in 0..5 {
        model.write_somewhere(&mut client, &mut random, 64);
    }
    disk.lose_what_is_not_flushed();
    let new = eventually("the device is back", || daemon.connect("disk").read_all().ok());
    let listed = extents(&daemon.json(&["changes", "disk", "--since", "s"]));
    verify(&old, &listed, &new).unwrap_or_else(|why| panic!("I4: {why}"));
    assert_ne!(model.reports(&new), []);
}

#[test]
fn a_take_whose_flush_fails_is_none() {
    take_whose_flush_fails(&["--track"]);
}

#[test]
fn a_take_of_an_untracked_device_whose_flush_fails_is_none() {
    take_whose_flush_fails(&[]);
}

fn take_whose_flush_fails(track: &[&str]) {
    let Some(mut disk) = Forgetful::start() else { return };
    let daemon = stateful().start();
    daemon.ok(&[&["device", "add", "disk", &disk.uri()], track].concat());
    let mut client = daemon.connect("disk");
    client.write(0, &[1; 4096]).unwrap();
    disk.lose_what_is_not_flushed();
    eventually("the device is back", || daemon.connect("disk").read(0, 512).ok());
    let line = daemon.refused(&["snapshot", "take", "disk", "--name", "s"]);
    assert!(line.contains("flush") && line.contains("disk"), "{line}");
    assert_eq!(daemon.json(&["snapshot", "list"]), json!([]));
    assert_eq!(daemon.json(&["device", "list"]).as_array().unwrap().len(), 1, "an image is left");
    // What was lost has been said; from here on all is as ever.
    daemon.ok(&["snapshot", "take", "disk", "--name", "s"]);
    client.write(8192, &[2; 4096]).unwrap();
    assert_eq!(extents(&daemon.json(&["changes", "disk", "--since", "s"])), [(8192, 4096)]);
}
