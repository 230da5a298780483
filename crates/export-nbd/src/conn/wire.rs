//! The socket of a connection, plain or under TLS: receives into and sends from the caller's buffers, never waits.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use bowline_io::Readiness;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown};
use rustls::ServerConnection;

use super::output::{Output, SLICES_MAX};

/// Encrypted bytes that may wait for the socket.
const TLS_BUFFERED_MAX: usize = 256 << 10;

/// What a receive found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The peer sends no more.
    End,
}

pub(super) struct Wire {
    socket: OwnedFd,
    ready: Readiness,
    tls: Option<Box<ServerConnection>>,
    /// Decrypted bytes may be left although the socket is empty.
    decrypted: bool,
}

/// The socket as `std::io` wants it.
struct Plain<'a>(&'a OwnedFd);

impl Read for Plain<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0, room, RecvFlags::empty())?.0)
    }
}

impl Write for Plain<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, data, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(sendmsg(self.0, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let ready = Readiness::register(&socket)?;
        Ok(Self { socket, ready, tls: None, decrypted: false })
    }

    /// Whether a receive may find something.
    #[inline]
    pub(super) fn readable(&self) -> bool {
        self.ready.readable() || self.decrypted
    }

    /// Wakes the task when the socket changes.
    #[inline]
    pub(super) fn set_waker(&self, cx: &Context<'_>) {
        self.ready.set_waker(cx);
    }

    /// Receives as much as there is and fits.
    #[inline]
    pub(super) fn receive(&mut self, room: &mut [u8]) -> io::Result<Received> {
        if room.is_empty() {
            return Ok(Received::Nothing);
        }
        if self.tls.is_some() {
            return self.receive_tls(room);
        }
        loop {
            return match recv(&self.socket, &mut *room, RecvFlags::empty()) {
                Ok((0, _)) => Ok(Received::End),
                Ok((count, _)) => {
                    // Less than asked for: the socket is empty, and the next byte is an edge.
                    if count < room.len() {
                        self.ready.clear_readable();
                    }
                    Ok(Received::Bytes(count))
                }
                Err(Errno::WOULDBLOCK) => {
                    self.ready.clear_readable();
                    Ok(Received::Nothing)
                }
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    fn receive_tls(&mut self, room: &mut [u8]) -> io::Result<Received> {
        let Some(tls) = self.tls.as_mut() else { return Ok(Received::Nothing) };
        let mut filled = 0;
        let ended = loop {
            match tls.reader().read(room.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => break true,
                Ok(count) => {
                    filled += count;
                    if filled == room.len() {
                        break false;
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Closed without the farewell of TLS: an end all the same, every request has its length.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break true,
                Err(error) => return Err(error),
            }
            if !self.ready.readable() {
                break false;
            }
            match tls.read_tls(&mut Plain(&self.socket)) {
                Ok(_) => {
                    tls.process_new_packets().map_err(io::Error::other)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.clear_readable();
                    break false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        self.decrypted = filled == room.len() || (ended && filled > 0);
        self.flush_tls()?;
        match (filled, ended) {
            (0, true) => Ok(Received::End),
            (0, false) => Ok(Received::Nothing),
            (count, _) => Ok(Received::Bytes(count)),
        }
    }

    /// Sends as much as the socket takes; how many bytes of `output` are gone from it.
    #[inline]
    pub(super) fn send(&mut self, output: &mut Output) -> io::Result<usize> {
        if !self.ready.writable() {
            return Ok(0);
        }
        if self.tls.is_some() {
            return self.send_tls(output);
        }
        let (result, wanted) = match output.plain() {
            Some([]) => return Ok(0),
            Some(bytes) => (send(&self.socket, bytes, SendFlags::NOSIGNAL), bytes.len()),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let (count, bytes) = output.slices(&mut slices);
                let slices = slices.get(..count).unwrap_or_default();
                let mut control = SendAncillaryBuffer::default();
                (sendmsg(&self.socket, slices, &mut control, SendFlags::NOSIGNAL), bytes)
            }
        };
        match result {
            Ok(count) => {
                output.sent(count);
                if count < wanted {
                    self.ready.clear_writable();
                } else if output.is_empty() {
                    self.ready.done_writing();
                }
                Ok(count)
            }
            Err(Errno::WOULDBLOCK) => {
                self.ready.clear_writable();
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    fn send_tls(&mut self, output: &mut Output) -> io::Result<usize> {
        self.flush_tls()?;
        let Some(tls) = self.tls.as_mut() else { return Ok(0) };
        if tls.wants_write() || output.is_empty() {
            return Ok(0);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (count, _) = output.slices(&mut slices);
        let mut taken = 0;
        for slice in slices.get(..count).unwrap_or_default() {
            let count = tls.writer().write(slice)?;
            taken += count;
            if count < slice.len() {
                break;
            }
        }
        output.sent(taken);
        self.flush_tls()?;
        Ok(taken)
    }

    /// Sends what TLS has to send, as far as the socket takes it.
    fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = self.tls.as_mut() else { return Ok(()) };
        while tls.wants_write() && self.ready.writable() {
            match tls.write_tls(&mut Plain(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready.clear_writable(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !tls.wants_write() {
            self.ready.done_writing();
        }
        Ok(())
    }

    /// Whether nothing waits between the output and the socket.
    pub(super) fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Receives at least one byte; `None` at the end of the stream.
    pub(super) async fn receive_some(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        poll_fn(|cx| {
            if self.readable() {
                match self.receive(room)? {
                    Received::Bytes(count) => return Poll::Ready(Ok(Some(count))),
                    Received::End => return Poll::Ready(Ok(None)),
                    Received::Nothing => {}
                }
            }
            self.set_waker(cx);
            Poll::Pending
        })
        .await
    }

    /// Sends everything.
    pub(super) async fn send_all(&mut self, output: &mut Output) -> io::Result<()> {
        poll_fn(|cx| {
            while self.ready.writable() {
                self.send(output)?;
                if output.is_empty() && self.is_flushed() {
                    return Poll::Ready(Ok(()));
                }
            }
            self.set_waker(cx);
            Poll::Pending
        })
        .await
    }

    /// Does the TLS handshake. `early` are bytes that were received already.
    pub(super) async fn start_tls(&mut self, tls: ServerConnection, mut early: &[u8]) -> io::Result<()> {
        self.tls = Some(Box::new(tls));
        if let Some(tls) = self.tls.as_mut() {
            tls.set_buffer_limit(Some(TLS_BUFFERED_MAX));
        }
        poll_fn(|cx| {
            loop {
                self.flush_tls()?;
                let Some(tls) = self.tls.as_mut() else { return Poll::Ready(Ok(())) };
                if !tls.is_handshaking() && !tls.wants_write() {
                    self.decrypted = true;
                    return Poll::Ready(Ok(()));
                }
                let result = if !early.is_empty() {
                    tls.read_tls(&mut early)
                } else if self.ready.readable() && !tls.wants_write() {
                    tls.read_tls(&mut Plain(&self.socket))
                } else {
                    self.set_waker(cx);
                    return Poll::Pending;
                };
                match result {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {
                        if let Err(error) = tls.process_new_packets() {
                            // The alert tells the peer why; whether it arrives is its affair.
                            let _ = self.flush_tls();
                            return Poll::Ready(Err(io::Error::other(error)));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready.clear_readable(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await
    }

    /// Says farewell, without waiting for an answer.
    pub(super) fn close(mut self) {
        if let Some(tls) = self.tls.as_mut() {
            tls.send_close_notify();
        }
        let _ = self.flush_tls();
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}
