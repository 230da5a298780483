//! A filter that watches reads: whether a mounted file system stands on this device is found out by reading from it at
//! random places and looking whether they arrive here.
//!
//! Design notes: attached above all others for the moment of a probe, passes everything. What it remembers is bounded
//! (I9): reads that touch are one piece, and when there are too many pieces it answers that it saw everything, which a
//! probe takes for "cannot be told", as its decoys were seen, too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bowline_block::{Altitude, ByteRange, Filter, Op, Request, Store, Verdict};

/// Where in a stack a probe sits: above everything that answers reads by itself.
pub const PROBE_ALTITUDE: Altitude = Altitude(900);

/// Pieces remembered.
const PIECES_MAX: usize = 65_536;

/// The filter.
#[derive(Debug, Default)]
pub struct ReadProbe {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Disjoint pieces that do not touch, from start to end.
    pieces: BTreeMap<u64, u64>,
    too_many: bool,
}

impl ReadProbe {
    /// A probe that has seen nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Forgets what was seen.
    pub fn clear(&self) {
        *self.seen() = Seen::default();
    }

    /// Whether every byte of `range` was read since; also when there was too much to remember.
    #[must_use]
    pub fn saw(&self, range: ByteRange) -> bool {
        let seen = self.seen();
        let piece = seen.pieces.range(..=range.start()).next_back();
        seen.too_many || piece.is_some_and(|(_, end)| *end >= range.end())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn add(&mut self, range: ByteRange) {
        if range.is_empty() || self.too_many {
            return;
        }
        let (mut start, mut end) = (range.start(), range.end());
        while let Some((&first, &last)) = self.pieces.range(..=end).next_back() {
            if last < start {
                break;
            }
            self.pieces.remove(&first);
            (start, end) = (start.min(first), end.max(last));
        }
        self.pieces.insert(start, end);
        if self.pieces.len() > PIECES_MAX {
            self.too_many = true;
            self.pieces.clear();
        }
    }
}

impl Filter for ReadProbe {
    fn kind(&self) -> &'static str {
        "probe"
    }

    fn ask<'a>(&'a self, request: &Request, _: &'a dyn Store) -> Verdict<'a> {
        if request.op == Op::Read {
            self.seen().add(request.range);
        }
        Verdict::Pass
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::time::Duration;

    use bowline_block::{BlockSize, Flags, Now};
    use bowline_device::{Device, freeze_all};
    use bowline_store::NullStore;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn reads_of_a_device_are_seen_and_nothing_else() {
        let device = Device::new("disk", Arc::new(NullStore::new(4 * MIB, BlockSize::B512, false)));
        let probe = ReadProbe::new();
        let frozen = freeze_all(std::slice::from_ref(&device), Duration::from_secs(5)).unwrap();
        frozen[0].attach(probe.clone(), PROBE_ALTITUDE, None).unwrap();
        drop(frozen);
        let mut data = vec![0; 8192];
        assert!(matches!(device.read_now(ByteRange::new(MIB, 8192), &mut data), Now::Done(Ok(()))));
        assert!(matches!(
            device.write_now(ByteRange::new(2 * MIB, 8192), &data, Flags::empty()),
            Now::Done(Ok(()))
        ));
        assert!(probe.saw(ByteRange::new(MIB, 8192)) && probe.saw(ByteRange::new(MIB + 512, 4096)));
        for missed in [(MIB - 512, 1024), (MIB + 8191, 2), (0, 512), (2 * MIB, 512)] {
            assert!(!probe.saw(ByteRange::new(missed.0, missed.1)), "{missed:?}");
        }
        probe.clear();
        assert!(!probe.saw(ByteRange::new(MIB, 512)));
    }

    /// Against a judge with a flag per byte.
    #[test]
    fn pieces_put_together_cover_what_was_read() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let (probe, mut read) = (ReadProbe::default(), [false; 200]);
            for _ in 0..random(12) {
                let range = ByteRange::new(random(160), random(40));
                probe.seen().add(range);
                (range.start()..range.end()).for_each(|byte| read[usize::try_from(byte).unwrap()] = true);
            }
            for _ in 0..40 {
                let range = ByteRange::new(random(160), 1 + random(39));
                let expected = (range.start()..range.end()).all(|byte| read[usize::try_from(byte).unwrap()]);
                assert_eq!(probe.saw(range), expected, "{range} {probe:?}");
            }
        }
    }

    /// I9: a device that is read all over costs no more memory, and then everything counts as seen.
    #[test]
    fn i9_what_is_remembered_is_bounded() {
        let probe = ReadProbe::default();
        let places = u64::try_from(PIECES_MAX).unwrap() + 1;
        (0..places).for_each(|place| probe.seen().add(ByteRange::new(place * 8192, 4096)));
        assert!(probe.saw(ByteRange::new(4096, 4096)), "it must not say that it saw nothing");
        (0..places).for_each(|place| probe.seen().add(ByteRange::new(place * 8192, 4096)));
        assert!(probe.seen().pieces.is_empty());
        probe.clear();
        assert!(!probe.saw(ByteRange::new(4096, 4096)));
    }
}
