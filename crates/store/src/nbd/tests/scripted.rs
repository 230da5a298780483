//! A server that does what a script says once the negotiation is over.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_nbd::{
    BlockSizes, Command, ExportCatalog, ExportEntry, ExportInfo, NbdUri, ReplyForm, ReplyWriter, RequestHead,
    ServerConfig, ServerNegotiation, Step, TransmissionFlags,
};

pub(super) const SIZE: u64 = 1 << 20;

/// What the server offers.
#[derive(Clone)]
pub(super) struct Offer {
    pub(super) form: ReplyForm,
    pub(super) export: ExportInfo,
}

pub(super) fn offer(form: ReplyForm) -> Offer {
    use TransmissionFlags as F;
    let export = ExportInfo {
        name: String::new(),
        size: SIZE,
        flags: F::HAS_FLAGS | F::SEND_FLUSH | F::SEND_FUA | F::SEND_TRIM | F::SEND_WRITE_ZEROES,
        blocks: BlockSizes { minimum: 512, preferred: 4096, maximum: 256 << 10 },
        description: String::new(),
        contexts: vec![bowline_nbd::meta::BASE_ALLOCATION.to_owned()],
    };
    Offer { form, export }
}

struct Catalog(ExportInfo);

impl ExportCatalog for Catalog {
    fn list(&self) -> Vec<ExportEntry> {
        Vec::new()
    }

    fn find(&self, _name: &str) -> Option<ExportInfo> {
        Some(self.0.clone())
    }
}

/// A connection in transmission, as the server sees it.
pub(super) struct Peer {
    pub(super) stream: UnixStream,
    pub(super) form: ReplyForm,
    input: Vec<u8>,
}

impl Peer {
    fn negotiate(mut stream: UnixStream, offer: &Offer) -> Option<Self> {
        let config = ServerConfig {
            structured: offer.form != ReplyForm::Simple,
            extended: offer.form == ReplyForm::Extended,
            ..ServerConfig::default()
        };
        let mut negotiation = ServerNegotiation::new(config);
        let (mut input, mut out) = (Vec::new(), Vec::new());
        loop {
            let (used, step) = negotiation.step(&input, &mut out, &Catalog(offer.export.clone())).ok()?;
            input.drain(..used);
            stream.write_all(&out).ok()?;
            out.clear();
            match step {
                Step::NeedMore(_) => more(&mut stream, &mut input)?,
                Step::Transmission(agreed) => {
                    return Some(Self { stream, form: agreed.options.form, input });
                }
                Step::Continue => {}
                _ => return None,
            }
        }
    }

    /// The next request and its payload; `None` when the client has gone.
    pub(super) fn next(&mut self) -> Option<(RequestHead, Vec<u8>)> {
        let extended = self.form.is_extended();
        loop {
            if let Some((head, used)) = RequestHead::parse(&self.input, extended).expect("a good request") {
                let total = used + usize::try_from(head.payload_length(extended)).unwrap();
                while self.input.len() < total {
                    more(&mut self.stream, &mut self.input)?;
                }
                let payload = self.input[used..total].to_vec();
                self.input.drain(..total);
                return Some((head, payload));
            }
            more(&mut self.stream, &mut self.input)?;
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// What a good server answers: reads give the number of each byte's 512-byte sector.
    pub(super) fn good_answer(&self, head: &RequestHead) -> Vec<u8> {
        let writer = ReplyWriter::new(self.form, head);
        let mut out = vec![0; 512];
        let size = match head.command {
            Command::Read => {
                let length = u32::try_from(head.length).unwrap();
                let size = writer.data(&mut out, head.offset, length, true).unwrap();
                out.truncate(size);
                out.extend(expected(head.offset, head.length));
                return out;
            }
            Command::BlockStatus => {
                let half = head.length / 2;
                let extents = [
                    bowline_nbd::Extent { length: half, flags: 0 },
                    bowline_nbd::Extent { length: half, flags: 3 },
                ];
                writer.block_status(&mut out, bowline_nbd::ContextId(1), &extents, true).unwrap().0
            }
            _ => writer.done(&mut out).unwrap(),
        };
        out.truncate(size);
        out
    }

    /// Answers everything well until the client goes.
    pub(super) fn serve_well(&mut self) {
        while let Some((head, _)) = self.next() {
            if head.command == Command::Disconnect {
                return;
            }
            let answer = self.good_answer(&head);
            self.send(&answer);
        }
    }
}

pub(super) fn expected(offset: u64, length: u64) -> impl Iterator<Item = u8> {
    (offset..offset + length).map(|byte| u8::try_from(byte / 512 % 251).unwrap())
}

fn more(stream: &mut UnixStream, input: &mut Vec<u8>) -> Option<()> {
    let mut room = [0; 65536];
    match stream.read(&mut room) {
        Ok(bytes) if bytes > 0 => {
            input.extend_from_slice(&room[..bytes]);
            Some(())
        }
        _ => None,
    }
}

/// A listening server. Each connection gets a thread; dropping it hangs up on all of them.
pub(super) struct Server {
    pub(super) uri: NbdUri,
    pub(super) accepted: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    /// A server whose connection number `n` (from 0) gets `script(n, peer)` after the negotiation.
    pub(super) fn start(offer: Offer, script: impl Fn(usize, Peer) + Send + Sync + 'static) -> Self {
        Self::raw(move |number, stream| {
            if let Some(peer) = Peer::negotiate(stream, &offer) {
                script(number, peer);
            }
        })
    }

    /// A server that does not even negotiate unless the script does.
    pub(super) fn raw(script: impl Fn(usize, UnixStream) + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self::raw_at(&folder.path().join("nbd.sock"), script);
        server._folder = Some(folder);
        server
    }

    /// The same at a place of the test's choice.
    pub(super) fn start_at(
        path: &std::path::Path,
        offer: Offer,
        script: impl Fn(usize, Peer) + Send + Sync + 'static,
    ) -> Self {
        Self::raw_at(path, move |number, stream| {
            if let Some(peer) = Peer::negotiate(stream, &offer) {
                script(number, peer);
            }
        })
    }

    pub(super) fn raw_at(
        path: &std::path::Path,
        script: impl Fn(usize, UnixStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (stop, count, kept, script) = (over.clone(), accepted.clone(), streams.clone(), Arc::new(script));
        let thread = std::thread::spawn(move || {
            let mut threads = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                let (number, script) = (count.fetch_add(1, Ordering::SeqCst), script.clone());
                threads.push(std::thread::spawn(move || {
                    let ours = stream.try_clone();
                    script(number, stream);
                    // The kept clone would hold the connection open.
                    let _ = ours.map(|ours| ours.shutdown(std::net::Shutdown::Both));
                }));
            }
            for stream in kept.lock().unwrap().drain(..) {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        let uri = NbdUri::unix(path, "");
        Self { uri, accepted, over, streams, thread: Some(thread), _folder: None }
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Hangs up on every connection, and goes on listening.
    pub(super) fn hang_up(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
