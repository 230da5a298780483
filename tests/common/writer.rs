//! Writers that never stop until they are told to: each its own connection, its own part of the disk, its own log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::nbd::{Nbd, NbdError};
use super::oracle::{SECTOR, filled};
use super::prefix::{Log, Op, OpKind};

/// No test lasts longer; a writer that nobody stops ends by itself.
const LIFE: Duration = Duration::from_secs(180);
/// Sectors of a block of any device here.
const BLOCK: u64 = 8;

/// How far a writer is.
#[derive(Default)]
struct Progress {
    submitted: AtomicU64,
    acknowledged: AtomicU64,
}

/// What a writer did, and what ended it.
pub(crate) struct Written {
    pub(crate) log: Log,
    /// Ops of the log that were acknowledged: all, or all but the last.
    pub(crate) acknowledged: u64,
    /// The error that ended it early.
    pub(crate) error: Option<NbdError>,
}

/// Several writers of one disk.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    progress: Vec<Arc<Progress>>,
    threads: Vec<JoinHandle<Written>>,
    /// Writes they may still do, where they are frugal.
    allowance: Option<Arc<AtomicU64>>,
}

impl Writers {
    /// One writer for each connection; the disk is zero and is divided between them.
    pub(crate) fn start(connections: Vec<Nbd>) -> Self {
        Self::start_from(0, connections)
    }

    /// The same, in what lies from sector `base` on.
    pub(crate) fn start_from(base: u64, connections: Vec<Nbd>) -> Self {
        Self::begin(base, connections, None)
    }

    /// As [`Writers::start`], but they write only what [`Writers::allow`] allows, and not in one go: for who has to keep up
    /// with them on a slow machine.
    pub(crate) fn start_frugal(connections: Vec<Nbd>) -> Self {
        Self::begin(0, connections, Some(Arc::default()))
    }

    fn begin(base: u64, connections: Vec<Nbd>, allowance: Option<Arc<AtomicU64>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = connections.len() as u64;
        let (mut progress, mut threads) = (Vec::new(), Vec::new());
        for (index, connection) in (0..count).zip(connections) {
            let sectors = (connection.size / SECTOR as u64 - base) / count / BLOCK * BLOCK;
            let writer = u32::try_from(index).unwrap() + 1;
            let log = Log { writer, first: base + index * sectors, count: sectors, ops: Vec::new() };
            let (stop, own) = (stop.clone(), Arc::new(Progress::default()));
            let allowance = allowance.clone();
            progress.push(own.clone());
            threads.push(std::thread::spawn(move || {
                write_on(connection, log, &stop, &own, allowance.as_deref())
            }));
        }
        Writers { stop, progress, threads, allowance }
    }

    /// Lets frugal writers do so many writes more, all together.
    pub(crate) fn allow(&self, more: u64) {
        let allowance = self.allowance.as_ref().expect("they are not frugal");
        allowance.fetch_add(more, Ordering::SeqCst);
    }

    /// For each writer, its writes that were acknowledged by now: an image taken later has them.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        self.progress.iter().map(|progress| progress.acknowledged.load(Ordering::SeqCst)).collect()
    }

    /// For each writer, its writes that were submitted by now: an image taken before has no others.
    pub(crate) fn submitted(&self) -> Vec<u64> {
        self.progress.iter().map(|progress| progress.submitted.load(Ordering::SeqCst)).collect()
    }

    /// Waits until each writer has done `more` writes more, at most ten seconds.
    pub(crate) fn let_write(&self, more: u64) {
        let before = self.acknowledged();
        super::tools::eventually(&format!("{more} more writes of each writer"), || {
            let now = self.acknowledged();
            let done = now.iter().zip(&before).all(|(now, before)| *now >= before + more);
            (done || self.threads.iter().any(JoinHandle::is_finished)).then_some(())
        });
    }

    /// Waits until they have ended, stopping those that have not.
    pub(crate) fn end(self) -> Vec<Written> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    /// Stops them. None may have seen an error (I1, I6).
    pub(crate) fn finish(self) -> Vec<Log> {
        let ended = self.end().into_iter();
        ended
            .map(|written| match written.error {
                None => written.log,
                Some(error) => panic!("I6: writer {} saw an error: {error}", written.log.writer),
            })
            .collect()
    }
}

/// Random writes, zeroings and discards of one to sixteen sectors or some blocks, one at a time.
fn write_on(
    mut disk: Nbd,
    mut log: Log,
    stop: &AtomicBool,
    progress: &Progress,
    allowance: Option<&AtomicU64>,
) -> Written {
    let mut random = Random(u64::from(log.writer).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let deadline = Instant::now() + LIFE;
    let mut acknowledged = 0;
    let mut error = None;
    while !stop.load(Ordering::SeqCst) && Instant::now() < deadline {
        if !may_write(allowance) {
            continue;
        }
        let sequence = log.ops.len() as u64 + 1;
        let (op, discard) = random.op(&log);
        log.ops.push(op);
        progress.submitted.store(sequence, Ordering::SeqCst);
        let at = op.first * SECTOR as u64;
        let length = op.count * SECTOR as u64;
        let done = match op.kind {
            OpKind::Write => disk.write(at, &filled(op.first, op.count, log.writer, sequence)),
            OpKind::Zero if discard => disk.trim(at, length),
            OpKind::Zero => disk.write_zeroes(at, length),
        };
        if let Err(failed) = done {
            error = Some(failed);
            break;
        }
        acknowledged = sequence;
        progress.acknowledged.store(sequence, Ordering::SeqCst);
    }
    Written { log, acknowledged, error }
}

/// Takes one write of the allowance, after a pause that spreads them.
fn may_write(allowance: Option<&AtomicU64>) -> bool {
    let Some(allowance) = allowance else { return true };
    std::thread::sleep(Duration::from_millis(10));
    allowance.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// Enough chance for a test, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// The next op in the part of a log, and whether a zeroing is a discard.
    fn op(&mut self, log: &Log) -> (Op, bool) {
        if self.below(8) > 0 {
            let count = 1 + self.below(16);
            let first = log.first + self.below(log.count - count);
            return (Op { kind: OpKind::Write, first, count }, false);
        }
        let blocks = 1 + self.below(8);
        let first = log.first + self.below(log.count / BLOCK - blocks) * BLOCK;
        (Op { kind: OpKind::Zero, first, count: blocks * BLOCK }, self.below(2) == 0)
    }
}
