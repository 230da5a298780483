//! Owned, page-aligned buffers for requests that outlive a call.
//!
//! Page alignment is what `O_DIRECT` wants of any device. A buffer may belong to a pool (its *home*), which takes
//! the memory back when the buffer is dropped on whatever thread, and may be known to an I/O engine by a number.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// A page of memory, aligned to its size.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page([u8; PAGE_BYTES]);

impl Page {
    /// So many pages of zeroes, untouched until they are used. Empty when there is no such memory.
    #[must_use]
    pub fn zeroed(count: usize) -> Vec<Self> {
        Self::new_vec_zeroed(count).unwrap_or_default()
    }
}

/// A pool that buffers return to.
pub trait BufHome: Send + Sync {
    /// Takes back the memory of a dropped buffer, with the number it was lent under.
    fn take_back(&self, pages: Vec<Page>, registered: Option<u16>);
}

/// An owned, page-aligned buffer of any length.
pub struct Buf {
    pages: Vec<Page>,
    len: usize,
    registered: Option<u16>,
    home: Option<Arc<dyn BufHome>>,
}

impl Buf {
    /// A buffer without bytes; allocates nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self { pages: Vec::new(), len: 0, registered: None, home: None }
    }

    /// A buffer of `len` zero bytes. `len` must be a number of ours, never a peer's.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let pages = Page::zeroed(len.div_ceil(PAGE_BYTES));
        let len = len.min(pages.len() * PAGE_BYTES);
        Self { pages, len, registered: None, home: None }
    }

    /// A buffer that holds a copy of `bytes`, or as many of them as there is memory for.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        let room = buf.len();
        buf.copy_from_slice(bytes.get(..room).unwrap_or_default());
        buf
    }

    /// A buffer over memory of a pool; its bytes are whatever was left there.
    #[must_use]
    pub fn lent(pages: Vec<Page>, len: usize, registered: Option<u16>, home: Arc<dyn BufHome>) -> Self {
        let len = len.min(pages.len() * PAGE_BYTES);
        Self { pages, len, registered, home: Some(home) }
    }

    /// The number under which an engine knows this memory.
    #[must_use]
    pub fn registered(&self) -> Option<u16> {
        self.registered
    }

    /// How many bytes the memory could hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE_BYTES
    }

    /// Makes the buffer shorter, or longer within its capacity.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }
}

impl Deref for Buf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.pages.as_bytes().get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Buf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut_bytes().get_mut(..self.len).unwrap_or_default()
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.take_back(std::mem::take(&mut self.pages), self.registered);
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}
