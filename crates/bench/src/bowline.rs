//! Bowline as a user would run it: `bowline serve` in a process of its own, the verbs on its control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::backing::Bench;
use crate::load::Target;
use crate::server::{self, Server};

/// Where a held snapshot keeps old contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiffStorage {
    /// In memory.
    Memory,
    /// In a file beside the disk.
    File,
    /// In a file beside the disk, from which it comes back after a crash.
    Persistent,
}

impl DiffStorage {
    /// Those of a snapshot that ends with the daemon.
    pub const PLAIN: [Self; 2] = [Self::Memory, Self::File];
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::File, Self::Persistent];
}

/// Name of every snapshot the bench takes.
pub const SNAPSHOT: &str = "bench";

/// Snapshots held at once, where there are many.
pub const MANY: usize = 16;

const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    server: Server,
    program: PathBuf,
    control: PathBuf,
    /// Where it serves NBD.
    pub socket: PathBuf,
}

impl Daemon {
    /// Serves the given disks.
    pub fn start(bench: &Bench, disks: &[&Path]) -> Result<Self> {
        Self::start_with(bench, disks, &[])
    }

    /// Serves the given disks, with an empty state folder.
    pub fn start_with_state(bench: &Bench, disks: &[&Path]) -> Result<Self> {
        let folder = bench.empty_folder("state")?;
        Self::start_in(bench, disks, &folder)
    }

    /// Serves the given disks, with that state folder.
    pub fn start_in(bench: &Bench, disks: &[&Path], folder: &Path) -> Result<Self> {
        Self::start_with(bench, disks, &[Path::new("--state"), folder])
    }

    fn start_with(bench: &Bench, disks: &[&Path], options: &[&Path]) -> Result<Self> {
        let control = bench.path("control.sock");
        let socket = bench.path("bowline.sock");
        let mut command = Command::new(&bench.bowline);
        command.arg("--socket").arg(&control).arg("serve").args(disks).args(options);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        let server = Server::start(&mut command, &socket, &bench.path("bowline.log"), None)?;
        Ok(Self { server, program: bench.bowline.clone(), control, socket })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// How the load reaches a device.
    #[must_use]
    pub fn target(&self, bench: &Bench, device: &str) -> Target {
        Target {
            socket: self.socket.clone(),
            export: device.to_owned(),
            structured: bench.structured,
            pid: self.pid(),
        }
    }

    /// The control socket.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Runs a verb; answers what it printed.
    pub fn verb(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .arg("--socket")
            .arg(&self.control)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "bowline {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a verb with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.verb(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("bowline {}: bad JSON", arguments.join(" ")))
    }

    /// Posts JSON to the control socket, without a command's start-up; answers the body and how long it took.
    pub fn post(&self, route: &str, body: &Value) -> Result<(Value, Duration)> {
        self.ask("POST", route, &body.to_string())
    }

    /// Gets JSON from the control socket; answers it and how long it took.
    pub fn get(&self, route: &str) -> Result<(Value, Duration)> {
        self.ask("GET", route, "")
    }

    fn ask(&self, method: &str, route: &str, body: &str) -> Result<(Value, Duration)> {
        let request = format!(
            "{method} {route} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(&self.control).context("cannot reach the control socket")?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let started = Instant::now();
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("no answer to {method} {route}"))?;
        let elapsed = started.elapsed();
        let (head, body) = answer.split_once("\r\n\r\n").context("a bad HTTP answer")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(
            status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')),
            "{method} {route}: {status}: {body}"
        );
        Ok((serde_json::from_str(body).with_context(|| format!("{method} {route}: bad JSON"))?, elapsed))
    }

    /// Takes that many snapshots of the devices, each with room for all their contents; the first is [`SNAPSHOT`].
    pub fn take(&self, bench: &Bench, devices: &[&str], storage: DiffStorage, count: usize) -> Result<()> {
        let folder = bench.empty_folder("diff")?;
        // The index and the log's own headers need room beside the contents.
        let limit = format!("{}M", (bench.size_bytes >> 20) * 2);
        for name in names(count) {
            let file = folder.join(&name).display().to_string();
            let store = if storage == DiffStorage::Memory { "mem" } else { file.as_str() };
            let mut arguments = vec!["snapshot", "take"];
            arguments.extend(devices);
            arguments.extend(["--name", &name, "--store", store, "--limit", &limit]);
            if storage == DiffStorage::Persistent {
                arguments.push("--persistent");
            }
            self.verb(&arguments)?;
        }
        Ok(())
    }

    /// Refuses snapshots that are not active: one that was dropped in the middle made the run cheap.
    pub fn ensure_active(&self, count: usize) -> Result<()> {
        for name in names(count) {
            let shown = self.json(&["snapshot", "show", &name])?;
            let state = shown.get("state").and_then(Value::as_str).unwrap_or("unknown");
            ensure!(state == "active", "snapshot {name} is {state:?}, not active: {shown}");
        }
        Ok(())
    }

    /// Removes what [`Daemon::take`] took.
    pub fn remove_snapshots(&self, count: usize) -> Result<()> {
        names(count).try_for_each(|name| self.verb(&["snapshot", "remove", &name]).map(drop))
    }
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|index| if index == 0 { SNAPSHOT.to_owned() } else { format!("{SNAPSHOT}{index}") })
}

/// Version of our binary, or why it cannot take part.
pub fn version(bench: &Bench) -> Result<String, String> {
    let program = bench.bowline.to_str().ok_or("the path is not UTF-8")?;
    server::version(program, "--version")
}
