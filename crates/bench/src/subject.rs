//! A subject of a comparison: a peer, the limit, or Bowline in one of its states.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::backing::Bench;
use crate::bowline::{self, Daemon, DiffStorage, MANY};
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
    /// [`MANY`] snapshots taken just before: each first write preserves for all of them.
    Many(DiffStorage),
    /// A snapshot whose blocks are all preserved already.
    Preserved(DiffStorage),
}

impl Held {
    /// How many snapshots are held.
    #[must_use]
    pub fn snapshots(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Fresh(_) | Self::Preserved(_) => 1,
            Self::Many(_) => MANY,
        }
    }

    /// Where they keep old contents.
    #[must_use]
    pub fn storage(self) -> Option<DiffStorage> {
        match self {
            Self::Nothing => None,
            Self::Fresh(storage) | Self::Preserved(storage) | Self::Many(storage) => Some(storage),
        }
    }
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
    snapshots: usize,
    _server: Option<Server>,
}

impl Running {
    /// Looks at the state after the load, and takes the snapshot away.
    pub fn finish(self) -> Result<()> {
        match self.daemon {
            Some(daemon) => {
                daemon.ensure_active(self.snapshots)?;
                daemon.remove_snapshots(self.snapshots)
            }
            None => Ok(()),
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
            Self::Bowline(Held::Fresh(DiffStorage::Persistent)) => "bowline persistent",
            Self::Bowline(Held::Many(DiffStorage::Memory)) => "bowline 16 held mem",
            Self::Bowline(Held::Many(DiffStorage::File)) => "bowline 16 held file",
            Self::Bowline(Held::Many(DiffStorage::Persistent)) => "bowline 16 persistent",
            Self::Bowline(Held::Preserved(DiffStorage::Persistent)) => "bowline rewrite pers",
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
    Ok(Running { target, daemon: None, snapshots: 0, _server: Some(server) })
}

fn start_bowline(bench: &Bench, held: Held) -> Result<Running> {
    let persistent = held.storage() == Some(DiffStorage::Persistent);
    let start = if persistent { Daemon::start_with_state } else { Daemon::start };
    let daemon = start(bench, &[&bench.disk])?;
    let target = daemon.target(bench, "disk");
    let snapshots = held.snapshots();
    if let Some(storage) = held.storage() {
        daemon.take(bench, &["disk"], storage, snapshots)?;
    }
    if matches!(held, Held::Preserved(_)) {
        write_everything(&target)?;
    }
    Ok(Running { target, daemon: Some(daemon), snapshots, _server: None })
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
