//! The server on a real socket: clients that misbehave cost themselves only, and stopping is bounded.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Fake;
use crate::server::listen::{Patience, serve_with};
use crate::server::{CONNECTIONS_MAX, FOLLOWERS_MAX};

/// Shorter than the daemon's, so that the tests need not wait as long.
const PATIENCE: Patience = Patience { head: Duration::from_secs(1), write: Duration::from_secs(1) };

struct Server {
    path: PathBuf,
    fake: Arc<Fake>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let control = fake.clone();
        let thread = std::thread::spawn(move || {
            super::block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                serve_with(PATIENCE, listener, control, async { drop(stopped.await) }).await;
            });
        });
        Server { path, fake, stop: Some(stop), thread: Some(thread), _folder: folder }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The whole answer to `GET target`.
    fn get(&self, target: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn follow(&self) -> UnixStream {
        let mut stream = self.connect();
        write!(stream, "GET /v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        stream
    }

    /// Stops and says how long that took.
    fn stop(&mut self) -> Duration {
        let begin = Instant::now();
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap();
        begin.elapsed()
    }
}

fn read_until(stream: &mut UnixStream, part: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&text).contains(part) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "ended after {:?}", String::from_utf8_lossy(&text));
        text.extend(byte);
    }
    String::from_utf8(text).unwrap()
}

/// I8, I9: garbage, silence and half requests leave the server answering others.
#[test]
fn bad_clients_cost_only_themselves() {
    let mut server = Server::start();
    let mut kept = Vec::new();
    for bytes in [
        &b"\0\xff\xff"[..],
        b"GET /",
        b"POST /v1/devices HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{",
        b"",
    ] {
        let mut stream = server.connect();
        stream.write_all(bytes).unwrap();
        kept.push(stream);
        let mut gone = server.connect();
        gone.write_all(bytes).unwrap();
    }
    assert!(server.get("/v1/status").starts_with("HTTP/1.1 200"));
    // A head that never ends is cut off by its size, not kept.
    let mut endless = server.connect();
    let line = format!("x-{}: y\r\n", "z".repeat(1000));
    let _ = endless.write_all(b"GET / HTTP/1.1\r\n");
    for _ in 0..200 {
        if endless.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = endless.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert!(server.get("/v1/status").starts_with("HTTP/1.1 200"));
    server.stop();
}

/// I9: more silent clients than places only delay others until the silent ones time out.
#[test]
fn silent_clients_give_their_places_back() {
    let mut server = Server::start();
    let silent: Vec<_> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
    let begin = Instant::now();
    assert!(server.get("/v1/status").starts_with("HTTP/1.1 200"));
    assert!(begin.elapsed() > PATIENCE.head / 2, "the silent clients were not counted");
    drop(silent);
    server.stop();
}

#[test]
fn a_follower_gets_events_as_they_happen_and_its_place_comes_back() {
    let mut server = Server::start();
    server.fake.happen("before");
    let mut followers: Vec<_> = (0..FOLLOWERS_MAX).map(|_| server.follow()).collect();
    for stream in &mut followers {
        let text = read_until(stream, "before");
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("application/x-ndjson"), "{text}");
    }
    server.fake.happen("after");
    for stream in &mut followers {
        read_until(stream, "after");
    }
    assert!(server.get("/v1/events?follow=true").starts_with("HTTP/1.1 503"));
    drop(followers);
    let begin = Instant::now();
    loop {
        let mut stream = server.follow();
        if read_until(&mut stream, "\r\n").contains(" 200 ") {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "a follower that left keeps its place");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.stop();
}

/// I9: a follower that never reads is cut off, so it cannot keep its place.
#[test]
fn a_client_that_never_reads_is_cut_off() {
    let mut server = Server::start();
    let mut follower = server.follow();
    // Far more than the socket's buffers hold.
    let long = "x".repeat(64 << 10);
    (0..64).for_each(|_| server.fake.happen(&long));
    std::thread::sleep(PATIENCE.write * 3);
    let mut taken = Vec::new();
    let _ = follower.read_to_end(&mut taken);
    assert!(!taken.is_empty() && !taken.ends_with(b"0\r\n\r\n"), "it was waited for: {} bytes", taken.len());
    server.stop();
}

/// Stopping ends streams at once and does not wait for silent clients.
#[test]
fn stopping_is_bounded() {
    let mut server = Server::start();
    server.fake.happen("before");
    let mut follower = server.follow();
    read_until(&mut follower, "before");
    let _silent = server.connect();
    let took = server.stop();
    assert!(took < Duration::from_secs(3), "stopping took {took:?}");
    let mut rest = String::new();
    follower.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream was cut, not ended: {rest:?}");
}
