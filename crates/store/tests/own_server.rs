//! Our NBD client against our NBD server: a device served, and the same bytes as a source again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // helpers of tests

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::{
    BlockSize, Buf, ByteRange, Capabilities, ErrorKind, Flags, Io, Op, Request, Result, Store,
};
use bowline_device::Device;
use bowline_export_nbd::{
    ExportEntry, ExportTarget, Exports, ListenAddr, NbdServer, ServerConfig, TlsConfig,
};
use bowline_io::{EngineKind, Queues, QueuesConfig};
use bowline_nbd::NbdUri;
use bowline_sim::{Faults, Ledger, Rng, SECTOR_BYTES, SimDisk, Stall, exercise, run_alone};
use bowline_store::{FileStore, NbdOptions, NbdStore};
use rustls::pki_types::PrivateKeyDer;

struct One(ExportTarget);

impl Exports for One {
    fn list(&self) -> Vec<ExportEntry> {
        vec![ExportEntry { name: self.0.device.name().to_owned(), description: String::new() }]
    }

    fn find(&self, name: &str) -> Option<ExportTarget> {
        (name == self.0.device.name()).then(|| self.0.clone())
    }
}

/// A server of one device and the client of it, on the same two queues. Dropped in this order: client, server, queues.
struct Pair {
    client: Arc<NbdStore>,
    server: NbdServer,
    queues: Queues,
    _folder: tempfile::TempDir,
}

fn pair(store: Arc<dyn Store>, read_only: bool) -> Pair {
    pair_over(store, read_only, None)
}

/// The same over TLS, where a certificate is given.
fn pair_over(store: Arc<dyn Store>, read_only: bool, tls: Option<&Certificate>) -> Pair {
    let queues = Queues::start(QueuesConfig { count: 2, engine: EngineKind::Sync }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = Device::new("disk", store);
    let target = ExportTarget { device, read_only, description: String::new(), bitmaps: None };
    let mut config = ServerConfig::new(ListenAddr::Unix(folder.path().join("nbd.sock")));
    config.tls = tls.map(|tls| tls.server.clone());
    config.tls_required = tls.is_some();
    let server = NbdServer::start(config, Arc::new(One(target)), queues.handles()).unwrap();
    let options = NbdOptions { reconnect_wait: Duration::from_secs(5), ..NbdOptions::default() };
    let mut uri = server.uri("disk");
    uri.tls_options.certificates = tls.map(|tls| tls.folder.path().to_owned());
    let client = NbdStore::connect(&uri, queues.handles(), options).unwrap();
    Pair { client, server, queues, _folder: folder }
}

fn submit(store: &dyn Store, request: Request, data: Buf) -> Result<Vec<u8>> {
    let done = run_alone(store.submit(Io::new(request, data))).unwrap();
    done.result.map(|()| done.data.to_vec())
}

fn on(op: Op, start: u64, len: u64) -> Request {
    Request::new(op, ByteRange::new(start, len))
}

/// A server's certificate, and the folder in which a client has it.
struct Certificate {
    server: TlsConfig,
    folder: tempfile::TempDir,
}

fn certificate(name: &str) -> Certificate {
    let own = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca-cert.pem"), own.cert.pem()).unwrap();
    Certificate { server: TlsConfig(Arc::new(server)), folder }
}

#[test]
fn what_is_written_through_server_and_client_is_read_back() {
    write_and_read_back(None);
}

#[test]
fn what_is_written_through_tls_is_read_back() {
    write_and_read_back(Some(&certificate("localhost")));
}

#[test]
fn a_server_that_does_not_prove_its_name_gets_nothing() {
    let theirs = certificate("localhost");
    let memory = Arc::new(FileStore::memory(1 << 20, BlockSize::B512, false).unwrap());
    let pair = pair_over(memory, false, Some(&theirs));
    let refused = |change: &dyn Fn(&mut NbdUri)| {
        let mut uri = pair.server.uri("disk");
        uri.tls_options.certificates = Some(theirs.folder.path().to_owned());
        change(&mut uri);
        let error = NbdStore::connect(&uri, pair.queues.handles(), NbdOptions::default()).err().unwrap();
        (error.kind(), error.to_string())
    };
    let other = certificate("localhost");
    let (kind, text) = refused(&|uri| uri.tls_options.certificates = Some(other.folder.path().to_owned()));
    assert_eq!(kind, ErrorKind::Denied, "{text}");
    let (kind, text) = refused(&|uri| uri.tls_options.hostname = Some("elsewhere".to_owned()));
    assert_eq!(kind, ErrorKind::Denied, "{text}");
    let (kind, text) = refused(&|uri| uri.tls_options.certificates = Some("/nonexistent".into()));
    assert!(kind == ErrorKind::Invalid && text.contains("/nonexistent/ca-cert.pem"), "{text}");
    assert_eq!(refused(&|uri| uri.tls_options.verify_peer = Some(false)).0, ErrorKind::Unsupported);
    // Plain text where the server wants TLS, and TLS where it has none.
    let (kind, text) = refused(&|uri| uri.tls = false);
    assert!(kind == ErrorKind::Protocol && text.contains("TLS"), "{text}");
    let plain = self::pair(Arc::new(FileStore::memory(1 << 20, BlockSize::B512, false).unwrap()), false);
    let (kind, text) = refused(&|uri| uri.transport = plain.server.uri("disk").transport);
    assert!(kind == ErrorKind::Protocol && text.contains("TLS"), "{text}");
}

fn write_and_read_back(tls: Option<&Certificate>) {
    const SIZE: u64 = 8 << 20;
    let memory = Arc::new(FileStore::memory(SIZE, BlockSize::B512, false).unwrap());
    let pair = pair_over(memory, false, tls);
    let shape = pair.client.geometry();
    assert_eq!((shape.size, shape.block_size, shape.read_only), (SIZE, BlockSize::B512, false));
    assert!(shape.can.contains(Capabilities::DISCARD | Capabilities::WRITE_ZEROES | Capabilities::EXTENTS));
    let mut model = vec![0; usize::try_from(SIZE).unwrap()];
    let mut rng = Rng::new(1);
    for step in 0..200u8 {
        let len = 512 * (1 + rng.below(if step % 8 == 0 { 4096 } else { 32 }));
        let start = rng.below((SIZE - len) / 512) * 512;
        let window = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
        if step % 5 == 4 {
            submit(&*pair.client, on(Op::WriteZeroes, start, len), Buf::empty()).unwrap();
            model[window].fill(0);
        } else {
            let flags = if step % 3 == 0 { Flags::FUA } else { Flags::empty() };
            let mut data = Buf::zeroed(window.len());
            data.fill(step + 1);
            submit(&*pair.client, on(Op::Write, start, len).with_flags(flags), data).unwrap();
            model[window].fill(step + 1);
        }
    }
    let all = submit(&*pair.client, on(Op::Read, 0, SIZE), Buf::zeroed(model.len())).unwrap();
    assert!(all == model);
    submit(&*pair.client, on(Op::Discard, 0, SIZE), Buf::empty()).unwrap();
    let extents = run_alone(pair.client.extents(ByteRange::new(0, SIZE), 16)).unwrap().unwrap();
    assert!(extents.as_slice().iter().all(|extent| extent.kind.reads_zero()), "{extents:?}");
    assert_eq!(extents.as_slice().last().unwrap().range.end(), SIZE);
    drop(pair);
}

#[test]
fn a_read_only_export_is_a_read_only_source() {
    let memory = Arc::new(FileStore::memory(1 << 20, BlockSize::B4096, false).unwrap());
    let pair = pair(memory, true);
    let shape = pair.client.geometry();
    assert_eq!((shape.block_size, shape.read_only), (BlockSize::B4096, true));
    let refused = submit(&*pair.client, on(Op::Write, 0, 4096), Buf::zeroed(4096)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    let wrong = NbdStore::connect(&pair.server.uri("other"), pair.queues.handles(), NbdOptions::default());
    assert!(wrong.err().unwrap().to_string().contains("unknown export"));
}

#[test]
fn i7_a_flush_through_server_and_client_means_it() {
    for seed in 0..4 {
        let faults = Faults { stall: Stall::Polls(4), ..Faults::default() };
        let disk = Arc::new(SimDisk::new(36 * SECTOR_BYTES, seed).faulty(faults));
        let pair = pair(disk.clone(), false);
        let ledger = Ledger::new();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (client, disk, ledger) = (&pair.client, &disk, &ledger);
                scope.spawn(move || {
                    run_alone(exercise(&**client, disk, ledger, seed << 8 | number, 12)).unwrap();
                });
            }
        });
        drop(pair);
        let cuts = ledger.check_every_cut(&disk, 3).unwrap();
        assert!(cuts > 100, "{cuts} cuts are too few to mean anything");
    }
}

#[test]
fn a_connection_the_server_ends_is_made_again() {
    let memory = Arc::new(FileStore::memory(1 << 20, BlockSize::B512, false).unwrap());
    let pair = pair(memory, false);
    submit(&*pair.client, on(Op::Write, 0, 512), Buf::zeroed(512)).unwrap();
    pair.server.disconnect_device("disk");
    let deadline = Instant::now() + Duration::from_secs(10);
    while submit(&*pair.client, on(Op::Read, 0, 512), Buf::zeroed(512)).is_err() {
        assert!(Instant::now() < deadline, "{:?}", pair.client.trouble());
    }
}
