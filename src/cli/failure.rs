//! Why a command ends without success.

use std::io;

/// The result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command ends without success. All but the last print as one line, `what failed: why: what to do`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The operation failed.
    #[error("{0}")]
    Failed(String),
    /// The daemon refused it, or could not be asked.
    #[error(transparent)]
    Daemon(#[from] bowline_client::Error),
    /// The command line makes no sense.
    #[error("wrong usage: {0}")]
    Usage(String),
    /// The reader of stdout went away.
    #[error("nobody reads the output")]
    OutputClosed,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Failed(_) | Failure::Daemon(_) => 1,
            Failure::Usage(_) => 2,
            Failure::OutputClosed => 0,
        }
    }

    /// A failed write to stdout.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Failed(format!("write the output: {error}: see where stdout goes")),
        }
    }
}
