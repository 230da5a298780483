//! An open file as the engines see it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::remote;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An open file, shared by all queues. A ring registers it at its first use there; when the last reference goes, every
/// ring is told to let go, because a registered file would stay open, and a device busy, for ever.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    id: u64,
}

impl File {
    /// Takes over an open descriptor.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, id: NEXT_ID.fetch_add(1, Ordering::Relaxed) }
    }

    /// A number no other file of this process ever had.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl AsFd for File {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        remote::forget_file(self.id);
    }
}
