//! A small NBD client, written from the protocol text alone: one request at a time, simple replies.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const GO: u32 = 7;
const ACK: u32 = 1;
const INFO: u32 = 3;
/// The most this client asks for at once.
const READ_BYTES: u64 = 4 << 20;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISCONNECT: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const FUA: u16 = 1;

pub(crate) const EIO: u32 = 5;

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum NbdError {
    /// The server says so.
    Errno(u32),
    /// The connection is lost.
    Lost(io::Error),
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdError::Errno(errno) => write!(f, "error {errno} from the server"),
            NbdError::Lost(error) => write!(f, "connection lost: {error}"),
        }
    }
}

impl From<io::Error> for NbdError {
    fn from(error: io::Error) -> Self {
        NbdError::Lost(error)
    }
}

/// Either kind of socket.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection in transmission.
pub(crate) struct Nbd {
    stream: Stream,
    cookie: u64,
    pub(crate) size: u64,
    pub(crate) flags: u16,
}

impl Nbd {
    pub(crate) fn connect_unix(socket: &Path, export: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Self::negotiate(Stream::Unix(stream), export)
    }

    pub(crate) fn connect_tcp(address: &str, export: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Self::negotiate(Stream::Tcp(stream), export)
    }

    fn negotiate(mut stream: Stream, export: &str) -> io::Result<Self> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if &greeting[..16] != b"NBDMAGICIHAVEOPT" {
            return Err(io::Error::other("not an NBD server"));
        }
        let mut hello = u32::from(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes().to_vec();
        let name = export.as_bytes();
        let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
        data.extend_from_slice(name);
        data.extend_from_slice(&0_u16.to_be_bytes());
        hello.extend_from_slice(OPTION_MAGIC);
        hello.extend_from_slice(&GO.to_be_bytes());
        hello.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        hello.extend_from_slice(&data);
        stream.write_all(&hello)?;
        let (mut size, mut flags) = (0, 0);
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            if u64::from_be_bytes(head[..8].try_into().unwrap()) != OPTION_REPLY_MAGIC {
                return Err(io::Error::other("wrong magic of an option reply"));
            }
            let kind = be32(&head[12..16]);
            let mut body = vec![0; be32(&head[16..20]) as usize];
            stream.read_exact(&mut body)?;
            match kind {
                ACK => return Ok(Nbd { stream, cookie: 0, size, flags }),
                INFO if body.len() == 12 && body[..2] == [0, 0] => {
                    size = u64::from_be_bytes(body[2..10].try_into().unwrap());
                    flags = u16::from_be_bytes(body[10..12].try_into().unwrap());
                }
                INFO => {}
                refused => {
                    let why = String::from_utf8_lossy(&body);
                    return Err(io::Error::other(format!("export {export:?} refused: {refused:#x}: {why}")));
                }
            }
        }
    }

    /// One request and its reply; `reads` bytes come with it.
    pub(crate) fn request(
        &mut self,
        command: u16,
        flags: u16,
        (offset, length): (u64, u64),
        data: &[u8],
        reads: usize,
    ) -> Result<Vec<u8>, NbdError> {
        self.send(command, flags, (offset, length), data)?;
        self.receive(reads)
    }

    /// Sends a request without waiting for its reply.
    pub(crate) fn send(
        &mut self,
        command: u16,
        flags: u16,
        (offset, length): (u64, u64),
        data: &[u8],
    ) -> Result<(), NbdError> {
        self.cookie += 1;
        let mut message = Vec::with_capacity(28 + data.len());
        message.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        message.extend_from_slice(&flags.to_be_bytes());
        message.extend_from_slice(&command.to_be_bytes());
        message.extend_from_slice(&self.cookie.to_be_bytes());
        message.extend_from_slice(&offset.to_be_bytes());
        message.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        message.extend_from_slice(data);
        Ok(self.stream.write_all(&message)?)
    }

    fn receive(&mut self, reads: usize) -> Result<Vec<u8>, NbdError> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if be32(&head[..4]) != REPLY_MAGIC || head[8..16] != self.cookie.to_be_bytes() {
            return Err(NbdError::Lost(io::Error::other(format!("wrong reply {head:x?}"))));
        }
        match be32(&head[4..8]) {
            0 => {
                let mut body = vec![0; reads];
                self.stream.read_exact(&mut body)?;
                Ok(body)
            }
            errno => Err(NbdError::Errno(errno)),
        }
    }

    pub(crate) fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, NbdError> {
        self.request(READ, 0, (offset, length), &[], usize::try_from(length).unwrap())
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        self.request(WRITE, 0, (offset, data.len() as u64), data, 0).map(drop)
    }

    pub(crate) fn flush(&mut self) -> Result<(), NbdError> {
        self.request(FLUSH, 0, (0, 0), &[], 0).map(drop)
    }

    pub(crate) fn trim(&mut self, offset: u64, length: u64) -> Result<(), NbdError> {
        self.request(TRIM, 0, (offset, length), &[], 0).map(drop)
    }

    pub(crate) fn write_zeroes(&mut self, offset: u64, length: u64) -> Result<(), NbdError> {
        self.request(WRITE_ZEROES, 0, (offset, length), &[], 0).map(drop)
    }

    /// Everything, from the first byte to the last.
    pub(crate) fn read_all(&mut self) -> Result<Vec<u8>, NbdError> {
        let mut all = Vec::with_capacity(usize::try_from(self.size).unwrap());
        while (all.len() as u64) < self.size {
            let at = all.len() as u64;
            all.extend(self.read(at, READ_BYTES.min(self.size - at))?);
        }
        Ok(all)
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        let _ = self.send(DISCONNECT, 0, (0, 0), &[]);
        let _ = match &self.stream {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}
