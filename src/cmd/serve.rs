//! `bowline serve`: the daemon, in the foreground.

use std::path::PathBuf;

use bowline_daemon::{EngineChoice, ListenAddr, LogLevel, ServeOptions, TlsFiles};
use clap::Args;

use crate::cli::{Failure, Global, Result, absolute, log_level};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bowline serve disk.img\n  \
                        bowline serve --state /var/lib/bowline --listen tcp:127.0.0.1:10809\n\n\
                        Each disk is a device named after its file. One line is printed for each, NAME and URI; then it \
                        serves until SIGTERM, SIGINT or SIGHUP. A second signal cuts off clients at once.")]
pub(crate) struct Serve {
    /// Files and block devices to add and export
    #[arg(value_name = "DISK")]
    disks: Vec<PathBuf>,
    /// Folder that keeps devices and exports across restarts
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where disks are exported: unix:PATH or tcp:HOST:PORT [default: nbd.sock beside the control socket]
    #[arg(long, value_name = "ADDR")]
    listen: Option<ListenAddr>,
    /// Allow TCP addresses that are not loopback without TLS
    #[arg(long)]
    insecure: bool,
    /// Certificate chain of the server, in PEM: offers TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Clients must show a certificate of this authority, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_client_ca: Option<PathBuf>,
    /// uring or sync [default: uring, sync where the kernel refuses it]
    #[arg(long)]
    engine: Option<EngineChoice>,
    /// Queue threads [default: one for each CPU, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    queues: Option<u16>,
}

impl Serve {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let level = log_level(true, global.verbose);
        bowline_daemon::serve(&self.options(global, level)?)
            .map_err(|error| Failure::Failed(error.to_string()))
    }

    /// Paths are made absolute: clients are told of them, and may be in other folders.
    fn options(self, global: &Global, log_level: LogLevel) -> Result<ServeOptions> {
        let tls = self.tls_certificate.zip(self.tls_key);
        let listen = match self.listen {
            Some(ListenAddr::Unix(path)) => Some(ListenAddr::Unix(absolute(&path)?)),
            other => other,
        };
        Ok(ServeOptions {
            disks: self.disks,
            state: self.state.as_deref().map(absolute).transpose()?,
            socket: absolute(&global.socket())?,
            listen,
            insecure: self.insecure,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: self.tls_client_ca }),
            engine: self.engine,
            queues: self.queues.map(usize::from),
            json: global.json,
            log_level,
        })
    }
}

#[cfg(test)]
mod tests;
