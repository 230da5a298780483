//! The bytes of a simulated file: pages, shared between copies until one of them is written.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: usize = 4096;
const PAGE_BYTES: u64 = 4096;

/// Bytes; what was never written is zero and costs nothing.
#[derive(Clone, Default)]
pub(super) struct Pages {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of the pages that were written.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES
    }

    /// Fills `data` as far as there is anything; how many bytes.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> usize {
        let there = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len());
        let data = data.get_mut(..there).unwrap_or_default();
        for (page, within, window) in parts(offset, data.len()) {
            let Some(room) = data.get_mut(window) else { continue };
            match self.pages.get(&page).and_then(|page| page.get(within..within + room.len())) {
                Some(bytes) => room.copy_from_slice(bytes),
                None => room.fill(0),
            }
        }
        there
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, within, window) in parts(offset, data.len()) {
            let Some(bytes) = data.get(window) else { continue };
            let page = Arc::make_mut(self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE])));
            if let Some(room) = page.get_mut(within..within + bytes.len()) {
                room.copy_from_slice(bytes);
            }
        }
        self.len = self.len.max(offset.saturating_add(data.len() as u64));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            drop(self.pages.split_off(&len.div_ceil(PAGE_BYTES)));
            let within = usize::try_from(len % PAGE_BYTES).unwrap_or(0);
            if within > 0
                && let Some(page) = self.pages.get_mut(&(len / PAGE_BYTES))
                && let Some(tail) = Arc::make_mut(page).get_mut(within..)
            {
                tail.fill(0);
            }
        }
        self.len = len;
    }
}

/// The pages that `len` bytes from `offset` touch: the number of each, the offset within it, the part of the bytes.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < len).then(|| {
            let absolute = offset.saturating_add(at as u64);
            let within = usize::try_from(absolute % PAGE_BYTES).unwrap_or(0);
            let step = (PAGE - within).min(len - at);
            at += step;
            (absolute / PAGE_BYTES, within, at - step..at)
        })
    })
}
