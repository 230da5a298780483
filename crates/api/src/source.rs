//! What a device is made of: `PATH`, `mem:SIZE`, `null:SIZE`, `nbd:URI`.
//!
//! The wire carries the text, so that the API says exactly what the command line says; both ends read it here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::units::ByteSize;

/// The bottom of a device's stack, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A regular file or block device.
    Path(PathBuf),
    /// Memory of the daemon.
    Memory(ByteSize),
    /// Reads zeroes, forgets writes.
    Null(ByteSize),
    /// An export of another NBD server, by its URI (`nbd://…`, `nbds://…`, `nbd+unix://…`, `nbds+unix://…`).
    Nbd(String),
}

const NBD_SCHEMES: [&str; 4] = ["nbd://", "nbds://", "nbd+unix://", "nbds+unix://"];

/// Why a source was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a source: {why}: write PATH, mem:SIZE, null:SIZE or nbd:URI")]
pub struct SourceError {
    text: String,
    why: String,
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        parse(text).map_err(|why| SourceError { text: text.chars().take(160).collect(), why })
    }
}

fn parse(text: &str) -> Result<Source, String> {
    let size = |text: &str| match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) => Err("size 0 leaves nothing to read or write".to_owned()),
        Ok(size) => Ok(size),
        Err(_) => Err(format!("{text:?} is not a size as 64M")),
    };
    if let Some(text) = text.strip_prefix("mem:") {
        return size(text).map(Source::Memory);
    }
    if let Some(text) = text.strip_prefix("null:") {
        return size(text).map(Source::Null);
    }
    if is_nbd_uri(text) {
        return Ok(Source::Nbd(text.to_owned()));
    }
    if let Some(uri) = text.strip_prefix("nbd:") {
        return if is_nbd_uri(uri) {
            Ok(Source::Nbd(uri.to_owned()))
        } else {
            Err(format!("{uri:?} does not start with nbd://, nbds://, nbd+unix:// or nbds+unix://"))
        };
    }
    if text.starts_with("user:") {
        return Err("this version has no user devices (a file of that name is ./user:…)".to_owned());
    }
    match text {
        "" => Err("it is empty".to_owned()),
        _ if text.contains('\0') => Err("a path cannot contain a zero byte".to_owned()),
        path => Ok(Source::Path(PathBuf::from(path))),
    }
}

fn is_nbd_uri(text: &str) -> bool {
    NBD_SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Path(path) => write!(f, "{}", path.display()),
            Source::Memory(size) => write!(f, "mem:{size}"),
            Source::Null(size) => write!(f, "null:{size}"),
            Source::Nbd(uri) => write!(f, "nbd:{uri}"),
        }
    }
}

#[cfg(test)]
mod tests;
