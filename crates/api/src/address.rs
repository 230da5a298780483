//! Where exports listen: `unix:PATH` or `tcp:HOST:PORT`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A listening address of exports. On the wire and the command line it is its text form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// A Unix socket at this path, created with mode 0600.
    Unix(PathBuf),
    /// A TCP port. `host` is a name or an address without brackets; port 0 lets the kernel choose.
    Tcp {
        /// Host name, IPv4 or IPv6 address.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// The longest path a Unix socket can have, `sun_path` less its final zero.
pub const UNIX_PATH_MAX: usize = 107;

/// Why an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {why}: write unix:PATH or tcp:HOST:PORT, as in tcp:127.0.0.1:10809")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl FromStr for ListenAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).map_err(|why| AddressError { text: text.chars().take(160).collect(), why })
    }
}

fn parse(text: &str) -> Result<ListenAddr, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.len() {
            0 => Err("the path is empty"),
            1..=UNIX_PATH_MAX if !path.contains('\0') => Ok(ListenAddr::Unix(PathBuf::from(path))),
            1..=UNIX_PATH_MAX => Err("the path contains a zero byte"),
            _ => Err("the path of a Unix socket has at most 107 bytes"),
        };
    }
    let rest = text.strip_prefix("tcp:").ok_or("it starts with neither `unix:` nor `tcp:`")?;
    let (host, port) = rest.rsplit_once(':').ok_or("the port is missing")?;
    let port = port.parse().map_err(|_| "the port is not a number up to 65535")?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return Err("an IPv6 address needs brackets, as in tcp:[::1]:10809");
    }
    let host = bracketed.unwrap_or(host);
    if host.is_empty() {
        return Err("the host is empty");
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || "[]/".contains(c)) {
        return Err("the host contains a character no host name has");
    }
    Ok(ListenAddr::Tcp { host: host.to_owned(), port })
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
            ListenAddr::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            ListenAddr::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

impl Serialize for ListenAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
