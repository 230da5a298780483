//! A client that does as the test says, right or wrong.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bowline_nbd::{
    ClientConfig, ClientNegotiation, ClientStep, Command, CommandFlags, ContextId, Cookie, Extent,
    NegotiatedExport, ReplyBody, ReplyForm, RequestHead, WireError,
};

/// How the client wants its replies.
pub(super) type Form = ReplyForm;

pub(super) const FORMS: [Form; 3] = [Form::Simple, Form::Structured, Form::Extended];

/// A stream that both a socket and TLS over one are.
pub(super) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What came back for one request.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) error: Option<WireError>,
    pub(super) message: String,
    /// Data of a read, holes filled in.
    pub(super) data: Vec<u8>,
    pub(super) chunks: usize,
    pub(super) holes: usize,
    pub(super) extents: Vec<Extent>,
    /// The same by context, in the order of the chunks.
    pub(super) statuses: Vec<(ContextId, Vec<Extent>)>,
}

struct Asked {
    command: Command,
    offset: u64,
    answer: Answer,
    covered: usize,
}

pub(super) struct Client {
    pub(super) stream: Box<dyn Stream>,
    /// The same socket, to write from another thread.
    pub(super) socket: Option<UnixStream>,
    /// The server hung up within a reply.
    pub(super) was_cut: bool,
    pub(super) export: NegotiatedExport,
    form: Form,
    received: Vec<u8>,
    asked: HashMap<u64, Asked>,
    next_cookie: u64,
}

pub(super) fn config(export: &str, form: Form) -> ClientConfig {
    ClientConfig {
        export: export.to_owned(),
        extended: form == Form::Extended,
        structured: form != Form::Simple,
        contexts: if form == Form::Simple { vec![] } else { vec!["base:allocation".to_owned()] },
        ..ClientConfig::default()
    }
}

pub(super) fn dial(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

impl Client {
    pub(super) fn connect(socket: &Path, export: &str, form: Form) -> Self {
        Self::try_connect(socket, export, form).unwrap()
    }

    pub(super) fn try_connect(socket: &Path, export: &str, form: Form) -> Result<Self, String> {
        let socket = dial(socket);
        let mut client = Self::negotiate(Box::new(socket.try_clone().unwrap()), config(export, form))?;
        client.socket = Some(socket);
        Ok(client)
    }

    pub(super) fn negotiate(mut stream: Box<dyn Stream>, config: ClientConfig) -> Result<Self, String> {
        let mut machine = ClientNegotiation::new(config).unwrap();
        let (mut input, mut out) = (Vec::new(), Vec::new());
        loop {
            let (used, step) = machine.step(&input, &mut out).map_err(|error| error.to_string())?;
            input.drain(..used);
            stream.write_all(&out).unwrap();
            stream.flush().unwrap();
            out.clear();
            match step {
                ClientStep::Continue => {}
                ClientStep::NeedMore(needed) => {
                    while input.len() < needed {
                        let mut chunk = [0; 4096];
                        let count = stream.read(&mut chunk).unwrap();
                        if count == 0 {
                            return Err("hung up in the handshake".to_owned());
                        }
                        input.extend_from_slice(&chunk[..count]);
                    }
                }
                ClientStep::Ready(export) => {
                    let form = export.options.form;
                    return Ok(Self {
                        stream,
                        socket: None,
                        was_cut: false,
                        export: *export,
                        form,
                        received: input,
                        asked: HashMap::new(),
                        next_cookie: 1,
                    });
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// A request as bytes, without payload.
    pub(super) fn head(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length: u64,
    ) -> (u64, Vec<u8>) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let extended = self.form == Form::Extended;
        let mut flags = flags;
        if extended && command == Command::Write {
            flags |= CommandFlags::PAYLOAD_LEN;
        }
        let head = RequestHead { flags, command, cookie: Cookie(cookie), offset, length };
        let mut bytes = vec![0; self.form.request_size()];
        head.encode(&mut bytes, extended).unwrap();
        let room = if command == Command::Read && length <= 64 << 20 { length } else { 0 };
        let answer = Answer { data: vec![0; usize::try_from(room).unwrap()], ..Answer::default() };
        self.asked.insert(cookie, Asked { command, offset, answer, covered: 0 });
        (cookie, bytes)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    pub(super) fn ask(&mut self, command: Command, flags: CommandFlags, offset: u64, length: u64) -> u64 {
        let (cookie, bytes) = self.head(command, flags, offset, length);
        self.send(&bytes);
        cookie
    }

    pub(super) fn ask_write(&mut self, flags: CommandFlags, offset: u64, data: &[u8]) -> u64 {
        let (cookie, mut bytes) = self.head(Command::Write, flags, offset, data.len() as u64);
        bytes.extend_from_slice(data);
        self.send(&bytes);
        cookie
    }

    /// One request and its answer.
    pub(super) fn call(&mut self, command: Command, flags: CommandFlags, offset: u64, length: u64) -> Answer {
        let cookie = self.ask(command, flags, offset, length);
        self.wait(cookie)
    }

    pub(super) fn read(&mut self, offset: u64, length: u64) -> Answer {
        self.call(Command::Read, CommandFlags::empty(), offset, length)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        let cookie = self.ask_write(CommandFlags::empty(), offset, data);
        self.wait(cookie)
    }

    pub(super) fn wait(&mut self, cookie: u64) -> Answer {
        let (found, answer) = self.next_answer().expect("hung up");
        assert_eq!(found, cookie);
        answer
    }

    /// Bytes until `needed` are there; `false` at the end of the stream.
    fn fill(&mut self, needed: usize) -> bool {
        while self.received.len() < needed {
            let old = self.received.len();
            self.received.resize(needed.max(old + 16384), 0);
            match self.stream.read(&mut self.received[old..]) {
                Ok(0) => {
                    self.received.truncate(old);
                    return false;
                }
                Ok(count) => self.received.truncate(old + count),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    self.received.truncate(old);
                    return false;
                }
                Err(error) => panic!("no reply: {error}"),
            }
        }
        true
    }

    /// Whether the server has hung up, with nothing left to read.
    pub(super) fn is_at_end(&mut self) -> bool {
        self.received.is_empty() && !self.fill(1)
    }

    /// The next request that is answered in full; `None` when the server hung up.
    pub(super) fn next_answer(&mut self) -> Option<(u64, Answer)> {
        loop {
            let (cookie, last) = self.next_chunk()?;
            if last {
                let asked = self.asked.remove(&cookie).unwrap();
                if asked.command == Command::Read && asked.answer.error.is_none() {
                    assert_eq!(asked.covered, asked.answer.data.len(), "a read with gaps");
                }
                return Some((cookie, asked.answer));
            }
        }
    }

    fn next_chunk(&mut self) -> Option<(u64, bool)> {
        let form = self.form;
        loop {
            let (used, reply) = form.decode(&self.received).expect("malformed reply");
            if reply.is_some() {
                break;
            }
            if !self.fill(used) {
                self.was_cut = !self.received.is_empty();
                return None;
            }
        }
        let received = std::mem::take(&mut self.received);
        let (used, reply) = form.decode(&received).unwrap();
        let reply = reply.unwrap();
        let cookie = reply.cookie.0;
        let asked = self.asked.get_mut(&cookie).unwrap_or_else(|| panic!("cookie {cookie} was not asked"));
        let last = reply.last;
        let start = asked.offset;
        let mut follows = 0;
        let mut decoder = None;
        let mut data_at = 0;
        match reply.body {
            ReplyBody::Success => {
                follows = if asked.command == Command::Read { asked.answer.data.len() } else { 0 };
            }
            ReplyBody::Failure { error, message, .. } => {
                asked.answer.error = Some(error);
                asked.answer.message = String::from_utf8_lossy(message).into_owned();
            }
            ReplyBody::Data { offset, length } => {
                data_at = usize::try_from(offset - start).unwrap();
                follows = usize::try_from(length).unwrap();
            }
            ReplyBody::Hole { offset, length } => {
                let at = usize::try_from(offset - start).unwrap();
                let end = at + usize::try_from(length).unwrap();
                assert!(asked.answer.data[at..end].iter().all(|&byte| byte == 0));
                asked.covered += end - at;
                asked.answer.holes += 1;
            }
            ReplyBody::None => {}
            ReplyBody::BlockStatus { context, extents } => {
                asked.answer.statuses.push((context, Vec::new()));
                decoder = Some(extents);
            }
        }
        if let Some(decoder) = &decoder {
            follows = usize::try_from(decoder.remaining()).unwrap();
        }
        asked.answer.chunks += 1;
        self.received = received;
        self.received.drain(..used);
        self.take_payload(cookie, follows, decoder, data_at).then_some((cookie, last))
    }

    /// What follows the front of a reply; `false` when the server hung up.
    fn take_payload(
        &mut self,
        cookie: u64,
        follows: usize,
        decoder: Option<bowline_nbd::transmission::decode::ExtentDecoder>,
        data_at: usize,
    ) -> bool {
        let mut payload = vec![0; follows];
        let early = follows.min(self.received.len());
        payload[..early].copy_from_slice(&self.received[..early]);
        self.received.drain(..early);
        if self.stream.read_exact(&mut payload[early..]).is_err() {
            self.was_cut = true;
            return false;
        }
        let asked = self.asked.get_mut(&cookie).unwrap();
        if let Some(mut decoder) = decoder {
            let mut rest = &payload[..];
            while let Some((used, extent)) = decoder.decode(rest).unwrap() {
                asked.answer.extents.push(extent);
                asked.answer.statuses.last_mut().unwrap().1.push(extent);
                rest = &rest[used..];
            }
        } else if follows > 0 {
            asked.answer.data[data_at..data_at + follows].copy_from_slice(&payload);
            asked.covered += follows;
        }
        true
    }
}
