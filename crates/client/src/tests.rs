//! The client against the real server over a made-up control, and against what is no server at all.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use bowline_api::changes::ChangesParams;
use bowline_api::server::fake::{self, Fake};
use bowline_api::{Cache, ErrorKind, ExportKind, OnFull, RollbackState, StoreSpec};
use tokio::sync::oneshot;

use super::*;

pub(crate) struct Server {
    pub(crate) client: Client,
    fake: Arc<Fake>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let control = fake.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                bowline_api::server::serve(listener, control, async { drop(stopped.await) }).await;
            });
        });
        let client = Client::connect(&path).unwrap();
        Server { client, fake, stop: Some(stop), thread: Some(thread), _folder: folder }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        self.thread.take().map(JoinHandle::join);
    }
}

fn add(name: &str) -> DeviceAdd {
    DeviceAdd {
        name: name.into(),
        source: "/srv/disk.img".into(),
        read_only: true,
        block_size: Some(4096),
        cache: Some(Cache::Direct),
        size: Some(1 << 20),
        track: false,
    }
}

/// What the made-up control is asked by the test below.
const EVERY_VERB: [&str; 24] = [
    "status",
    "device list",
    "device show s1/disk",
    "device add disk",
    "device remove disk",
    "device remove --force disk",
    "device resize disk",
    "device resize --force disk",
    "device track disk",
    "device untrack disk",
    "device mounts s1/disk",
    "export add s1/disk",
    "export list",
    "export remove e 1",
    "snapshot take s1",
    "snapshot list",
    "snapshot show failed",
    "snapshot extend s1",
    "ranges:/dev/sdb@0+1M",
    "snapshot rollback s1 disk",
    "snapshot remove s1",
    "changes s1/disk s0",
    "changes disk 7",
    "changes mark disk 4096 1",
];

#[test]
fn every_verb_reaches_its_method() {
    let server = Server::start();
    let client = &server.client;
    assert_eq!(client.status().unwrap().devices.len(), 2);
    assert_eq!(client.device_list().unwrap(), [fake::device("disk"), fake::device("s1/disk")]);
    assert_eq!(client.device_show("s1/disk").unwrap(), fake::device("s1/disk"));
    assert_eq!(client.device_add(&add("disk")).unwrap().name, "disk");
    client.device_remove("disk", false).unwrap();
    client.device_remove("disk", true).unwrap();
    assert_eq!(client.device_resize("disk", 1024, false).unwrap().size, 1024);
    assert_eq!(client.device_resize("disk", 512, true).unwrap().size, 512);
    assert!(client.device_track("disk", true).unwrap().tracking.enabled);
    client.device_track("disk", false).unwrap();
    assert_eq!(client.device_mounts("s1/disk").unwrap(), [fake::mount()]);
    let export = ExportAdd {
        device: "s1/disk".into(),
        kind: ExportKind::Nbd,
        address: Some("unix:/run/x.sock".parse().unwrap()),
        read_only: true,
    };
    assert_eq!(client.export_add(&export).unwrap(), fake::export("e2"));
    assert_eq!(client.export_list().unwrap().len(), 1);
    client.export_remove("e 1").unwrap();
    let take = SnapshotTake {
        devices: vec!["disk".into()],
        name: Some("s1".into()),
        store: StoreSpec::Path("/var/diff".into()),
        limit: Some(1 << 30),
        step: Some(1 << 20),
        on_full: OnFull::Hold,
        hold_timeout_ms: Some(5000),
        persistent: true,
        ..SnapshotTake::default()
    };
    assert_eq!(client.snapshot_take(&take).unwrap(), fake::snapshot("s1"));
    assert_eq!(client.snapshot_list().unwrap().len(), 2);
    assert_eq!(client.snapshot_show("failed").unwrap(), fake::snapshot("failed"));
    let store = "ranges:/dev/sdb@0+1M".parse().unwrap();
    client.snapshot_extend("s1", &SnapshotExtend { store, limit: None }).unwrap();
    let going_back = client.snapshot_rollback("s1", &["disk".into()]).unwrap();
    assert_eq!(going_back.rollback[0].state, RollbackState::Running);
    client.snapshot_remove("s1").unwrap();
    let generation = fake::GENERATION.to_string();
    let since = |since: &str| {
        let (since, until) = (Some(since.into()), Some("s2".into()));
        ChangesParams { since, until, ..ChangesParams::default() }
    };
    assert_eq!(client.changes("s1/disk", &since("s0")).unwrap().until.as_deref(), Some("s2"));
    let params = ChangesParams { generation: Some(generation), ..since("7") };
    assert_eq!(client.changes("disk", &params).unwrap().generation, Some(fake::GENERATION));
    client.changes_mark("disk", ChangesMark { offset: 4096, length: 1 }).unwrap();
    assert!(client.metrics_text().unwrap().ends_with("# EOF\n"));
    assert_eq!(client.openapi_json().unwrap(), bowline_api::server::openapi_json());
    assert_eq!(server.fake.asked(), EVERY_VERB);
}

#[test]
fn a_refusal_is_the_daemons_own_words() {
    let server = Server::start();
    let error = server.client.device_remove("no-busy", false).unwrap_err();
    let Error::Refused(refused) = &error else { panic!("{error}") };
    assert_eq!(refused.kind, ErrorKind::Busy);
    assert_eq!(error.to_string(), "device remove no-busy: it was asked for: ask for something else");
    let large = SnapshotTake { devices: vec!["x".repeat(2 << 20)], ..SnapshotTake::default() };
    let error = server.client.snapshot_take(&large).unwrap_err();
    assert!(matches!(&error, Error::Refused(refused) if refused.kind == ErrorKind::TooLarge), "{error}");
}

#[test]
fn events_come_whole_and_in_order() {
    let server = Server::start();
    for number in 1..=200 {
        server.fake.happen(&format!("event {number} {}", "é".repeat(number)));
    }
    let events = server.client.events(EventId(10), Some(5)).unwrap();
    assert_eq!(events.iter().map(|event| event.id.0).collect::<Vec<_>>(), [11, 12, 13, 14, 15]);
    let mut seen = Vec::new();
    let followed = server.client.follow_events(EventId(0), |event| {
        seen.push(event.id.0);
        if event.id.0 == 200 {
            server.fake.happen("while following");
        }
        if event.message == "while following" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    followed.unwrap();
    assert_eq!(seen, (1..=201).collect::<Vec<_>>());
}

#[test]
fn no_daemon_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.sock");
    let message = Client::connect(&path).unwrap_err().to_string();
    assert!(message.starts_with(&format!("no daemon at {}: ", path.display())), "{message}");
    assert!(message.contains("`bowline serve --socket "), "{message}");
    let long = folder.path().join("x".repeat(200));
    assert!(Client::connect(long).unwrap_err().to_string().contains("at most 107 bytes"));
}

/// A listener that answers every connection with these bytes and closes.
pub(crate) fn answering(bytes: &'static [u8]) -> (Client, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        // The probe of `connect`, and one request.
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(bytes);
            }
        }
    });
    (Client::connect(&path).unwrap(), folder)
}

/// I8: whatever answers on the socket, the client says what is wrong, and never takes half an answer for a whole one.
#[test]
fn bad_answers_are_errors() {
    for (bytes, part) in [
        (&b""[..], "without an answer"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "does not end"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[]", "within an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n[]", "not a number"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n[]", "other than chunked"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n[]", "not a number"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n", "within an answer"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "not a number"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "invalid type"),
        (b"HTTP/1.1 500 Oops\r\n\r\n<html>", "HTTP status 500"),
    ] {
        let (client, _folder) = answering(bytes);
        let message = client.device_list().unwrap_err().to_string();
        assert!(message.contains(part), "{}: {message}", String::from_utf8_lossy(bytes));
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    for bytes in [
        &b"HTTP/1.1 200 OK\r\n\r\n[]"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\n[\r\n1\r\n]\r\n0\r\nt: x\r\n\r\n",
    ] {
        let (client, _folder) = answering(bytes);
        assert_eq!(client.device_list().unwrap(), [], "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_daemon_that_hangs_is_not_waited_for_forever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let client = Client::connect(&path).unwrap().with_timeout(Some(Duration::from_millis(50)));
    let error = client.status().unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}
