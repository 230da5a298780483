//! What is still to be put back.
//!
//! Which granules are to be put back is fixed when the rollback begins, as bits by zone. What is done to one of them is
//! the transition of the zones of copy-on-write, read the other way: *pending* (uncopied), claimed by whoever puts it
//! back or overwrites it (busy), *cleared* (copied). Only set bits can be relied on without the lock, and once set they
//! stay: what is cleared is the origin's again, for ever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_block::ByteRange;

use crate::cow::{Claim, Claimed, GRANULE_BYTES, Granules, Interval, Run, SlotId, WORD_GRANULES, Zone};
use crate::cow::{ZONE_GRANULES, mask_of};

/// Words of a zone's bits.
pub(crate) const ZONE_WORDS: usize = 64;

/// Bits of granules, by zone.
pub(crate) type ZoneBits = BTreeMap<u64, Box<[u64; ZONE_WORDS]>>;

/// See the module.
pub(crate) struct Pending {
    size: u64,
    wanted: ZoneBits,
    cleared: Interval,
    total: u64,
    done: AtomicU64,
}

/// Pending granules of one zone, claimed.
pub(crate) struct Claimed1<'a> {
    pending: &'a Pending,
    zone: u64,
    claim: Claim<'a>,
}

/// What came of asking for pending granules.
pub(crate) enum Asked<'a> {
    /// None is pending there.
    Nothing,
    /// Somebody else is at it.
    Busy(&'a Zone, Run),
    Mine(Claimed1<'a>),
}

impl Pending {
    pub(crate) fn new(size: u64, wanted: ZoneBits) -> Self {
        let bits = wanted.values().flat_map(|bits| bits.iter());
        let total = bits.map(|bits| u64::from(bits.count_ones())).sum();
        Self { size, wanted, cleared: Interval::new(size, 1), total, done: AtomicU64::new(0) }
    }

    /// Bytes of the device.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Granules in all, and how many of them are cleared.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.total, self.done.load(Ordering::SeqCst).min(self.total))
    }

    /// Whether nothing is left.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.done.load(Ordering::SeqCst) >= self.total
    }

    /// The zones in which something was to be put back.
    pub(crate) fn zones(&self) -> impl Iterator<Item = u64> {
        self.wanted.keys().copied()
    }

    /// The pending bits of 64 granules.
    fn word(&self, bits: &[u64; ZONE_WORDS], zone: u64, word: usize) -> u64 {
        let wanted = bits.get(word).copied().unwrap_or(0);
        let number = zone * ZONE_WORDS as u64 + word as u64;
        if wanted == 0 { 0 } else { wanted & !self.cleared.word(number) }
    }

    /// The first run of pending granules among these.
    pub(crate) fn first(&self, granules: Granules) -> Option<Granules> {
        if self.is_empty() || granules.len() == 0 {
            return None;
        }
        let zones = granules.first / ZONE_GRANULES..=(granules.end - 1) / ZONE_GRANULES;
        for (&zone, bits) in self.wanted.range(zones) {
            for word in 0..ZONE_WORDS {
                let number = zone * ZONE_WORDS as u64 + word as u64;
                let hits = self.word(bits, zone, word) & mask_of(number, granules.first, granules.end);
                if hits != 0 {
                    let first = number * WORD_GRANULES + u64::from(hits.trailing_zeros());
                    return Some(Granules { first, end: self.end_of_run(first, granules.end) });
                }
            }
        }
        None
    }

    fn end_of_run(&self, first: u64, end: u64) -> u64 {
        let mut at = first;
        while at < end && self.has(at) {
            at += 1;
        }
        at
    }

    /// Whether a granule is pending.
    fn has(&self, granule: u64) -> bool {
        let zone = granule / ZONE_GRANULES;
        let word = usize::try_from(granule % ZONE_GRANULES / WORD_GRANULES).unwrap_or(usize::MAX);
        let bits = self.wanted.get(&zone).map_or(0, |bits| self.word(bits, zone, word));
        bits >> (granule % WORD_GRANULES) & 1 == 1
    }

    /// Whether anything in the range is pending.
    #[inline]
    pub(crate) fn any(&self, range: ByteRange) -> bool {
        !self.is_empty() && self.first(Granules::touched_by(range)).is_some()
    }

    /// Claims the first pending run among these, at most `max` granules of it.
    pub(crate) fn claim(&self, granules: Granules, max: u16) -> Asked<'_> {
        let Some(run) = self.first(granules) else { return Asked::Nothing };
        let number = run.first / ZONE_GRANULES;
        let (Some(bits), Some(zone)) = (self.wanted.get(&number), self.cleared.zone_or_new(number)) else {
            return Asked::Nothing;
        };
        let base = number * ZONE_GRANULES;
        let within = Run::new(run.first - base, granules.end - base);
        let unwanted = |word: u64| {
            let index = usize::try_from(word).unwrap_or(usize::MAX);
            !bits.get(index).copied().unwrap_or(0)
        };
        match zone.claim(within, max, unwanted) {
            // Cleared meanwhile: there may be more behind it.
            Claimed::Nothing => Asked::Nothing,
            Claimed::Busy(run) => Asked::Busy(zone, run),
            Claimed::Mine(claim) => Asked::Mine(Claimed1 { pending: self, zone: number, claim }),
        }
    }

    /// The bits that are pending now.
    pub(crate) fn left(&self) -> ZoneBits {
        let mut left = ZoneBits::new();
        for (&zone, bits) in &self.wanted {
            let now: [u64; ZONE_WORDS] = std::array::from_fn(|word| self.word(bits, zone, word));
            if now.iter().any(|&bits| bits != 0) {
                left.insert(zone, Box::new(now));
            }
        }
        left
    }

    /// The bytes that are pending now, neighbours merged.
    pub(crate) fn ranges(&self) -> Vec<ByteRange> {
        let mut ranges: Vec<ByteRange> = Vec::new();
        let end = self.size.div_ceil(GRANULE_BYTES);
        let mut at = 0;
        while let Some(run) = self.first(Granules { first: at, end }) {
            ranges.push(run.bytes(self.size));
            at = run.end;
        }
        ranges
    }
}

impl Claimed1<'_> {
    /// The granules.
    pub(crate) fn granules(&self) -> Granules {
        let base = self.zone * ZONE_GRANULES;
        let run = self.claim.run();
        Granules { first: base + run.from(), end: base + run.end() }
    }

    /// They are the origin's from now on.
    pub(crate) fn clear(mut self) {
        let count = self.claim.run().count;
        self.claim.publish(count, SlotId::ZERO);
        self.pending.done.fetch_add(u64::from(count), Ordering::SeqCst);
    }
}
