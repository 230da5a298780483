//! As much HTTP/1.1 as one request on one connection needs.
//!
//! The peer is the daemon, but whatever listens on the socket is not trusted: heads are bounded, and a body that ends early
//! is an error and never a short answer.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};

const HEADERS_MAX: usize = 64;
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// A line with the size of a chunk, or of a trailer.
const CHUNK_LINE_MAX: u64 = 4096;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

/// How the end of a body is known.
#[derive(Debug)]
enum Framing {
    /// This many bytes are left.
    Length(u64),
    /// This many bytes of the current chunk are left.
    Chunk(u64),
    /// Before the size of the next chunk.
    ChunkSize,
    /// The peer closes the connection.
    Close,
    /// Nothing is left.
    End,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    framing: Framing,
    stream: BufReader<UnixStream>,
}

pub(crate) fn connect(socket: &Path, timeout: Option<Duration>) -> Result<UnixStream> {
    let connected = UnixStream::connect(socket).and_then(|stream| {
        stream.set_read_timeout(timeout)?;
        stream.set_write_timeout(timeout)?;
        Ok(stream)
    });
    connected.map_err(|source| Error::NoDaemon { socket: socket.to_owned(), source })
}

pub(crate) fn ask(
    socket: &Path,
    timeout: Option<Duration>,
    method: Method,
    target: &str,
    body: Option<&[u8]>,
) -> Result<Response> {
    let stream = connect(socket, timeout)?;
    exchange(stream, method, target, body).map_err(|source| Error::broken(socket, timeout, source))
}

fn exchange(
    mut stream: UnixStream,
    method: Method,
    target: &str,
    body: Option<&[u8]>,
) -> io::Result<Response> {
    let mut request =
        format!("{} {target} HTTP/1.1\r\nhost: bowline\r\nconnection: close\r\n", method.name());
    if let Some(body) = body {
        request += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    request += "\r\n";
    let mut request = request.into_bytes();
    request.extend_from_slice(body.unwrap_or_default());
    let sent = stream.write_all(&request);
    // A server that refuses answers before it has taken all of the request, so a broken pipe is not the last word.
    match (read_head(BufReader::new(stream)), sent) {
        (Ok(response), _) => Ok(response),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

fn read_head(mut stream: BufReader<UnixStream>) -> io::Result<Response> {
    let mut head = Vec::new();
    let mut bounded = stream.by_ref().take(HEAD_BYTES_MAX);
    while !(head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n")) {
        if bounded.read_until(b'\n', &mut head)? == 0 {
            return Err(match head.len() {
                0 => {
                    io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection without an answer")
                }
                _ => invalid("the head of its answer does not end"),
            });
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed =
        response.parse(&head).map_err(|error| invalid(&format!("its answer is not HTTP ({error})")))?;
    let (true, Some(status)) = (parsed.is_complete(), response.code) else {
        return Err(invalid("its answer is not HTTP"));
    };
    let framing = framing(status, response.headers)?;
    Ok(Response { status, framing, stream })
}

fn framing(status: u16, headers: &[httparse::Header<'_>]) -> io::Result<Framing> {
    if status == 204 || status == 304 {
        return Ok(Framing::End);
    }
    let find = |name: &str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if let Some(header) = find("transfer-encoding") {
        return match header.value.eq_ignore_ascii_case(b"chunked") {
            true => Ok(Framing::ChunkSize),
            false => Err(invalid("its answer has a transfer encoding other than chunked")),
        };
    }
    match find("content-length").map(|header| std::str::from_utf8(header.value).ok()?.parse().ok()) {
        None => Ok(Framing::Close),
        Some(Some(length)) => Ok(Framing::Length(length)),
        Some(None) => Err(invalid("the length of its answer is not a number")),
    }
}

impl Response {
    /// For streams: what comes next may take as long as it likes.
    pub(crate) fn wait_for_ever(&self) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(None)
    }

    /// Reads the size line of the next chunk; after the last one, its trailers.
    fn next_chunk(&mut self) -> io::Result<Framing> {
        let line = self.line()?;
        let size = line.split(|&byte| byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).map(str::trim).unwrap_or_default();
        let size =
            u64::from_str_radix(size, 16).map_err(|_| invalid("the size of a chunk is not a number"))?;
        if size != 0 {
            return Ok(Framing::Chunk(size));
        }
        for _ in 0..HEADERS_MAX {
            if self.line()?.iter().all(u8::is_ascii_whitespace) {
                return Ok(Framing::End);
            }
        }
        Err(invalid("its answer has too many trailers"))
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.by_ref().take(CHUNK_LINE_MAX).read_until(b'\n', &mut line)?;
        match line.ends_with(b"\n") {
            true => Ok(line),
            false => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection within an answer"))
            }
        }
    }
}

impl Read for Response {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if matches!(self.framing, Framing::ChunkSize) {
            self.framing = self.next_chunk()?;
        }
        let left = match self.framing {
            Framing::End => return Ok(0),
            Framing::Close | Framing::ChunkSize => u64::MAX,
            Framing::Length(left) | Framing::Chunk(left) => left,
        };
        if left == 0 || buf.is_empty() {
            return Ok(0);
        }
        let taken = self.stream.by_ref().take(left).read(buf)?;
        let after = left - u64::try_from(taken).unwrap_or(left);
        self.framing = match self.framing {
            Framing::Close if taken == 0 => Framing::End,
            Framing::Length(_) | Framing::Chunk(_) if taken == 0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it closed the connection within an answer",
                ));
            }
            Framing::Length(_) if after == 0 => Framing::End,
            Framing::Length(_) => Framing::Length(after),
            Framing::Chunk(_) if after == 0 => {
                self.line()?;
                Framing::ChunkSize
            }
            Framing::Chunk(_) => Framing::Chunk(after),
            Framing::Close | Framing::ChunkSize | Framing::End => Framing::Close,
        };
        Ok(taken)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
