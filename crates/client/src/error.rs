//! What can go wrong between a client and a daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_api::ApiError;

/// The result of asking a daemon.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no answer. Each prints as one line, `what: why: what to do`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon refused or failed.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// Nothing listens on the socket.
    #[error("no daemon at {}: {source}: {}", .socket.display(), hint(.source, .socket))]
    NoDaemon {
        /// The control socket.
        socket: PathBuf,
        /// Why connecting failed.
        source: io::Error,
    },
    /// The connection broke before the answer was whole.
    #[error("ask the daemon at {}: {source}: the daemon may have stopped; see its log, then ask again", .socket.display())]
    Broken {
        /// The control socket.
        socket: PathBuf,
        /// How it broke.
        source: io::Error,
    },
    /// No answer within the time the client waits.
    #[error("ask the daemon at {}: no answer within {} s: see what holds it with `bowline status` and its log", .socket.display(), .waited.as_secs_f32())]
    TimedOut {
        /// The control socket.
        socket: PathBuf,
        /// How long the client waited.
        waited: Duration,
    },
    /// The answer is not one of the control API.
    #[error("read the answer from {}: {why}: check that a Bowline daemon of this version listens there", .socket.display())]
    Strange {
        /// The control socket.
        socket: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// A failed read or write; with a timeout set, the kernel reports its end as `WouldBlock`.
    pub(crate) fn broken(socket: &Path, timeout: Option<Duration>, source: io::Error) -> Self {
        let socket = socket.to_owned();
        match (source.kind(), timeout) {
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(waited)) => {
                Error::TimedOut { socket, waited }
            }
            _ => Error::Broken { socket, source },
        }
    }
}

fn hint(source: &io::Error, socket: &Path) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "ask as the user that runs the daemon, or as root".to_owned(),
        io::ErrorKind::InvalidInput => "choose a path of at most 107 bytes with --socket".to_owned(),
        _ => format!(
            "start one with `bowline serve --socket {}`, or name its socket with --socket",
            socket.display()
        ),
    }
}
