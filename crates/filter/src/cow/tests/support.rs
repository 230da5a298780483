//! A store in memory that can be made to dawdle and to fail, and ways to drive devices from test threads.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bowline_block::*;
use bowline_device::Device;

use crate::cow::*;

pub(crate) const G: u64 = GRANULE_BYTES;

/// How a store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All on the spot.
    Now,
    /// Never on the spot, as with `O_DIRECT`.
    Later,
    /// Sometimes.
    Mixed,
}

type Block = Option<Box<[u8; 4096]>>;

/// Sparse memory; a missing block is a hole. Blocks are read and written one by one, so requests of several tear.
pub(crate) struct TestStore {
    blocks: Vec<Mutex<Block>>,
    size: u64,
    block_size: BlockSize,
    pace: Pace,
    calls: AtomicU64,
    /// Changes wait.
    held: AtomicBool,
    /// Reads of this block fail (`u64::MAX` for none), or never end.
    pub(crate) broken: AtomicU64,
    pub(crate) stuck: AtomicU64,
    /// Nothing is there any more.
    pub(crate) gone: AtomicBool,
    pub(crate) reads: AtomicU64,
    pub(crate) can: Capabilities,
}

impl TestStore {
    pub(crate) fn new(size: u64, block_size: BlockSize, pace: Pace) -> Arc<Self> {
        Arc::new(Self::plain(size, block_size, pace))
    }

    pub(crate) fn plain(size: u64, block_size: BlockSize, pace: Pace) -> Self {
        Self {
            blocks: (0..size.div_ceil(G)).map(|_| Mutex::new(None)).collect(),
            size,
            block_size,
            pace,
            calls: AtomicU64::new(0),
            held: AtomicBool::new(false),
            broken: AtomicU64::new(u64::MAX),
            stuck: AtomicU64::new(u64::MAX),
            gone: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            can: Capabilities::all(),
        }
    }

    pub(crate) fn hold_writes(&self, hold: bool) {
        self.held.store(hold, Ordering::SeqCst);
    }

    fn on_the_spot(&self) -> bool {
        match self.pace {
            Pace::Now => true,
            Pace::Later => false,
            // A cheap scramble of a counter: no pattern that a test could be in step with.
            Pace::Mixed => {
                let n = self.calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                n >> 62 != 0
            }
        }
    }

    fn parts(
        range: ByteRange,
    ) -> impl Iterator<Item = (usize, std::ops::Range<usize>, std::ops::Range<usize>)> {
        range.pieces(G).map(move |piece| {
            let inside = (piece.start() % G) as usize;
            let at = (piece.start() - range.start()) as usize;
            let len = piece.len() as usize;
            ((piece.start() / G) as usize, inside..inside + len, at..at + len)
        })
    }

    pub(crate) fn read(&self, range: ByteRange, data: &mut [u8]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.gone.load(Ordering::Relaxed) {
            let nxio = std::io::Error::from_raw_os_error(6);
            return Err(Error::from_io("planted: no such device", nxio));
        }
        for (block, inside, at) in Self::parts(range) {
            if self.broken.load(Ordering::Relaxed) == block as u64 {
                return Err(Error::new(ErrorKind::Io, "planted: bad sector"));
            }
            match &*self.blocks[block].lock().unwrap() {
                Some(bytes) => data[at].copy_from_slice(&bytes[inside]),
                None => data[at].fill(0),
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, range: ByteRange, data: &[u8]) {
        for (block, inside, at) in Self::parts(range) {
            let mut bytes = self.blocks[block].lock().unwrap();
            bytes.get_or_insert_with(|| Box::new([0; 4096]))[inside].copy_from_slice(&data[at]);
        }
    }

    fn clear(&self, range: ByteRange) {
        for (block, inside, _) in Self::parts(range) {
            let mut bytes = self.blocks[block].lock().unwrap();
            let whole = inside.len() == 4096;
            if whole {
                *bytes = None;
            } else if let Some(bytes) = bytes.as_mut() {
                bytes[inside].fill(0);
            }
        }
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut all = vec![0; self.size as usize];
        self.read(ByteRange::new(0, self.size), &mut all).unwrap();
        all
    }
}

impl Store for TestStore {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.size, block_size: self.block_size, read_only: false, can: self.can }
    }

    fn location(&self) -> String {
        "test".to_owned()
    }

    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        let stuck = self.stuck.load(Ordering::Relaxed);
        if !self.on_the_spot() || (range.start() / G..range.end().div_ceil(G)).contains(&stuck) {
            return Now::NotNow;
        }
        Now::Done(self.read(range, data))
    }

    fn write_now(&self, range: ByteRange, data: &[u8], _flags: Flags) -> Now {
        if !self.on_the_spot() || self.held.load(Ordering::SeqCst) {
            return Now::NotNow;
        }
        self.write(range, data);
        Now::Done(Ok(()))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Box::pin(async move {
            let Io { request, mut data } = io;
            yield_now().await;
            let range = request.range;
            while request.op.changes_data() && self.held.load(Ordering::SeqCst) {
                yield_now().await;
            }
            let result = match request.op {
                Op::Read => {
                    let stuck = self.stuck.load(Ordering::Relaxed);
                    if (range.start() / G..range.end().div_ceil(G)).contains(&stuck) {
                        std::future::pending::<()>().await;
                    }
                    self.read(range, &mut data)
                }
                Op::Write => {
                    // In two halves, so that readers see torn writes.
                    let (first, second) = range.split_at(range.start() + range.len() / 2 / 512 * 512);
                    self.write(first, &data[..first.len() as usize]);
                    yield_now().await;
                    self.write(second, &data[first.len() as usize..]);
                    Ok(())
                }
                Op::Discard | Op::WriteZeroes => {
                    self.clear(range);
                    Ok(())
                }
                _ => Ok(()),
            };
            Done::new(result, data)
        })
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        for piece in range.pieces(G) {
            let hole = self.blocks[(piece.start() / G) as usize].lock().unwrap().is_none();
            if !found.push(piece, if hole { ExtentKind::Hole } else { ExtentKind::Data }) {
                break;
            }
        }
        Now::Done(Ok(()))
    }
}

/// Lets others run once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park_timeout(Duration::from_millis(50)),
        }
    }
}

/// Does a request as an export does: on the spot if possible, else submitted.
pub(crate) async fn perform(store: &dyn Store, op: Op, range: ByteRange, data: &[u8]) -> Result<Vec<u8>> {
    match op {
        Op::Read => {
            let mut room = vec![0xa5; range.len() as usize];
            match store.read_now(range, &mut room) {
                Now::Done(result) => result.map(|()| room),
                Now::NotNow => {
                    let io = Io::new(Request::new(op, range), Buf::zeroed(room.len()));
                    let done = store.submit(io).await;
                    done.result.map(|()| done.data.to_vec())
                }
            }
        }
        Op::Write => match store.write_now(range, data, Flags::empty()) {
            Now::Done(result) => result.map(|()| Vec::new()),
            Now::NotNow => {
                let io = Io::new(Request::new(op, range), Buf::copy_of(data));
                store.submit(io).await.result.map(|()| Vec::new())
            }
        },
        _ => store.submit(Io::bare(Request::new(op, range))).await.result.map(|()| Vec::new()),
    }
}

pub(crate) fn read(store: &dyn Store, range: ByteRange) -> Result<Vec<u8>> {
    block_on(perform(store, Op::Read, range, &[]))
}

pub(crate) fn write(store: &dyn Store, start: u64, data: &[u8]) {
    block_on(perform(store, Op::Write, ByteRange::new(start, data.len() as u64), data)).unwrap();
}

pub(crate) fn clear(store: &dyn Store, op: Op, range: ByteRange) {
    block_on(perform(store, op, range, &[])).unwrap();
}

/// All of a store.
pub(crate) fn contents(store: &dyn Store) -> Vec<u8> {
    read(store, ByteRange::new(0, store.geometry().size)).unwrap()
}

/// What was told.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<String>>);

impl Told {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn tell(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Told {
    fn space(&self, snapshot: &str, kind: &str, space: &Space<'_>) {
        let Space { device, used, limit, size, cause } = space;
        let errno = cause.and_then(|cause| cause.errno);
        self.tell(format!("{snapshot} {kind} {used} {limit} size={size} device={device:?} errno={errno:?}"));
    }
}

impl SnapshotEvents for Told {
    fn low_space(&self, snapshot: &str, space: &Space<'_>) {
        self.space(snapshot, "low-space", space);
    }

    fn grown(&self, snapshot: &str, space: &Space<'_>) {
        self.space(snapshot, "grown", space);
    }

    fn no_space(&self, snapshot: &str, space: &Space<'_>) {
        self.space(snapshot, "no-space", space);
    }

    fn holding(&self, snapshot: &str, space: &Space<'_>, _timeout: Duration) {
        self.space(snapshot, "holding", space);
    }

    fn failed(&self, snapshot: &str, failure: &Failure<'_>) {
        let Failure { devices, reason, cause, .. } = failure;
        let errno = cause.and_then(|cause| cause.errno);
        self.tell(format!("{snapshot} failed {reason} devices={devices:?} errno={errno:?}"));
    }

    fn device_gone(&self, snapshot: &str, device: &str, cause: Option<Cause>) {
        let kind = cause.map(|cause| cause.kind);
        self.tell(format!("{snapshot} device-gone {device} {kind:?}"));
    }
}

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn memory(limit: u64) -> Arc<DiffStorage> {
    DiffStorage::open(StoreSpec { kind: StoreKind::Memory, limit, step: limit }).unwrap()
}

pub(crate) fn take_one(name: &str, device: &Arc<Device>, earlier: Option<&Snapshot>) -> Snapshot {
    take_with(name, device, earlier, &memory(64 * MIB), Arc::new(NoEvents))
}

pub(crate) fn take_with(
    name: &str,
    device: &Arc<Device>,
    earlier: Option<&Snapshot>,
    storage: &Arc<DiffStorage>,
    events: Arc<dyn SnapshotEvents>,
) -> Snapshot {
    let history = earlier.map(|one| one.devices()[0].history().clone());
    take(name, &[Origin::new(device.clone(), history)], storage, events, limits()).unwrap()
}

pub(crate) fn limits() -> Limits {
    Limits { freeze: Duration::from_secs(20), hold: Duration::from_secs(5), on_full: OnFull::Drop }
}

pub(crate) const FREEZE: Duration = Duration::from_secs(20);

/// The one image of a snapshot of one device.
pub(crate) fn image(snapshot: &Snapshot) -> &ImageStore {
    snapshot.devices()[0].image()
}

/// A device full of data.
pub(crate) fn device(mib: u64, pace: Pace) -> (Arc<TestStore>, Arc<Device>) {
    let store = TestStore::new(mib * MIB, BlockSize::B512, pace);
    let piece: Vec<u8> = (0..MIB).map(|at| (at / 512 % 251 + 1) as u8).collect();
    (0..mib).for_each(|at| store.write(ByteRange::new(at * MIB, MIB), &piece));
    (store.clone(), Device::new("disk", store))
}

pub(crate) fn overwrite(device: &Device, from: u64, to: u64, byte: u8) {
    for at in (from..to).step_by(64 * 1024) {
        write(device, at, &[byte; 64 * 1024]);
    }
}

pub(crate) fn assert_failed(snapshot: &Snapshot, with: &str) {
    let SnapshotState::Failed { reason } = snapshot.state() else { panic!("{} goes on", snapshot.name()) };
    assert!(reason.contains(with), "{reason}");
    let error = read(image(snapshot), ByteRange::new(0, 512)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "images answer EIO");
    assert!(error.to_string().contains(with), "{error}");
    let error = snapshot.devices()[0].changed(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "I4: what is not known is not told");
}

pub(crate) fn file(dir: &tempfile::TempDir, name: &str, limit: u64) -> Arc<DiffStorage> {
    let kind = StoreKind::File(dir.path().join(name));
    DiffStorage::open(StoreSpec { kind, limit, step: MIB }).unwrap()
}

pub(crate) fn broken() -> std::io::Error {
    std::io::Error::from_raw_os_error(5)
}
