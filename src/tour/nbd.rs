//! A small blocking NBD client: the protocol comes from `bowline-nbd`, this adds a Unix socket and nothing else.
//!
//! Design notes: the tour plays a client of the daemon, so it shares none of the daemon's data plane; what it checks was
//! not read and written by the code under test. One request at a time: the proof rests on the order of writes.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bowline_nbd::{
    ClientConfig, ClientNegotiation, ClientStep, Command, CommandFlags, Cookie, NbdUri, ReadProgress,
    ReplyBody, ReplyForm, RequestHead, Transport,
};

/// The longest to wait for any answer: a tour that hangs must end.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Room for the longer form of a request header.
const HEAD_BYTES_MAX: usize = 32;

/// A connection to one export, in transmission.
#[derive(Debug)]
pub(super) struct NbdConnection {
    stream: UnixStream,
    /// What has arrived and is not yet understood.
    input: Vec<u8>,
    output: Vec<u8>,
    form: ReplyForm,
    size: u64,
    cookie: u64,
}

/// One reply to a request, taken out of the input.
enum Taken {
    Data { at: usize, length: usize },
    Hole { at: usize, length: usize },
    Nothing,
}

impl NbdConnection {
    /// Connects to the export that `uri` names.
    pub(super) fn connect(uri: &NbdUri) -> io::Result<Self> {
        let Transport::Unix { socket } = &uri.transport else {
            return Err(io::Error::other(format!("{uri} is not a Unix socket")));
        };
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut connection = NbdConnection {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            form: ReplyForm::Simple,
            size: 0,
            cookie: 0,
        };
        connection.negotiate(&uri.export)?;
        Ok(connection)
    }

    fn negotiate(&mut self, export: &str) -> io::Result<()> {
        let config =
            ClientConfig { export: export.to_owned(), contexts: Vec::new(), ..ClientConfig::default() };
        let mut negotiation = ClientNegotiation::new(config).map_err(io::Error::other)?;
        loop {
            let (used, step) = negotiation.step(&self.input, &mut self.output).map_err(io::Error::other)?;
            self.input.drain(..used);
            self.stream.write_all(&self.output)?;
            self.output.clear();
            match step {
                ClientStep::NeedMore(needed) => self.fill(needed)?,
                // A simple reply cannot tell of holes, nor of errors in the midst; our server has better ones.
                ClientStep::Ready(export) if export.options.form == ReplyForm::Simple => {
                    return Err(io::Error::other("the server has no structured replies"));
                }
                ClientStep::Ready(export) => {
                    (self.form, self.size) = (export.options.form, export.size);
                    return Ok(());
                }
                ClientStep::Continue => {}
                other => return Err(io::Error::other(format!("unexpected answer {other:?}"))),
            }
        }
    }

    /// Bytes of the export.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads as much as `into` holds.
    pub(super) fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let length = u32::try_from(into.len()).map_err(io::Error::other)?;
        self.send(Command::Read, offset, length, &[])?;
        let mut progress = ReadProgress::new(offset, length);
        loop {
            let (taken, last) = self.receive(Some(&mut progress))?;
            match taken {
                Taken::Data { at, length } => {
                    let place = into.get_mut(at..at.saturating_add(length)).unwrap_or_default();
                    let here = length.min(self.input.len());
                    let (first, rest) = place.split_at_mut(here);
                    first.copy_from_slice(self.input.get(..here).unwrap_or_default());
                    self.input.drain(..here);
                    self.stream.read_exact(rest)?;
                }
                Taken::Hole { at, length } => {
                    into.get_mut(at..at.saturating_add(length)).unwrap_or_default().fill(0);
                }
                Taken::Nothing => {}
            }
            if last {
                return progress.finish().map_err(io::Error::other);
            }
        }
    }

    /// Writes, and returns when it is acknowledged.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        self.send(Command::Write, offset, length, data)?;
        self.acknowledged()
    }

    /// Makes everything acknowledged durable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.send(Command::Flush, 0, 0, &[])?;
        self.acknowledged()
    }

    /// Says good-bye.
    pub(super) fn disconnect(mut self) -> io::Result<()> {
        self.send(Command::Disconnect, 0, 0, &[])
    }

    fn acknowledged(&mut self) -> io::Result<()> {
        while !self.receive(None)?.1 {}
        Ok(())
    }

    fn send(&mut self, command: Command, offset: u64, length: u32, data: &[u8]) -> io::Result<()> {
        self.cookie = self.cookie.wrapping_add(1);
        let payload = self.form.is_extended() && !data.is_empty();
        let flags = if payload { CommandFlags::PAYLOAD_LEN } else { CommandFlags::empty() };
        let head = RequestHead { flags, command, cookie: Cookie(self.cookie), offset, length: length.into() };
        let mut bytes = [0; HEAD_BYTES_MAX];
        let used = head
            .encode(&mut bytes, self.form.is_extended())
            .map_err(|_| io::Error::other("the request does not fit its header"))?;
        self.output.clear();
        self.output.extend_from_slice(bytes.get(..used).unwrap_or_default());
        self.output.extend_from_slice(data);
        self.stream.write_all(&self.output)
    }

    /// Takes one reply to the request under way, and whether it was the last. `read` is that request, when it reads.
    fn receive(&mut self, mut read: Option<&mut ReadProgress>) -> io::Result<(Taken, bool)> {
        loop {
            let (used, reply) = self.form.decode(&self.input).map_err(io::Error::other)?;
            let Some(reply) = reply else {
                self.fill(used)?;
                continue;
            };
            if reply.cookie.0 != self.cookie {
                return Err(io::Error::other("an answer to a request that was not sent"));
            }
            let mut place = |offset: u64, length: u32| -> io::Result<(usize, usize)> {
                let Some(progress) = &mut read else {
                    return Err(io::Error::other("data where none was asked for"));
                };
                let at = progress.accept(offset, length).map_err(io::Error::other)?;
                Ok((usize::try_from(at).unwrap_or(usize::MAX), usize::try_from(length).unwrap_or(0)))
            };
            let taken = match reply.body {
                ReplyBody::Data { offset, length } => {
                    let (at, length) = place(offset, length)?;
                    Taken::Data { at, length }
                }
                ReplyBody::Hole { offset, length } => {
                    let (at, length) = place(offset, length)?;
                    Taken::Hole { at, length }
                }
                ReplyBody::Failure { error, message, .. } => {
                    let message = message.escape_ascii();
                    return Err(io::Error::other(format!("the server answers {error:?} {message}")));
                }
                ReplyBody::BlockStatus { .. } => {
                    return Err(io::Error::other("a block status where none was asked for"));
                }
                ReplyBody::Success | ReplyBody::None => Taken::Nothing,
            };
            let last = reply.last;
            self.input.drain(..used);
            return Ok((taken, last));
        }
    }

    /// Reads until the input holds `needed` bytes.
    fn fill(&mut self, needed: usize) -> io::Result<()> {
        let mut chunk = [0; 4096];
        while self.input.len() < needed {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server hung up")),
                Ok(read) => self.input.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
