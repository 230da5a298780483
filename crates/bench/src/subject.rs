//! A subject of a comparison: a peer, the limit, or Bowline in one of its states.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::backing::Bench;
use crate::bowline::{self, Daemon, DiffStorage};
use crate::load::{self, Access, Content, Target, Timing, Workload};
use crate::peers::Peer;
use crate::server::Server;
use crate::wire;

/// What Bowline holds while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// A snapshot taken just before: each first write preserves.
    Fresh(DiffStorage),
    /// A snapshot whose blocks are all preserved already.
    Preserved(DiffStorage),
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Another server.
    Peer(Peer),
    /// The do-little server.
    Limit,
    /// Ours.
    Bowline(Held),
}

/// A subject that is serving.
#[derive(Debug)]
pub struct Running {
    /// Where to send the load.
    pub target: Target,
    daemon: Option<Daemon>,
    held: bool,
    _server: Option<Server>,
}

impl Running {
    /// Looks at the state after the load, and takes the snapshot away.
    pub fn finish(self) -> Result<()> {
        match self.daemon {
            Some(daemon) if self.held => {
                daemon.ensure_snapshot_active()?;
                daemon.remove_snapshot()
            }
            _ => Ok(()),
        }
    }

    /// Our daemon, if it is ours.
    #[must_use]
    pub fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }
}

impl Subject {
    /// Name in tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Peer(peer) => peer.label(),
            Self::Limit => "(do-little)",
            Self::Bowline(Held::Nothing) => "bowline",
            Self::Bowline(Held::Fresh(DiffStorage::Memory)) => "bowline held mem",
            Self::Bowline(Held::Fresh(DiffStorage::File)) => "bowline held file",
            Self::Bowline(Held::Preserved(DiffStorage::Memory)) => "bowline rewrite mem",
            Self::Bowline(Held::Preserved(DiffStorage::File)) => "bowline rewrite file",
        }
    }

    /// Version, or why it cannot take part.
    pub fn version(self, bench: &Bench) -> Result<String, String> {
        match self {
            Self::Peer(peer) => peer.version(),
            Self::Limit => Ok("pread/pwrite, one thread per connection, no error handling".to_owned()),
            Self::Bowline(_) => bowline::version(bench),
        }
    }

    /// Starts it on the disk.
    pub fn start(self, bench: &Bench) -> Result<Running> {
        match self {
            Self::Peer(peer) => {
                let socket = bench.path("peer.sock");
                let path = socket.to_str().context("the folder's path is not UTF-8")?;
                let command = peer.command(bench, path)?;
                plain(bench, command, peer.export(), peer.pid_file(bench).as_deref())
            }
            Self::Limit => {
                let mut command = Command::new(&bench.own_program);
                command.arg("do-little").arg(&bench.disk).arg(bench.path("peer.sock"));
                plain(bench, command, "disk", None)
            }
            Self::Bowline(held) => start_bowline(bench, held),
        }
    }
}

fn plain(bench: &Bench, mut command: Command, export: &str, pid_file: Option<&Path>) -> Result<Running> {
    let socket = bench.path("peer.sock");
    let server = Server::start(&mut command, &socket, &bench.path("peer.log"), pid_file)?;
    let structured = bench.structured;
    let target = Target { socket, export: export.to_owned(), structured, pid: server.pid() };
    Ok(Running { target, daemon: None, held: false, _server: Some(server) })
}

fn start_bowline(bench: &Bench, held: Held) -> Result<Running> {
    let daemon = Daemon::start(bench, &[&bench.disk])?;
    let target = Target {
        socket: daemon.socket.clone(),
        export: "disk".to_owned(),
        structured: bench.structured,
        pid: daemon.pid(),
    };
    match held {
        Held::Nothing => {}
        Held::Fresh(storage) => daemon.take(bench, &["disk"], storage)?,
        Held::Preserved(storage) => {
            daemon.take(bench, &["disk"], storage)?;
            write_everything(&target)?;
        }
    }
    Ok(Running { target, daemon: Some(daemon), held: held != Held::Nothing, _server: None })
}

/// Writes every block once, so that all are preserved.
fn write_everything(target: &Target) -> Result<()> {
    let workload = Workload {
        command: wire::Command::Write,
        access: Access::SequentialOnce,
        request_bytes: 1 << 20,
        depth: 4,
        connections: 1,
        content: Content::Stamps,
    };
    load::run(target, &workload, Timing::unlimited(1)).context("cannot write the whole device")?;
    Ok(())
}
