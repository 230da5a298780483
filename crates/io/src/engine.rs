//! What the two engines have in common: operations, their slots, and the futures that wait for them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bowline_block::{Buf, ByteRange};

use crate::file::File;
use crate::sync::SyncEngine;
use crate::uring::Uring;

/// Operations that may be at the kernel at once, per queue; what comes beyond waits its turn.
pub(crate) const IN_FLIGHT_MAX: usize = 256;

/// An operation on a file. `skip` bytes of the buffer are left alone: a short transfer is continued behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Read at the offset into the buffer.
    Read {
        /// Byte of the file.
        offset: u64,
        /// Bytes of the buffer that are filled already.
        skip: usize,
    },
    /// Write the buffer at the offset.
    Write {
        /// Byte of the file.
        offset: u64,
        /// Bytes of the buffer that are written already.
        skip: usize,
        /// Durable when done.
        durable: bool,
    },
    /// Make everything written durable.
    Sync,
    /// Give the range back; it reads as zeroes.
    PunchHole(ByteRange),
    /// Make the range read as zeroes, allocated.
    ZeroRange(ByteRange),
    /// Allocate the range.
    Allocate(ByteRange),
    /// Read the range ahead.
    Prefetch(ByteRange),
}

/// An operation that is under way, or waits for its turn.
pub(crate) struct Slot {
    pub(crate) file: Arc<File>,
    pub(crate) op: FileOp,
    pub(crate) buf: Buf,
    pub(crate) result: Option<io::Result<usize>>,
    waker: Option<Waker>,
    abandoned: bool,
}

/// The operations of a queue, by key. A slot owns its buffer until the engine is done with it, whatever becomes of
/// the future.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl Slots {
    fn insert(&mut self, slot: Slot) -> usize {
        if let Some(key) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(key) {
                *place = Some(slot);
            }
            key
        } else {
            self.slots.push(Some(slot));
            self.slots.len() - 1
        }
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut Slot> {
        self.slots.get_mut(key).and_then(Option::as_mut)
    }

    fn remove(&mut self, key: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(key).and_then(Option::take)?;
        self.free.push(key);
        Some(slot)
    }

    /// Notes how an operation ended.
    pub(crate) fn finish(&mut self, key: usize, result: io::Result<usize>, buf: Option<Buf>) {
        let Some(slot) = self.get_mut(key) else { return };
        if let Some(buf) = buf {
            slot.buf = buf;
        }
        if slot.abandoned {
            self.remove(key);
            return;
        }
        slot.result = Some(result);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }
}

/// The way to the kernel.
pub(crate) enum Backend {
    Uring(Box<Uring>),
    Sync(SyncEngine),
}

/// A queue's engine.
pub(crate) struct Engine {
    slots: RefCell<Slots>,
    waiting: RefCell<VecDeque<usize>>,
    backend: RefCell<Backend>,
}

impl Engine {
    pub(crate) fn new(backend: Backend) -> Rc<Self> {
        Rc::new(Self {
            slots: RefCell::default(),
            waiting: RefCell::default(),
            backend: RefCell::new(backend),
        })
    }

    /// Begins an operation.
    pub(crate) fn start(self: &Rc<Self>, file: Arc<File>, op: FileOp, buf: Buf) -> OpFuture {
        let slot = Slot { file, op, buf, result: None, waker: None, abandoned: false };
        let key = self.slots.borrow_mut().insert(slot);
        self.waiting.borrow_mut().push_back(key);
        self.feed();
        OpFuture(State::Started { engine: self.clone(), key })
    }

    /// Hands waiting operations to the backend as far as it takes them.
    fn feed(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let mut backend = self.backend.borrow_mut();
        let mut slots = self.slots.borrow_mut();
        while let Some(&key) = waiting.front() {
            let Some(slot) = slots.get_mut(key) else {
                waiting.pop_front();
                continue;
            };
            let taken = match &mut *backend {
                Backend::Uring(ring) => ring.push(key, slot),
                Backend::Sync(pool) => pool.push(key, slot),
            };
            if !taken {
                break;
            }
            waiting.pop_front();
        }
    }

    /// Lets the kernel see what was pushed, and notes what it has finished.
    pub(crate) fn turn(&self) {
        if let Backend::Uring(ring) = &mut *self.backend.borrow_mut() {
            ring.turn(&mut self.slots.borrow_mut());
        }
        if !self.waiting.borrow().is_empty() {
            self.feed();
        }
    }

    /// The sync engine has finished one.
    pub(crate) fn finished(&self, key: usize, result: io::Result<usize>, buf: Buf) {
        if let Backend::Sync(pool) = &mut *self.backend.borrow_mut() {
            pool.finished();
        }
        self.slots.borrow_mut().finish(key, result, Some(buf));
        self.feed();
    }

    /// Whether nothing is under way: only then may the queue end.
    pub(crate) fn is_idle(&self) -> bool {
        let at_kernel = match &*self.backend.borrow() {
            Backend::Uring(ring) => ring.in_flight(),
            Backend::Sync(pool) => pool.in_flight(),
        };
        at_kernel == 0 && self.waiting.borrow().is_empty()
    }

    pub(crate) fn forget_file(&self, id: u64) {
        if let Backend::Uring(ring) = &mut *self.backend.borrow_mut() {
            ring.forget_file(id);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Only after a panic: what the kernel may still write to is given up rather than freed.
        if !self.is_idle() {
            std::mem::forget(std::mem::take(&mut *self.slots.borrow_mut()));
        }
    }
}

enum State {
    Started { engine: Rc<Engine>, key: usize },
    Ready(Option<(io::Result<usize>, Buf)>),
}

/// An operation under way: bytes moved, and the buffer back.
///
/// Dropping it leaves the operation running; its buffer is kept until it ends.
pub struct OpFuture(State);

impl OpFuture {
    pub(crate) fn ready(result: io::Result<usize>, buf: Buf) -> Self {
        Self(State::Ready(Some((result, buf))))
    }
}

impl Future for OpFuture {
    type Output = (io::Result<usize>, Buf);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(answer) => match answer.take() {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            },
            State::Started { engine, key } => {
                let mut slots = engine.slots.borrow_mut();
                let Some(slot) = slots.get_mut(*key) else { return Poll::Pending };
                if slot.result.is_none() {
                    slot.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                let ended = slots.remove(*key);
                drop(slots);
                self.0 = State::Ready(None);
                match ended {
                    Some(Slot { result: Some(result), buf, .. }) => Poll::Ready((result, buf)),
                    _ => Poll::Pending,
                }
            }
        }
    }
}

impl Drop for OpFuture {
    fn drop(&mut self) {
        if let State::Started { engine, key } = &self.0 {
            let mut slots = engine.slots.borrow_mut();
            match slots.get_mut(*key) {
                Some(slot) if slot.result.is_none() => slot.abandoned = true,
                _ => drop(slots.remove(*key)),
            }
        }
    }
}
