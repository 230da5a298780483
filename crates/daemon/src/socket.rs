//! The control socket: only for its owner, one daemon at a time.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use bowline_api::address::UNIX_PATH_MAX;
use bowline_api::{ApiError, ErrorKind};

use crate::error::{failed, failed_io};

/// The control socket, removed again at the end if it is still ours.
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    pub(crate) fn bind(path: &Path) -> Result<Self, ApiError> {
        let what = format!("open control socket {}", path.display());
        let length = path.as_os_str().as_bytes().len();
        if length > UNIX_PATH_MAX {
            let why = format!("the path has {length} bytes, that of a socket has at most {UNIX_PATH_MAX}");
            return Err(ApiError::invalid(what, why, "choose a shorter one with --socket"));
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|error| elsewhere(&what, error))?;
        }
        make_way(path, &what)?;
        // Nobody else may connect, not even between making the socket and changing its mode.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = listener.map_err(|error| elsewhere(&what, error))?;
        let inode = std::fs::metadata(path).map_or(0, |metadata| metadata.ino());
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// Removes what a killed daemon left; nothing else.
fn make_way(path: &Path, what: &str) -> Result<(), ApiError> {
    match UnixStream::connect(path) {
        Ok(_) => {
            let why = "another daemon answers there";
            let hint = "stop that one, or name another with --socket";
            Err(ApiError::new(ErrorKind::Busy, what, why, hint))
        }
        // A file that is no socket refuses connections too, and is not ours.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused && is_socket(path) => {
            std::fs::remove_file(path).map_err(|error| failed_io(what, error))
        }
        Err(_) if path.exists() && !is_socket(path) => {
            let why = "there is something else, and no socket";
            Err(ApiError::new(ErrorKind::AlreadyExists, what, why, "name another with --socket"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && is_socket(path) => {
            let why = "the socket of another user is there";
            Err(ApiError::new(ErrorKind::PermissionDenied, what, why, "name another with --socket"))
        }
        Err(_) => Ok(()),
    }
}

fn elsewhere(what: &str, error: std::io::Error) -> ApiError {
    failed(what, &bowline_block::Error::from_io("", error).hint("name another with --socket"))
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
