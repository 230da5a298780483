//! What `bowline serve` was asked for, read and checked by the command line.

use std::path::PathBuf;

pub use bowline_api::{Engine as EngineChoice, ListenAddr};

/// Everything a daemon is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeOptions {
    /// Files and block devices to add and export, each named after its file.
    pub disks: Vec<PathBuf>,
    /// Folder that keeps devices and exports across restarts.
    pub state: Option<PathBuf>,
    /// The control socket.
    pub socket: PathBuf,
    /// Where disks are exported; default: a Unix socket `nbd.sock` beside the control socket.
    pub listen: Option<ListenAddr>,
    /// Allow TCP addresses that are not loopback without TLS.
    pub insecure: bool,
    /// Offer TLS.
    pub tls: Option<TlsFiles>,
    /// Default: uring, sync where the kernel refuses it.
    pub engine: Option<EngineChoice>,
    /// Queue threads; default: one per CPU, at most 8.
    pub queues: Option<usize>,
    /// Print what is exported as JSON, one document a line.
    pub json: bool,
    /// How much the command line has set up to be logged to stderr.
    pub log_level: LogLevel,
}

/// Files for TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients must show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what is degraded.
    Warn,
    /// And life cycles.
    #[default]
    Info,
    /// And decisions.
    Debug,
    /// And single steps.
    Trace,
}
