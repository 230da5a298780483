//! A queue's buffers: a few sizes, recycled, the smaller ones registered with the ring.

use std::sync::{Arc, Mutex, PoisonError};

use bowline_block::{Buf, BufHome, PAGE_BYTES, Page};

/// Bytes and number of the buffers that a ring registers, smallest first. Registered memory is pinned, so it is
/// little: it serves the requests that are many, not those that are large.
pub(crate) const REGISTERED: [(usize, u16); 3] = [(4 << 10, 64), (64 << 10, 8), (256 << 10, 2)];

/// Larger buffers that are kept for their next use, at most this many of each size up to [`KEPT_BYTES_MAX`].
const KEPT: usize = 4;
const KEPT_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
struct Shelf {
    bytes: usize,
    free: Vec<(Vec<Page>, Option<u16>)>,
}

/// The buffers of one queue. Buffers may be dropped on any thread.
pub(crate) struct Pool {
    shelves: Mutex<Vec<Shelf>>,
}

impl Pool {
    pub(crate) fn new() -> Arc<Self> {
        let mut shelves: Vec<Shelf> =
            REGISTERED.iter().map(|&(bytes, _)| Shelf { bytes, free: Vec::new() }).collect();
        shelves.push(Shelf { bytes: KEPT_BYTES_MAX, free: Vec::new() });
        Arc::new(Self { shelves: Mutex::new(shelves) })
    }

    /// Gives the pool the memory that a ring has registered.
    pub(crate) fn stock(&self, registered: Vec<(Vec<Page>, u16)>) {
        for (pages, number) in registered {
            self.put(pages, Some(number));
        }
    }

    /// A buffer of `len` bytes with whatever was left in it.
    pub(crate) fn alloc(self: &Arc<Self>, len: usize) -> Buf {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shelf) = shelves.iter_mut().find(|shelf| shelf.bytes >= len) else {
            return Buf::zeroed(len);
        };
        let bytes = shelf.bytes;
        let taken = shelf.free.pop();
        drop(shelves);
        let (pages, number) = taken.unwrap_or_else(|| (Page::zeroed(bytes / PAGE_BYTES), None));
        Buf::lent(pages, len, number, self.clone())
    }

    fn put(&self, pages: Vec<Page>, registered: Option<u16>) {
        let bytes = pages.len() * PAGE_BYTES;
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shelf) = shelves.iter_mut().find(|shelf| shelf.bytes == bytes) {
            // Registered memory is always taken back; of the rest, only a few buffers are worth keeping.
            if registered.is_some() {
                shelf.free.push((pages, registered));
            } else if shelf.free.len() < KEPT {
                shelf.free.insert(0, (pages, None));
            }
        }
    }
}

impl BufHome for Pool {
    fn take_back(&self, pages: Vec<Page>, registered: Option<u16>) {
        self.put(pages, registered);
    }
}
