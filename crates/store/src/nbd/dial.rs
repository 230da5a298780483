//! Reaching the server and negotiating with it: blocking, within a time limit, on whatever thread.

use std::io::IoSlice;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bowline_block::{Error, ErrorKind, Result};
use bowline_nbd::{
    ClientConfig, ClientNegotiation, ClientStep, ClientTls, NbdUri, NegotiatedExport, Transport,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustls::ClientConnection;

use super::tls;
use super::wire::Wire;

/// What to do about a server that is not there.
const START: &str = "start the server, or check the address";

/// A connection that has reached transmission.
pub(super) struct Dialed {
    pub(super) wire: Wire,
    pub(super) export: NegotiatedExport,
    /// What the server has sent beyond the negotiation.
    pub(super) input: Vec<u8>,
}

/// Connects and negotiates, both within `limit`.
pub(super) fn dial(uri: &NbdUri, limit: Duration) -> Result<Dialed> {
    // What is wrong with the certificates is said before the server is bothered.
    let session = if uri.tls { Some(tls::session(uri)?) } else { None };
    let deadline = Instant::now() + limit;
    let socket = match &uri.transport {
        Transport::Unix { socket } => dial_unix(socket, deadline)?,
        Transport::Tcp { host, port } => dial_tcp(host, *port, deadline)?,
    };
    negotiate(Wire::plain(socket), session, uri, deadline)
}

fn dial_unix(path: &Path, deadline: Instant) -> Result<OwnedFd> {
    let failed = |errno: Errno| Error::from_io("cannot connect", errno.into()).hint(START);
    let bytes = path.as_os_str().as_bytes();
    let address = match bytes.strip_prefix(&[0]) {
        Some(name) => SocketAddrUnix::new_abstract_name(name),
        None => SocketAddrUnix::new(path),
    }
    .map_err(failed)?;
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
        match connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // The server's backlog is full; there is nothing to wait on but time.
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::AGAIN) => return Err(too_late("the server accepts no connection")),
            Err(errno) => return Err(failed(errno)),
        }
    }
}

fn dial_tcp(host: &str, port: u16, deadline: Instant) -> Result<OwnedFd> {
    let addresses = (host, port).to_socket_addrs().map_err(|error| {
        let why = format!("cannot resolve host {host}");
        Error::new(ErrorKind::NotFound, why).source(error).hint("check the host name, or write its address")
    })?;
    let mut last = Error::new(ErrorKind::NotFound, format!("host {host} has no address"))
        .hint("check the host name, or write its address");
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(too_late("the server cannot be reached"));
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                return prepare_tcp(stream).map_err(|error| Error::from_io("cannot connect", error));
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                last = too_late("the server cannot be reached");
            }
            Err(error) => last = Error::from_io(format!("cannot connect to {address}"), error).hint(START),
        }
    }
    Err(last)
}

fn prepare_tcp(stream: TcpStream) -> std::io::Result<OwnedFd> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let socket = OwnedFd::from(stream);
    sockopt::set_socket_keepalive(&socket, true)?;
    Ok(socket)
}

fn too_late(why: &str) -> Error {
    Error::new(ErrorKind::Timeout, why).hint("check the server, and that it speaks NBD")
}

fn negotiate(
    mut wire: Wire,
    mut session: Option<ClientConnection>,
    uri: &NbdUri,
    deadline: Instant,
) -> Result<Dialed> {
    let refused = |error| {
        let hint = "check the export name with `nbdinfo --list`";
        Error::new(ErrorKind::Protocol, "negotiation failed").source(error).hint(hint)
    };
    let tls = if session.is_some() { ClientTls::Required } else { ClientTls::Off };
    let config = ClientConfig { export: uri.export.clone(), tls, ..ClientConfig::default() };
    let mut negotiation = ClientNegotiation::new(config).map_err(refused)?;
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        let (used, step) = negotiation.step(&input, &mut out).map_err(refused)?;
        input.drain(..used.min(input.len()));
        send_all(&mut wire, &out, deadline)?;
        out.clear();
        match step {
            ClientStep::Continue => {}
            ClientStep::NeedMore(bytes) => {
                while input.len() < bytes {
                    receive(&mut wire, &mut input, deadline)?;
                }
            }
            ClientStep::StartTls if input.is_empty() && session.is_some() => {
                if let Some(session) = session.take() {
                    wire.begin_tls(session);
                }
                shake_hands(&mut wire, deadline)?;
                negotiation.tls_established(&mut out);
            }
            ClientStep::Ready(export) => return Ok(Dialed { wire, export: *export, input }),
            ClientStep::StartTls | ClientStep::Listed(_) | ClientStep::Described(_) | ClientStep::ListEnd => {
                return Err(Error::new(ErrorKind::Protocol, "the negotiation took a turn nobody asked for"));
            }
        }
    }
}

fn shake_hands(wire: &mut Wire, deadline: Instant) -> Result<()> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::Other => Error::new(ErrorKind::Denied, "the TLS handshake failed").source(error),
        _ => Error::from_io("the TLS handshake failed", error),
    };
    loop {
        match wire.handshake() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => again(wire, error, deadline, failed)?,
        }
    }
}

/// Waits for what the wire waits for, if that is why it failed.
fn again(
    wire: &Wire,
    error: std::io::Error,
    deadline: Instant,
    failed: impl FnOnce(std::io::Error) -> Error,
) -> Result<()> {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            let sends = if wire.wants_send() { PollFlags::OUT } else { PollFlags::empty() };
            wait(wire, PollFlags::IN | sends, deadline)
        }
        std::io::ErrorKind::Interrupted => Ok(()),
        _ => Err(failed(error)),
    }
}

fn wait(wire: &Wire, events: PollFlags, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(too_late("the server did not finish the negotiation"));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::from_borrowed_fd(wire.as_fd(), events)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Error::from_io("cannot wait for the server", errno.into())),
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::from_io("negotiation failed", error)
}

fn send_all(wire: &mut Wire, mut bytes: &[u8], deadline: Instant) -> Result<()> {
    while !bytes.is_empty() || wire.wants_send() {
        let sent =
            if bytes.is_empty() { wire.flush().map(|()| 0) } else { wire.send(&[IoSlice::new(bytes)]) };
        match sent {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                wait(wire, PollFlags::OUT, deadline)?;
            }
            Err(error) => again(wire, error, deadline, failed)?,
        }
    }
    Ok(())
}

fn receive(wire: &mut Wire, input: &mut Vec<u8>, deadline: Instant) -> Result<()> {
    let mut room = [0u8; 4096];
    loop {
        match wire.recv(&mut room) {
            Ok(0) => {
                let why = "the server hung up during the negotiation";
                return Err(Error::new(ErrorKind::Gone, why).hint("look at the server's log"));
            }
            Ok(bytes) => {
                input.extend_from_slice(room.get(..bytes).unwrap_or_default());
                return Ok(());
            }
            Err(error) => again(wire, error, deadline, failed)?,
        }
    }
}
