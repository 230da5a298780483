//! What an image looks through at one moment, and the parts of a request that come from one place.

use std::sync::Arc;

use bowline_block::{ByteRange, ExtentKind};

use super::overlay::{Overlay, Token};
use crate::cow::chain::Chain;
use crate::cow::granule::{GRANULE_BYTES, Granules};
use crate::cow::layers::Layers;
use crate::cow::zone::SlotId;

/// The chain as an image sees it, with what was written to the image in front.
pub(super) struct View {
    pub(super) chain: Arc<Chain>,
    pub(super) own: usize,
    pub(super) overlay: Option<(Arc<Overlay>, Arc<Token>)>,
}

/// A part of a read that comes from one place.
pub(super) enum Part {
    Origin(ByteRange),
    Zero(ByteRange),
    Preserved(ByteRange, SlotId),
}

impl View {
    fn layers(&self) -> Layers<'_> {
        let overlay = self.overlay.as_ref().map(|(overlay, _)| &overlay.written);
        Layers { overlay, ..self.chain.layers(self.own) }
    }

    /// The part that begins at the start of the range.
    pub(super) fn first_part(&self, range: ByteRange) -> Part {
        let Granules { first, end } = Granules::touched_by(range);
        let found = self.layers().find(first, end, true);
        if found > first {
            return Part::Origin(range.split_at(found.saturating_mul(GRANULE_BYTES)).0);
        }
        self.preserved_part(range)
    }

    /// The same where the first granule is known to be preserved.
    pub(super) fn preserved_part(&self, range: ByteRange) -> Part {
        let Granules { first, end } = Granules::touched_by(range);
        let Some(stretch) = self.layers().stretch(first, end) else { return Part::Origin(range) };
        let bytes = range.split_at((first + stretch.granules).saturating_mul(GRANULE_BYTES)).0;
        if stretch.slot == SlotId::ZERO { Part::Zero(bytes) } else { Part::Preserved(bytes, stretch.slot) }
    }

    /// What of a range that was read from the origin has been preserved, or written to the image, since: the first run
    /// of it from `at` on.
    pub(super) fn preserved_since(&self, range: ByteRange, at: u64) -> Option<ByteRange> {
        let rest = ByteRange::between(at, range.end());
        let Granules { first, end } = Granules::touched_by(rest);
        let from = self.layers().find(first, end, true);
        if from >= end {
            return None;
        }
        let to = self.layers().find(from, end, false);
        Some(Granules { first: from, end: to }.bytes(u64::MAX).intersection(rest))
    }
}

impl Part {
    pub(super) fn bytes(&self) -> ByteRange {
        match self {
            Self::Origin(bytes) | Self::Zero(bytes) | Self::Preserved(bytes, _) => *bytes,
        }
    }

    pub(super) fn kind(&self) -> ExtentKind {
        if matches!(self, Self::Zero(_)) { ExtentKind::Zero } else { ExtentKind::Data }
    }
}
