//! A client for tests of durability: random writes, flushes and FUA writes, each noted in a ledger.

use bowline_block::{ByteRange, Flags, Io, Op, Request, Store};

use crate::SECTOR_BYTES;
use crate::disk::SimDisk;
use crate::ledger::Ledger;
use crate::rng::Rng;

/// Does `ops` operations on `store`, one after the other, and notes what it was promised. `disk` is at the bottom of the
/// store's stack. Several clients on one store, of different seeds, are several connections.
pub async fn exercise(store: &dyn Store, disk: &SimDisk, ledger: &Ledger, seed: u64, ops: u64) {
    let mut rng = Rng::new(seed);
    // Few sectors, so that writes meet.
    let sectors = (store.geometry().size / SECTOR_BYTES).min(32);
    for _ in 0..ops {
        if rng.once_in(4) {
            let id = ledger.begin_flush(disk);
            match store.submit(Io::bare(Request::flush())).await.result {
                Ok(()) => ledger.flushed(disk, id),
                Err(_) => ledger.flush_failed(disk, id),
            }
            continue;
        }
        let count = 1 + rng.below(sectors.min(8));
        let first = rng.below(sectors - count + 1);
        let range = ByteRange::new(first * SECTOR_BYTES, count * SECTOR_BYTES);
        let (id, data) = ledger.begin_write(disk, range);
        let flags = if rng.once_in(5) { Flags::FUA } else { Flags::empty() };
        let request = Request::new(Op::Write, range).with_flags(flags);
        if store.submit(Io::new(request, data)).await.result.is_ok() {
            ledger.acknowledged(disk, id, flags.contains(Flags::FUA));
        }
    }
}
