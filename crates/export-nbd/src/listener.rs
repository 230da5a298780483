//! The listening socket.
//!
//! A Unix socket is made with mode 0600 in one step: the kernel takes the mode of the socket, which is set before it
//! is bound. A socket file that is there already is replaced only when nobody answers on it, and at the end it is
//! removed only if it is still ours.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bowline_block::{Error, ErrorKind, Result};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
    sockopt,
};

use crate::address::ListenAddr;

const BACKLOG: i32 = 128;
const ANOTHER: &str = "choose another address";
/// Most bytes of a socket's path, without the zero that ends it.
const PATH_BYTES_MAX: usize = 107;
/// What the kernel may hold for a client: as much as is written in one go, so that a client is fed without a pause. The
/// kernel grants less where its own limit is lower.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// A bound and listening socket.
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    /// The address, with the port that the kernel chose.
    pub(crate) address: ListenAddr,
    file: Option<SocketFile>,
}

/// A socket file of ours.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    pub(crate) fn bind(address: &ListenAddr) -> Result<Self> {
        match address {
            ListenAddr::Unix(path) => bind_unix(path),
            ListenAddr::Tcp { host, port } => bind_tcp(host, *port),
        }
    }

    /// Removes the socket file.
    pub(crate) fn remove_file(&mut self) {
        if let Some(file) = self.file.take()
            && identity(&file.path).is_ok_and(|now| now == file.identity)
            && let Err(error) = std::fs::remove_file(&file.path)
        {
            tracing::warn!(path = %file.path.display(), %error, "cannot remove the socket file");
        }
    }
}

/// Takes the next client; `None` when there is none.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => {
            // The first is refused on a Unix socket, where there is nothing to delay.
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES);
            Ok(Some(socket))
        }
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|data| (data.dev(), data.ino()))
}

fn bind_unix(path: &Path) -> Result<Listener> {
    let failed = |what: &str, error: Errno| {
        let error = Error::from_io(format!("{what} {}", path.display()), error.into());
        if error.kind() == ErrorKind::NotFound {
            error.hint("make its folder first")
        } else {
            error.hint(ANOTHER)
        }
    };
    let name = SocketAddrUnix::new(path)
        .map_err(|_| Error::new(ErrorKind::Invalid, too_long(path)).hint("choose a shorter path"))?;
    make_way(path, &name)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| failed("cannot make a socket for", error))?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| failed("cannot set the mode of", error))?;
    bind(&socket, &name).map_err(|error| failed("cannot bind", error))?;
    let file = identity(path)
        .map(|identity| SocketFile { path: path.to_owned(), identity })
        .map_err(|error| Error::from_io(format!("cannot find {}", path.display()), error))?;
    let mut listener = Listener { socket, address: ListenAddr::Unix(path.to_owned()), file: Some(file) };
    if let Err(error) = listen(&listener.socket, BACKLOG) {
        listener.remove_file();
        return Err(failed("cannot listen on", error));
    }
    Ok(listener)
}

fn too_long(path: &Path) -> String {
    let bytes = path.as_os_str().len();
    format!("the path has {bytes} bytes, that of a socket has at most {PATH_BYTES_MAX}")
}

/// Removes a socket file on which nobody answers.
fn make_way(path: &Path, name: &SocketAddrUnix) -> Result<()> {
    let Ok(data) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    if !data.file_type().is_socket() {
        let why = format!("{shown} exists and is not a socket");
        return Err(Error::new(ErrorKind::Exists, why).hint(ANOTHER));
    }
    let before = (data.dev(), data.ino());
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| Error::from_io("cannot make a socket", error.into()))?;
    match connect(&probe, name) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        Ok(()) | Err(Errno::AGAIN) => {
            let why = format!("{shown} is in use: another server answers on it");
            return Err(Error::new(ErrorKind::Busy, why).hint(ANOTHER));
        }
        Err(error) => {
            return Err(Error::from_io(format!("cannot try {shown}"), error.into()).hint(ANOTHER));
        }
    }
    // Somebody else may have replaced the dead socket by a live one meanwhile.
    if identity(path).is_ok_and(|now| now == before) {
        std::fs::remove_file(path)
            .map_err(|error| Error::from_io(format!("cannot remove the dead socket {shown}"), error))?;
    }
    Ok(())
}

fn bind_tcp(host: &str, port: u16) -> Result<Listener> {
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "choose another port, or stop what uses it",
            io::ErrorKind::PermissionDenied => "choose a port above 1023",
            _ => "name an address of this machine",
        };
        Error::from_io(format!("cannot listen on tcp:{host}:{port}"), error).hint(hint)
    };
    let listener = TcpListener::bind((host, port)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let address = ListenAddr::Tcp { host: host.to_owned(), port };
    Ok(Listener { socket: listener.into(), address, file: None })
}
