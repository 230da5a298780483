//! A store in memory whose pace and faults tests set.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_block::*;

const BLOCK: u64 = 4096;

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// At once.
    AtOnce,
    /// By a future, the later ones often first.
    Slow,
    /// Some at once, some not: as the page cache does.
    Mixed,
}

pub(super) struct TestStore {
    pub(super) size: u64,
    pub(super) block_size: BlockSize,
    pub(super) can: Capabilities,
    blocks: Mutex<BTreeMap<u64, Box<[u8]>>>,
    pace: Pace,
    calls: AtomicU64,
    /// Writes that no flush has covered.
    pub(super) unflushed: AtomicUsize,
    pub(super) flushes: AtomicUsize,
    pub(super) durable_writes: AtomicUsize,
    /// Requests that have come, in the order of their coming.
    pub(super) log: Mutex<Vec<Request>>,
    /// Requests on this range fail so.
    pub(super) fault: Mutex<Option<(ByteRange, ErrorKind)>>,
    /// Requests by future wait until this is set.
    pub(super) held: AtomicBool,
    pub(super) under_way: AtomicUsize,
    pub(super) most_under_way: AtomicUsize,
}

impl TestStore {
    pub(super) fn new(size: u64, pace: Pace) -> Arc<Self> {
        Self::shaped(size, pace, BlockSize::B512, Capabilities::all())
    }

    pub(super) fn shaped(size: u64, pace: Pace, block_size: BlockSize, can: Capabilities) -> Arc<Self> {
        Arc::new(Self {
            size,
            block_size,
            can,
            blocks: Mutex::default(),
            pace,
            calls: AtomicU64::new(0),
            unflushed: AtomicUsize::new(0),
            flushes: AtomicUsize::new(0),
            durable_writes: AtomicUsize::new(0),
            log: Mutex::default(),
            fault: Mutex::default(),
            held: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        })
    }

    /// Fills a range with bytes.
    pub(super) fn put(&self, offset: u64, data: &[u8]) {
        let range = ByteRange::new(offset, data.len() as u64);
        let mut blocks = self.blocks.lock().unwrap();
        for piece in range.pieces(BLOCK) {
            let number = piece.start() / BLOCK;
            let block =
                blocks.entry(number).or_insert_with(|| vec![0; usize::try_from(BLOCK).unwrap()].into());
            let at = usize::try_from(piece.start() % BLOCK).unwrap();
            let from = usize::try_from(piece.start() - offset).unwrap();
            let len = usize::try_from(piece.len()).unwrap();
            block[at..at + len].copy_from_slice(&data[from..from + len]);
        }
    }

    pub(super) fn get(&self, offset: u64, data: &mut [u8]) {
        let range = ByteRange::new(offset, data.len() as u64);
        let blocks = self.blocks.lock().unwrap();
        for piece in range.pieces(BLOCK) {
            let at = usize::try_from(piece.start() % BLOCK).unwrap();
            let from = usize::try_from(piece.start() - offset).unwrap();
            let len = usize::try_from(piece.len()).unwrap();
            match blocks.get(&(piece.start() / BLOCK)) {
                Some(block) => data[from..from + len].copy_from_slice(&block[at..at + len]),
                None => data[from..from + len].fill(0),
            }
        }
    }

    fn clear(&self, range: ByteRange) {
        let first = range.start().div_ceil(BLOCK);
        let end = range.end() / BLOCK;
        let whole: Vec<u64> = {
            let blocks = self.blocks.lock().unwrap();
            if first < end { blocks.range(first..end).map(|(number, _)| *number).collect() } else { vec![] }
        };
        self.blocks.lock().unwrap().retain(|number, _| whole.binary_search(number).is_err());
        let (head, tail) = if first <= end {
            (
                ByteRange::between(range.start(), first * BLOCK),
                ByteRange::between((end * BLOCK).max(range.start()), range.end()),
            )
        } else {
            (range, ByteRange::new(0, 0))
        };
        for edge in [head, tail] {
            let edge = edge.intersection(range);
            if !edge.is_empty() {
                self.put(edge.start(), &vec![0; usize::try_from(edge.len()).unwrap()]);
            }
        }
    }

    fn verdict(&self, request: &Request) -> Result<()> {
        match *self.fault.lock().unwrap() {
            Some((range, kind)) if range.overlaps(request.range) => {
                Err(Error::new(kind, "a fault that the test wants"))
            }
            _ => Ok(()),
        }
    }

    fn act(&self, request: &Request, data: &mut [u8]) -> Result<()> {
        self.log.lock().unwrap().push(*request);
        self.verdict(request)?;
        match request.op {
            Op::Read => self.get(request.range.start(), data),
            Op::Write => {
                self.put(request.range.start(), data);
                if request.flags.contains(Flags::FUA) {
                    self.durable_writes.fetch_add(1, Ordering::SeqCst);
                } else {
                    self.unflushed.fetch_add(1, Ordering::SeqCst);
                }
            }
            Op::Flush => {
                self.unflushed.store(0, Ordering::SeqCst);
                self.flushes.fetch_add(1, Ordering::SeqCst);
            }
            Op::Discard | Op::WriteZeroes => self.clear(request.range),
            Op::SecureErase | Op::Zone => return Err(ErrorKind::Unsupported.into()),
        }
        Ok(())
    }

    fn is_slow_now(&self) -> bool {
        match self.pace {
            Pace::AtOnce => false,
            Pace::Slow => true,
            Pace::Mixed => !self.calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(3),
        }
    }

    async fn act_later(&self, request: Request, mut data: Buf) -> Done {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        if self.pace == Pace::Slow {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            bowline_io::sleep(Duration::from_micros((call * 7919 % 8) * 250)).await;
        }
        while self.held.load(Ordering::SeqCst) {
            bowline_io::sleep(Duration::from_millis(2)).await;
        }
        let result = self.act(&request, &mut data);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        Done::new(result, data)
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
        if self.is_slow_now() {
            return Now::NotNow;
        }
        Now::Done(self.act(&Request::new(Op::Read, range), data))
    }

    fn write_now(&self, range: ByteRange, data: &[u8], flags: Flags) -> Now {
        if self.is_slow_now() {
            return Now::NotNow;
        }
        Now::Done(self.act(&Request::new(Op::Write, range).with_flags(flags), &mut data.to_vec()))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Box::pin(self.act_later(io.request, io.data))
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        let blocks = self.blocks.lock().unwrap();
        let mut at = range.start();
        while at < range.end() {
            let number = at / BLOCK;
            let (kind, end) = if blocks.contains_key(&number) {
                (ExtentKind::Data, (number + 1) * BLOCK)
            } else {
                let next = blocks.range(number..).next().map_or(u64::MAX, |(next, _)| next * BLOCK);
                (ExtentKind::Hole, next)
            };
            let end = end.min(range.end());
            if !found.push(ByteRange::between(at, end), kind) {
                break;
            }
            at = end;
        }
        Now::Done(Ok(()))
    }
}
