//! An interval: the time between two takes of a device, and what was preserved in it.
//!
//! A map from granules to slots as a radix of three levels, so that an interval of an untouched device costs its
//! root (a few bytes per 32 GiB) whatever the device's size, and looking a bit up takes two pointers.

use std::sync::OnceLock;

use super::granule::{Granules, WORD_GRANULES};
use super::lane::Lanes;
use super::zone::{ZONE_GRANULES, Zone};

/// Zones of a middle node.
const MID_ZONES: u64 = 2048;
/// Granules under a root entry: 32 GiB.
const ROOT_GRANULES: u64 = MID_ZONES * ZONE_GRANULES;
const ZONE_WORDS: u64 = ZONE_GRANULES / WORD_GRANULES;

type Mid = Box<[OnceLock<Box<Zone>>]>;

/// See the module.
pub(crate) struct Interval {
    /// Set by the take.
    pub(crate) epoch: u64,
    /// Bytes of the device that any image needs, from its first.
    pub(crate) cover: u64,
    root: Box<[OnceLock<Mid>]>,
    pub(crate) lanes: Lanes,
}

impl Interval {
    pub(crate) fn new(cover: u64, lanes: usize) -> Self {
        let roots = cover.div_ceil(super::granule::GRANULE_BYTES).div_ceil(ROOT_GRANULES);
        Self {
            epoch: 0,
            cover,
            root: (0..roots).map(|_| OnceLock::new()).collect(),
            lanes: Lanes::new(lanes),
        }
    }

    fn mid(&self, index: u64) -> Option<&Mid> {
        self.root.get(usize::try_from(index).ok()?)?.get()
    }

    /// The zone of that number, if anything in it was preserved.
    #[inline]
    pub(crate) fn zone(&self, index: u64) -> Option<&Zone> {
        let place = usize::try_from(index % MID_ZONES).ok()?;
        self.mid(index / MID_ZONES)?.get(place)?.get().map(|zone| &**zone)
    }

    /// The zone of that number; `None` beyond the cover.
    pub(crate) fn zone_or_new(&self, index: u64) -> Option<&Zone> {
        let root = self.root.get(usize::try_from(index / MID_ZONES).ok()?)?;
        let mid = root.get_or_init(|| (0..MID_ZONES).map(|_| OnceLock::new()).collect());
        let place = mid.get(usize::try_from(index % MID_ZONES).ok()?)?;
        Some(&**place.get_or_init(|| Box::new(Zone::new())))
    }

    /// The copied bits of 64 granules.
    #[inline]
    pub(crate) fn word(&self, word: u64) -> u64 {
        self.zone(word / ZONE_WORDS).map_or(0, |zone| zone.word(word % ZONE_WORDS))
    }

    #[inline]
    pub(crate) fn has(&self, granule: u64) -> bool {
        self.word(granule / WORD_GRANULES) >> (granule % WORD_GRANULES) & 1 == 1
    }

    /// The granule from which on something may be there: `granule` itself, or the first of the next zone that exists
    /// or may exist.
    pub(crate) fn absent_until(&self, granule: u64) -> u64 {
        let Some(mid) = self.mid(granule / ROOT_GRANULES) else {
            return (granule / ROOT_GRANULES + 1) * ROOT_GRANULES;
        };
        let zone = granule / ZONE_GRANULES;
        let there = usize::try_from(zone % MID_ZONES).ok().and_then(|place| mid.get(place)?.get());
        if there.is_some() { granule } else { (zone + 1) * ZONE_GRANULES }
    }

    /// The zones that exist, with the number of each.
    pub(crate) fn zones(&self) -> impl Iterator<Item = (u64, &Zone)> {
        self.root.iter().zip(0u64..).filter_map(|(mid, at)| Some((mid.get()?, at * MID_ZONES))).flat_map(
            |(mid, base)| mid.iter().zip(base..).filter_map(|(zone, number)| Some((number, &**zone.get()?))),
        )
    }

    /// Copied granules, and how many of them have a slot.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.zones().fold((0, 0), |sum, (_, zone)| {
            let (copied, stored) = zone.counts();
            (sum.0 + copied, sum.1 + stored)
        })
    }

    /// Bytes of memory: the lists, and the bits with the tree that leads to them.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let mids = self.root.iter().filter(|mid| mid.get().is_some()).count() as u64;
        let tree = self.root.len() as u64 * size_of::<OnceLock<Mid>>() as u64
            + mids * MID_ZONES * size_of::<OnceLock<Box<Zone>>>() as u64;
        self.zones().fold((0, tree), |sum, (_, zone)| (sum.0 + zone.index_bytes(), sum.1 + ZONE_GRANULES / 8))
    }

    /// The granules an image may need.
    pub(crate) fn granules(&self) -> Granules {
        Granules { first: 0, end: self.cover.div_ceil(super::granule::GRANULE_BYTES) }
    }
}
