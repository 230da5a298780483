//! What a device has done, counted per thread and added up when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};

use bowline_block::{Op, Request};

/// Counters of one slot.
#[derive(Default)]
pub(crate) struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    write_zeroes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    errors: AtomicU64,
}

/// What a device has done since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Write-zeroes.
    pub write_zeroes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests of any kind that failed.
    pub errors: u64,
    /// Requests inside the device now.
    pub in_flight: u64,
}

impl Counters {
    /// Counts a request that has ended.
    #[inline]
    pub(crate) fn count(&self, request: &Request, failed: bool) {
        let add = |counter: &AtomicU64, n: u64| {
            counter.fetch_add(n, Ordering::Relaxed);
        };
        if failed {
            add(&self.errors, 1);
            return;
        }
        match request.op {
            Op::Read => {
                add(&self.reads, 1);
                add(&self.read_bytes, request.range.len());
            }
            Op::Write => {
                add(&self.writes, 1);
                add(&self.written_bytes, request.range.len());
            }
            Op::Flush => add(&self.flushes, 1),
            Op::Discard | Op::SecureErase | Op::Zone => add(&self.discards, 1),
            Op::WriteZeroes => add(&self.write_zeroes, 1),
        }
    }

    pub(crate) fn add_to(&self, sum: &mut IoStats) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        sum.reads += get(&self.reads);
        sum.writes += get(&self.writes);
        sum.flushes += get(&self.flushes);
        sum.discards += get(&self.discards);
        sum.write_zeroes += get(&self.write_zeroes);
        sum.read_bytes += get(&self.read_bytes);
        sum.written_bytes += get(&self.written_bytes);
        sum.errors += get(&self.errors);
    }
}
