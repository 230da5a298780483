//! Where a server listens.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use bowline_block::{Error, ErrorKind, Result};
use bowline_nbd::NbdUri;
use bowline_nbd::wire::DEFAULT_PORT;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port of a host name or address of this machine. Port 0 lets the kernel choose.
    Tcp {
        /// Host name or address, an IPv6 address without its brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

impl ListenAddr {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// The URI of an export at this address.
    #[must_use]
    pub fn uri(&self, export: &str, tls: bool) -> NbdUri {
        let mut uri = match self {
            Self::Unix(path) => NbdUri::unix(path, export),
            Self::Tcp { host, port } => NbdUri::tcp(host, *port, export),
        };
        uri.tls = tls;
        uri
    }
}

/// Refuses to offer disks to a network in plain text.
///
/// # Errors
/// *Denied* for a TCP address that is not loopback, unless TLS is required there or `insecure` says that it is meant.
pub fn check_exposure(address: &ListenAddr, tls_required: bool, insecure: bool) -> Result<()> {
    if address.is_local() || tls_required || insecure {
        return Ok(());
    }
    let why = format!("{address} can be reached from the network");
    let hint = "start the daemon with TLS, or with --insecure to serve in plain text";
    Err(Error::new(ErrorKind::Denied, why).hint(hint))
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = Error;

    /// `unix:PATH` or `tcp:HOST[:PORT]`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(ErrorKind::Invalid, format!("listen address '{text}': {why}"));
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong("no path")) } else { Ok(Self::Unix(path.into())) };
        }
        let Some(rest) = text.strip_prefix("tcp:") else {
            return Err(wrong("neither unix:PATH nor tcp:HOST:PORT"));
        };
        let (host, port) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, ""))) => (host, None),
            Some(Some((host, port))) => {
                (host, Some(port.strip_prefix(':').ok_or_else(|| wrong("no ':' before the port"))?))
            }
            Some(None) => return Err(wrong("no ']' after the address")),
            None => rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() || (host.contains(':') && !rest.starts_with('[')) {
            return Err(wrong("no host; an IPv6 address goes into brackets"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().map_err(|_| wrong("the port is not a number up to 65535"))?,
        };
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}
