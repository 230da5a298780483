//! The image without what was written to it: what a rollback puts back.

use std::collections::BTreeMap;

use bowline_block::{ByteRange, Error, ErrorKind, Result};
use uuid::Uuid;

use super::ImageStore;
use super::view::View;
use crate::cow::granule::{Granules, mask_of};
use crate::cow::zone::ZONE_GRANULES;

const ZONE_WORDS: usize = 64;

impl ImageStore {
    /// The snapshot it is of.
    #[must_use]
    pub fn snapshot_id(&self) -> Uuid {
        self.snapshot.id
    }

    /// Whether a device of that size can go back to it.
    pub(crate) fn check_rollback(&self, size: u64) -> Result<()> {
        self.snapshot.check()?;
        if size == self.size {
            return Ok(());
        }
        let why = format!("it has {size} bytes, and had {} when {} was taken", self.size, self.snapshot.name);
        Err(Error::new(ErrorKind::Invalid, why).hint("resize it back first"))
    }

    /// The granules that were preserved since the take, by zone, apart from where diff storage lies on the origin. The
    /// device is frozen.
    pub(crate) fn preserved_bits(&self) -> Result<BTreeMap<u64, Box<[u64; ZONE_WORDS]>>> {
        let view = self.view_as_taken()?;
        let layers = view.chain.layers(view.own);
        let all = Granules::touched_by(ByteRange::new(0, self.size));
        let excluded = self.history.exclusions.ranges();
        let mut zones = BTreeMap::new();
        let numbers =
            layers.members.iter().flat_map(|member| member.interval.zones().map(|(number, _)| number));
        for number in numbers {
            zones.entry(number).or_insert_with(|| {
                Box::new(std::array::from_fn(|word| {
                    let word = number * ZONE_WORDS as u64 + word as u64;
                    let left_out = excluded.iter().map(|range| {
                        let Granules { first, end } = Granules::touched_by(*range);
                        mask_of(word, first, end)
                    });
                    let left_out = left_out.fold(0, |all, bits| all | bits);
                    layers.word(word) & mask_of(word, all.first, all.end) & !left_out
                }))
            });
        }
        zones.retain(|_, bits: &mut Box<[u64; ZONE_WORDS]>| bits.iter().any(|&bits| bits != 0));
        debug_assert!(zones.keys().all(|zone| zone * ZONE_GRANULES < all.end));
        Ok(zones)
    }

    /// Reads a range that is preserved throughout, as it was at the take. What was preserved is there also when the
    /// snapshot has failed since: no more was preserved from then on. The caller is inside the origin's gate.
    pub(crate) async fn read_as_taken(&self, range: ByteRange, data: &mut [u8]) -> Result<()> {
        let view = self.view_as_taken()?;
        self.read_preserved(&view, range, data).await
    }

    fn view_as_taken(&self) -> Result<View> {
        let chain = self.history.chain.load_full();
        let own = chain.position(self.epoch).ok_or_else(|| self.removed())?;
        Ok(View { chain, own, overlay: None })
    }
}
