//! Which engine this machine allows.

use std::fmt;
use std::str::FromStr;

use io_uring::IoUring;

/// The I/O engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// io_uring.
    Uring,
    /// Plain system calls on a pool of threads.
    Sync,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Sync => "sync",
        })
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "uring" => Ok(Self::Uring),
            "sync" => Ok(Self::Sync),
            other => Err(format!("'{other}' is no engine: uring or sync")),
        }
    }
}

/// The engine to use, and why it is not io_uring if it is not. Seccomp filters, the sysctl
/// `kernel.io_uring_disabled` and old kernels refuse it.
#[must_use]
pub fn probe() -> (EngineKind, Option<std::io::Error>) {
    match IoUring::new(2) {
        Ok(_) => (EngineKind::Uring, None),
        Err(refusal) => (EngineKind::Sync, Some(refusal)),
    }
}
