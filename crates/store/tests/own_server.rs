//! Our NBD client against our NBD server: a device served, and the same bytes as a source again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // helpers of tests

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::{
    BlockSize, Buf, ByteRange, Capabilities, ErrorKind, Flags, Io, Op, Request, Result, Store,
};
use bowline_device::Device;
use bowline_export_nbd::{ExportEntry, ExportTarget, Exports, ListenAddr, NbdServer, ServerConfig};
use bowline_io::{EngineKind, Queues, QueuesConfig};
use bowline_sim::{Faults, Ledger, Rng, SECTOR_BYTES, SimDisk, Stall, exercise, run_alone};
use bowline_store::{FileStore, NbdOptions, NbdStore};

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
    let queues = Queues::start(QueuesConfig { count: 2, engine: EngineKind::Sync }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = ExportTarget { device: Device::new("disk", store), read_only, description: String::new() };
    let config = ServerConfig::new(ListenAddr::Unix(folder.path().join("nbd.sock")));
    let server = NbdServer::start(config, Arc::new(One(target)), queues.handles()).unwrap();
    let options = NbdOptions { reconnect_wait: Duration::from_secs(5), ..NbdOptions::default() };
    let client = NbdStore::connect(&server.uri("disk"), queues.handles(), options).unwrap();
    Pair { client, server, queues, _folder: folder }
}

fn submit(store: &dyn Store, request: Request, data: Buf) -> Result<Vec<u8>> {
    let done = run_alone(store.submit(Io::new(request, data))).unwrap();
    done.result.map(|()| done.data.to_vec())
}

fn on(op: Op, start: u64, len: u64) -> Request {
    Request::new(op, ByteRange::new(start, len))
}

#[test]
fn what_is_written_through_server_and_client_is_read_back() {
    const SIZE: u64 = 8 << 20;
    let memory = Arc::new(FileStore::memory(SIZE, BlockSize::B512, false).unwrap());
    let pair = pair(memory, false);
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
