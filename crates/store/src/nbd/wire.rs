//! The bytes of a connection, plain or through TLS; never blocks.

use std::io::{Error, ErrorKind, IoSlice, Read, Result, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use rustls::ClientConnection;

/// A nonblocking socket, and the TLS session on it if there is one.
pub(super) struct Wire {
    socket: OwnedFd,
    tls: Option<Box<ClientConnection>>,
}

/// The socket below TLS.
struct Raw<'a>(&'a OwnedFd);

impl Read for Raw<'_> {
    fn read(&mut self, room: &mut [u8]) -> Result<usize> {
        Ok(recv(self.0, room, RecvFlags::empty())?.1)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Wire {
    pub(super) fn plain(socket: OwnedFd) -> Self {
        Self { socket, tls: None }
    }

    /// Everything from now on goes through `session`, whose handshake is still to be made.
    pub(super) fn begin_tls(&mut self, session: ClientConnection) {
        self.tls = Some(Box::new(session));
    }

    /// Goes on with the handshake; `true` when it is complete and all of it sent.
    pub(super) fn handshake(&mut self) -> Result<bool> {
        self.flush()?;
        let Some(tls) = &mut self.tls else { return Ok(true) };
        if !tls.is_handshaking() {
            return Ok(true);
        }
        if tls.read_tls(&mut Raw(&self.socket))? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the server hung up during the TLS handshake"));
        }
        let processed = tls.process_new_packets().map(|_| ()).map_err(Error::other);
        // What is to be sent now may be the alert that tells the server why.
        let flushed = self.flush();
        processed?;
        flushed?;
        Ok(self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking()))
    }

    /// Whether TLS has something to send that the socket did not take yet.
    pub(super) fn wants_send(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends what TLS has left over.
    pub(super) fn flush(&mut self) -> Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut Raw(&self.socket))?;
            }
        }
        Ok(())
    }

    /// Sends some of `parts`.
    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> Result<usize> {
        self.flush()?;
        let Some(tls) = &mut self.tls else {
            let mut none = SendAncillaryBuffer::default();
            return Ok(sendmsg(&self.socket, parts, &mut none, SendFlags::NOSIGNAL)?);
        };
        // The session takes a bounded number of bytes, so what a deaf server leaves here is bounded too.
        let taken = tls.writer().write_vectored(parts)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Receives some bytes; 0 at the end.
    pub(super) fn recv(&mut self, room: &mut [u8]) -> Result<usize> {
        let Some(tls) = &mut self.tls else {
            return Raw(&self.socket).read(room);
        };
        loop {
            match tls.reader().read(room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            tls.read_tls(&mut Raw(&self.socket))?;
            tls.process_new_packets().map_err(Error::other)?;
        }
    }
}
