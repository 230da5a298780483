//! The sync engine: plain system calls on a small pool of threads, for where io_uring is refused.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use bowline_block::{Buf, ByteRange};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fdatasync};
use rustix::io::{IoSlice, ReadWriteFlags, pread, pwrite, pwritev2};

use crate::engine::{FileOp, IN_FLIGHT_MAX, Slot};
use crate::file::File;
use crate::remote::{Message, Remote};

/// Threads per queue.
const WORKERS: usize = 6;
/// Threads that one file may occupy: one that hangs leaves some for the others.
pub(crate) const AT_ONCE_PER_FILE: usize = 4;

struct Job {
    key: usize,
    file: Arc<File>,
    op: FileOp,
    buf: Buf,
}

/// The pool of one queue. Its threads end when it is dropped.
pub(crate) struct SyncEngine {
    jobs: Sender<Job>,
    in_flight: usize,
}

impl SyncEngine {
    pub(crate) fn new(remote: &Arc<Remote>, name: &str) -> io::Result<Self> {
        let (jobs, inbox) = channel();
        let inbox = Arc::new(Mutex::new(inbox));
        for worker in 0..WORKERS {
            let (inbox, remote) = (inbox.clone(), remote.clone());
            std::thread::Builder::new()
                .name(format!("{name}-io{worker}"))
                .spawn(move || work(&inbox, &remote))?;
        }
        Ok(Self { jobs, in_flight: 0 })
    }

    /// Takes the operation, or `false` while there are too many.
    pub(crate) fn push(&mut self, key: usize, slot: &mut Slot) -> bool {
        if self.in_flight >= IN_FLIGHT_MAX {
            return false;
        }
        let buf = std::mem::replace(&mut slot.buf, Buf::empty());
        self.in_flight += 1;
        self.jobs.send(Job { key, file: slot.file.clone(), op: slot.op, buf }).is_ok()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn finished(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

fn work(inbox: &Mutex<Receiver<Job>>, remote: &Remote) {
    loop {
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { key, file, op, mut buf }) = job else { return };
        let result = perform(&file, op, &mut buf);
        drop(file);
        remote.send(Message::Done { key, result, buf });
    }
}

/// Does an operation on the calling thread.
pub(crate) fn perform(file: &File, op: FileOp, buf: &mut Buf) -> io::Result<usize> {
    match op {
        FileOp::Read { offset, skip } => Ok(pread(file, buf.get_mut(skip..).unwrap_or_default(), offset)?),
        FileOp::Write { offset, skip, durable } => {
            let data = buf.get(skip..).unwrap_or_default();
            if durable {
                Ok(pwritev2(file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC)?)
            } else {
                Ok(pwrite(file, data, offset)?)
            }
        }
        FileOp::Sync => Ok(fdatasync(file).map(|()| 0)?),
        FileOp::PunchHole(range) => {
            allocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, range)
        }
        FileOp::ZeroRange(range) => {
            allocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, range)
        }
        FileOp::Allocate(range) => allocate(file, FallocateFlags::empty(), range),
        FileOp::Prefetch(range) => {
            let len = std::num::NonZeroU64::new(range.len());
            Ok(fadvise(file, range.start(), len, Advice::WillNeed).map(|()| 0)?)
        }
    }
}

fn allocate(file: &File, flags: FallocateFlags, range: ByteRange) -> io::Result<usize> {
    Ok(fallocate(file, flags, range.start(), range.len()).map(|()| 0)?)
}
