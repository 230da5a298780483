//! Discard and write-zeroes: what reads as zero already needs no copy.
//!
//! A range that reads as zero before and after does not change: it gets neither a copy nor a mark. So a discard of a
//! whole sparse device costs what its data costs, not what its size would. Where a discard may leave anything behind
//! (the store does not promise zeroes), zeroes are recorded as such, one bit each; where that would be very many
//! bits, the discard is answered without being done, which is what a discard allows.

use std::sync::Arc;

use bowline_block::{ByteRange, Capabilities, ExtentKind, ExtentList, Op, Request, Store, Verdict};

use super::chain::Chain;
use super::granule::{GRANULE_BYTES, Granules};
use super::history::History;
use super::wait::{self, Deadline};

/// Extents asked for at once.
const EXTENTS_MAX: usize = 128;
/// Bytes a discard may cover that has to be recorded bit by bit: 16 GiB, half a megabyte of bits.
const RECORDED_MAX: u64 = 16 << 30;
/// Bytes that a request which may be as large as the device is given the hold limit for.
const HELD_BYTES: u64 = 32 << 20;

/// The hold of such a request.
struct Held {
    from: u64,
    deadline: Deadline,
}

impl Held {
    fn new(from: u64, chain: &Chain) -> Self {
        Self { from, deadline: Deadline::after(chain.hold_limit) }
    }

    /// What comes before `at` is done: after enough of it, time begins anew.
    fn reached(&mut self, at: u64, chain: &Chain) {
        if at.saturating_sub(self.from) >= HELD_BYTES {
            *self = Self::new(at, chain);
        }
    }
}

impl History {
    /// A discard or write-zeroes is about to change these granules.
    pub(crate) fn before_clear<'a>(
        &'a self,
        chain: Arc<Chain>,
        request: Request,
        granules: Granules,
        below: &'a dyn Store,
    ) -> Verdict<'a> {
        let can = below.geometry().can;
        let zeroes = request.op == Op::WriteZeroes
            || (request.op == Op::Discard && can.contains(Capabilities::DISCARD_READS_ZERO));
        if !zeroes && request.op == Op::Discard && request.range.len() > RECORDED_MAX {
            return Verdict::Complete(Ok(()));
        }
        Verdict::Hold(Box::pin(async move { self.clear(&chain, request, granules, zeroes, below).await }))
    }

    async fn clear(
        &self,
        chain: &Chain,
        request: Request,
        granules: Granules,
        zeroes: bool,
        below: &dyn Store,
    ) {
        let size = below.geometry().size;
        // Beyond what images need nothing is to be done; and to know a granule, all of it must be looked at.
        let needed = granules.bytes(size);
        let range = if zeroes { request.range.intersection(needed) } else { needed };
        let mut at = range.start();
        let mut held = Held::new(at, chain);
        while at < range.end() && chain.is_copying() {
            held.reached(at, chain);
            let rest = ByteRange::between(at, range.end());
            // What is copied already need not be asked about.
            let skipped = self.copied_until(chain, rest);
            if skipped > at {
                at = skipped;
                continue;
            }
            let found = wait::bounded(held.deadline.left(), below.extents(rest, EXTENTS_MAX)).await;
            let Some(found) = found else {
                let why = format!("asking for the origin's holes took longer than {:?}", chain.hold_limit);
                return chain.fail_all(&why);
            };
            // A store that cannot tell has data everywhere.
            let found = found.unwrap_or_else(|_| {
                let mut all = ExtentList::with_max(1);
                all.push(rest, ExtentKind::Data);
                all
            });
            let end = found.as_slice().last().map_or(rest.end(), |last| last.range.end());
            let end = if end <= at { rest.end() } else { end.min(rest.end()) };
            let holes = found.as_slice().iter().filter(|extent| extent.kind.reads_zero());
            let mut data_from = at;
            for hole in holes.map(|extent| extent.range.intersection(rest)) {
                let keep = if zeroes { hole } else { Granules::inside(hole, size).bytes(size) };
                if keep.is_empty() {
                    continue;
                }
                let data = Granules::touched_by(ByteRange::between(data_from, keep.start()));
                self.copy_data(chain, data, below, &mut held).await;
                if !zeroes {
                    self.record_zero(chain, Granules::touched_by(keep), held.deadline).await;
                }
                data_from = keep.end();
            }
            let rest = Granules::touched_by(ByteRange::between(data_from, end));
            self.copy_data(chain, rest.intersection(granules), below, &mut held).await;
            at = end;
        }
        if zeroes && let Some(current) = chain.current() {
            self.note_cleared(current.epoch, request.range);
        }
    }

    /// Copies as much as there is, in pieces, each with a deadline of its own.
    pub(crate) async fn copy_all(&self, chain: &Chain, granules: Granules, below: &dyn Store) {
        let mut held = Held::new(granules.first * GRANULE_BYTES, chain);
        self.copy_data(chain, granules, below, &mut held).await;
    }

    /// Copies as much as there is, in pieces.
    async fn copy_data(&self, chain: &Chain, granules: Granules, below: &dyn Store, held: &mut Held) {
        let mut first = granules.first;
        while first < granules.end && chain.is_copying() {
            held.reached(first * GRANULE_BYTES, chain);
            let end = granules.end.min(first + HELD_BYTES / GRANULE_BYTES);
            held.deadline = self.copy(chain, Granules { first, end }, below, held.deadline).await;
            first = end;
        }
    }

    /// The first byte of the range from which on something is not copied.
    fn copied_until(&self, chain: &Chain, range: ByteRange) -> u64 {
        let Granules { first, end } = Granules::touched_by(range);
        let open = super::granule::find(first, end, false, |word| chain.copied_word(word));
        if open == first { range.start() } else { (open * GRANULE_BYTES).min(range.end()) }
    }
}
