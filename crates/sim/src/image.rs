//! The contents of a disk: pages shared between images until one of them is written.

use std::sync::Arc;

use bowline_block::ByteRange;

use crate::{SECTOR, SECTOR_BYTES};

const PAGE: usize = 4096;

/// What a disk holds. Cloning costs a pointer per page.
#[derive(Clone)]
pub struct Image {
    size: u64,
    /// `None` is a page of zeroes.
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

impl Image {
    /// An image of zeroes. `size` is a number of the test's.
    #[must_use]
    pub fn zeroed(size: u64) -> Self {
        let pages = usize::try_from(size.div_ceil(PAGE as u64)).unwrap_or(0);
        Self { size, pages: vec![None; pages] }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes from `offset` on; zeroes beyond the end.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        each_page(offset, out.len(), |page, within, window| {
            let Some(out) = out.get_mut(window) else { return };
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(bytes) => {
                    out.copy_from_slice(bytes.get(within..within + out.len()).unwrap_or_default());
                }
                None => out.fill(0),
            }
        });
    }

    /// The bytes of a range.
    #[must_use]
    pub fn bytes(&self, range: ByteRange) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        self.read(range.start(), &mut out);
        out
    }

    /// Replaces the bytes from `offset` on; what lies beyond the end is dropped.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        each_page(offset, data.len(), |page, within, window| {
            let (Some(place), Some(data)) = (self.pages.get_mut(page), data.get(window)) else { return };
            let bytes = Arc::make_mut(place.get_or_insert_with(|| Arc::new([0; PAGE])));
            if let Some(room) = bytes.get_mut(within..within + data.len()) {
                room.copy_from_slice(data);
            }
        });
    }

    /// One sector.
    #[must_use]
    pub fn sector(&self, sector: u64) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        self.read(sector * SECTOR_BYTES, &mut bytes);
        bytes
    }

    /// How many bytes are not the zeroes that were there at first, in whole pages.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.pages.iter().flatten().count() as u64 * PAGE as u64
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        let zeroes = [0u8; PAGE];
        let bytes = |page: &Option<Arc<[u8; PAGE]>>| page.as_ref().map_or(zeroes, |page| **page);
        self.size == other.size
            && self.pages.iter().zip(&other.pages).all(|(ours, theirs)| match (ours, theirs) {
                (Some(ours), Some(theirs)) if Arc::ptr_eq(ours, theirs) => true,
                (None, None) => true,
                _ => bytes(ours) == bytes(theirs),
            })
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} bytes, {} of them written)", self.size, self.allocated_bytes())
    }
}

/// Calls `act` for each page that `len` bytes from `offset` touch: its number, the offset within, the part of the bytes.
fn each_page(offset: u64, len: usize, mut act: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut at = 0;
    while at < len {
        let absolute = offset.saturating_add(at as u64);
        let page = usize::try_from(absolute / PAGE as u64).unwrap_or(usize::MAX);
        let within = usize::try_from(absolute % PAGE as u64).unwrap_or(0);
        let step = (PAGE - within).min(len - at);
        act(page, within, at..at + step);
        at += step;
    }
}
