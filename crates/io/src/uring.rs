//! The io_uring engine: one ring per queue, with fixed files and registered buffers.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use bowline_block::{PAGE_BYTES, Page};
use io_uring::types::{Fd, Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};

use crate::engine::{FileOp, IN_FLIGHT_MAX, Slot, Slots};
use crate::file::File;
use crate::pool::{Pool, REGISTERED};

/// Files a ring registers; what comes beyond is used by descriptor.
const FIXED_FILES: u32 = 256;

pub(crate) struct Uring {
    ring: IoUring,
    /// Registered file by id. `None` for the table means the kernel gave none.
    fixed: Option<HashMap<u64, u32>>,
    free_fixed: Vec<u32>,
    in_flight: usize,
    unsubmitted: usize,
    bell: OwnedFd,
}

impl Uring {
    /// Makes a ring and registers the pool's buffers with it.
    pub(crate) fn new(pool: &Pool) -> io::Result<Self> {
        let entries = u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX);
        // The flags save a wake-up per completion; kernels before 6.1 do not know them.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        let fixed = ring.submitter().register_files_sparse(FIXED_FILES).ok().map(|()| HashMap::new());
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        let free_fixed = (0..FIXED_FILES).rev().collect();
        let mut this = Self { ring, fixed, free_fixed, in_flight: 0, unsubmitted: 0, bell };
        if let Some(buffers) = this.register_buffers() {
            pool.stock(buffers);
        }
        Ok(this)
    }

    /// Registers the buffers of the pool. Refusals (a low memlock limit) are fine: plain reads and writes do it too.
    fn register_buffers(&mut self) -> Option<Vec<(Vec<Page>, u16)>> {
        let mut buffers: Vec<Vec<Page>> = Vec::new();
        for (bytes, count) in REGISTERED {
            buffers.extend((0..count).map(|_| Page::zeroed(bytes / PAGE_BYTES)));
        }
        let vectors: Vec<libc::iovec> = buffers
            .iter()
            .map(|pages| libc::iovec {
                iov_base: pages.as_ptr().cast_mut().cast(),
                iov_len: pages.len() * PAGE_BYTES,
            })
            .collect();
        // SAFETY: the vectors name live memory. The kernel pins these pages, so even when a buffer is freed before the
        // ring, an operation that still names it reaches pinned pages and never memory of somebody else.
        unsafe { self.ring.submitter().register_buffers(&vectors) }.ok()?;
        Some(buffers.into_iter().zip(0..).collect())
    }

    /// Rings when there are completions to fetch. With deferred task work the ring's own descriptor does not become
    /// readable for what a kernel worker has finished; an eventfd is told of it.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Operations that were pushed and that the kernel has not taken.
    pub(crate) fn unsubmitted(&self) -> usize {
        self.unsubmitted
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues the operation, or `false` while there are too many.
    pub(crate) fn push(&mut self, key: usize, slot: &mut Slot) -> bool {
        if self.in_flight >= IN_FLIGHT_MAX {
            return false;
        }
        let entry = match self.fixed_file(&slot.file) {
            Some(index) => build(slot, Target::Fixed(index)),
            None => build(slot, Target::Plain(slot.file.as_fd().as_raw_fd())),
        }
        .user_data(key as u64);
        // SAFETY: buffer and file of the entry are owned by the slot, which stays in place until the completion.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return false;
        }
        self.in_flight += 1;
        self.unsubmitted += 1;
        true
    }

    /// One visit to the kernel for all that was pushed, and the completions that are there.
    pub(crate) fn turn(&mut self, slots: &mut Slots, ended: &mut Vec<(usize, u64)>) {
        if self.in_flight == 0 {
            return;
        }
        // With deferred task work completions appear only when the ring is entered for events.
        const GETEVENTS: u32 = 1;
        let pending = u32::try_from(self.unsubmitted).unwrap_or(u32::MAX);
        // SAFETY: no argument is passed and nothing is waited for; what the pushed entries name is owned by slots.
        if let Ok(submitted) = unsafe { self.ring.submitter().enter::<()>(pending, 0, GETEVENTS, None) } {
            self.unsubmitted = self.unsubmitted.saturating_sub(submitted);
        }
        for done in self.ring.completion() {
            self.in_flight -= 1;
            let result = match done.result() {
                bytes if bytes >= 0 => Ok(bytes.unsigned_abs() as usize),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            };
            let key = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
            ended.extend(slots.finish(key, result, None).map(|file| (key, file)));
        }
    }

    fn fixed_file(&mut self, file: &File) -> Option<u32> {
        let fixed = self.fixed.as_mut()?;
        if let Some(&index) = fixed.get(&file.id()) {
            return Some(index);
        }
        let index = self.free_fixed.pop()?;
        let fd = file.as_fd().as_raw_fd();
        if self.ring.submitter().register_files_update(index, &[fd]).is_err() {
            self.free_fixed.push(index);
            return None;
        }
        fixed.insert(file.id(), index);
        Some(index)
    }

    /// Lets go of a file that was closed. Nothing can be in flight on it: each operation holds a reference.
    pub(crate) fn forget_file(&mut self, id: u64) {
        if let Some(index) = self.fixed.as_mut().and_then(|fixed| fixed.remove(&id)) {
            let _ = self.ring.submitter().register_files_update(index, &[-1]);
            self.free_fixed.push(index);
        }
    }
}

#[derive(Clone, Copy)]
enum Target {
    Fixed(u32),
    Plain(RawFd),
}

/// Applies a builder to either kind of file.
macro_rules! on {
    ($target:expr, |$file:ident| $build:expr) => {
        match $target {
            Target::Fixed(index) => {
                let $file = Fixed(index);
                $build
            }
            Target::Plain(fd) => {
                let $file = Fd(fd);
                $build
            }
        }
    };
}

fn build(slot: &mut Slot, target: Target) -> squeue::Entry {
    const DSYNC: i32 = 2; // RWF_DSYNC
    const KEEP_SIZE: i32 = 1;
    const PUNCH_HOLE: i32 = 2;
    const ZERO_RANGE: i32 = 16;
    const WILLNEED: i32 = 3;
    let registered = slot.buf.registered();
    match slot.op {
        FileOp::Read { offset, skip } => {
            let data = slot.buf.get_mut(skip..).unwrap_or_default();
            let (at, len) = (data.as_mut_ptr(), length(data.len()));
            match registered {
                Some(number) => {
                    on!(target, |file| opcode::ReadFixed::new(file, at, len, number).offset(offset).build())
                }
                None => on!(target, |file| opcode::Read::new(file, at, len).offset(offset).build()),
            }
        }
        FileOp::Write { offset, skip, durable } => {
            let data = slot.buf.get(skip..).unwrap_or_default();
            let (at, len) = (data.as_ptr(), length(data.len()));
            let flags = if durable { DSYNC } else { 0 };
            match registered {
                Some(number) => on!(target, |file| opcode::WriteFixed::new(file, at, len, number)
                    .offset(offset)
                    .rw_flags(flags)
                    .build()),
                None => {
                    on!(target, |file| opcode::Write::new(file, at, len)
                        .offset(offset)
                        .rw_flags(flags)
                        .build())
                }
            }
        }
        FileOp::Sync => on!(target, |file| opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build()),
        FileOp::PunchHole(range) => on!(target, |file| opcode::Fallocate::new(file, range.len())
            .offset(range.start())
            .mode(PUNCH_HOLE | KEEP_SIZE)
            .build()),
        FileOp::ZeroRange(range) => on!(target, |file| opcode::Fallocate::new(file, range.len())
            .offset(range.start())
            .mode(ZERO_RANGE | KEEP_SIZE)
            .build()),
        FileOp::Allocate(range) => {
            on!(target, |file| opcode::Fallocate::new(file, range.len()).offset(range.start()).build())
        }
        FileOp::Prefetch(range) => {
            on!(target, |file| opcode::Fadvise::new(file, length64(range.len()), WILLNEED)
                .offset(range.start())
                .build())
        }
    }
}

/// A transfer larger than the kernel's own limit comes back short and is continued.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(1 << 30)
}

fn length64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
