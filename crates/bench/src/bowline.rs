//! Bowline as a user would run it: `bowline serve` in a process of its own, the verbs on its control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::backing::Bench;
use crate::server::{self, Server};

/// Where a held snapshot keeps old contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiffStorage {
    /// In memory.
    Memory,
    /// In a file beside the disk.
    File,
}

/// Name of every snapshot the bench takes.
pub const SNAPSHOT: &str = "bench";

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
        let control = bench.path("control.sock");
        let socket = bench.path("bowline.sock");
        let mut command = Command::new(&bench.bowline);
        command.arg("--socket").arg(&control).arg("serve").args(disks);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        let server = Server::start(&mut command, &socket, &bench.path("bowline.log"), None)?;
        Ok(Self { server, program: bench.bowline.clone(), control, socket })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
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
        let body = body.to_string();
        let request = format!(
            "POST {route} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(&self.control).context("cannot reach the control socket")?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let started = Instant::now();
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("no answer to POST {route}"))?;
        let elapsed = started.elapsed();
        let (head, body) = answer.split_once("\r\n\r\n").context("a bad HTTP answer")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(
            status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')),
            "POST {route}: {status}: {body}"
        );
        Ok((serde_json::from_str(body).with_context(|| format!("POST {route}: bad JSON"))?, elapsed))
    }

    /// Takes [`SNAPSHOT`] of the devices, with room for all their contents.
    pub fn take(&self, bench: &Bench, devices: &[&str], storage: DiffStorage) -> Result<()> {
        let file = bench.path("diff");
        let _ = std::fs::remove_file(&file);
        let file = file.display().to_string();
        let store = if storage == DiffStorage::Memory { "mem" } else { file.as_str() };
        // The index and the log's own headers need room beside the contents.
        let limit = format!("{}M", (bench.size_bytes >> 20) * 2);
        let options = ["--name", SNAPSHOT, "--store", store, "--limit", limit.as_str()];
        self.verb(&[&["snapshot", "take"], devices, &options].concat())?;
        Ok(())
    }

    /// State and reason of [`SNAPSHOT`]: a snapshot that was dropped in the middle made the run cheap.
    pub fn ensure_snapshot_active(&self) -> Result<()> {
        let shown = self.json(&["snapshot", "show", SNAPSHOT])?;
        let state = shown.get("state").and_then(Value::as_str).unwrap_or("unknown");
        ensure!(state == "active", "the held snapshot is {state:?}, not active: {shown}");
        Ok(())
    }

    /// Removes [`SNAPSHOT`].
    pub fn remove_snapshot(&self) -> Result<()> {
        self.verb(&["snapshot", "remove", SNAPSHOT]).map(drop)
    }
}

/// Version of our binary, or why it cannot take part.
pub fn version(bench: &Bench) -> Result<String, String> {
    let program = bench.bowline.to_str().ok_or("the path is not UTF-8")?;
    server::version(program, "--version")
}
