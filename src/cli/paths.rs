//! Paths that mean the same to the daemon as to the person who wrote them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Failure, Result};

/// Where the control socket is when no option says so. `variable` reads the environment.
pub(crate) fn default_socket(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("BOWLINE_SOCKET")
        .or_else(|| set("XDG_RUNTIME_DIR").map(|folder| folder.join("bowline/control.sock")))
        .unwrap_or_else(|| PathBuf::from("/run/bowline/control.sock"))
}

/// `path` from the root, for the daemon has another working folder. It travels as JSON, so it must be UTF-8.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Failure::Failed(format!("resolve path {path:?}: {error}: name it from the root")))?;
    match absolute.to_str() {
        Some(_) => Ok(absolute),
        None => Err(Failure::Failed(format!(
            "resolve path {absolute:?}: it is not UTF-8: rename it or link to it"
        ))),
    }
}
