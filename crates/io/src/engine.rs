//! What the two engines have in common: operations, their slots, and the futures that wait for them.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
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
/// Of these, operations on one file: a disk that hangs leaves room for the others.
const AT_ONCE_PER_FILE: usize = 64;

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
    begun: bool,
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

    /// Notes how an operation ended; the file it was on.
    pub(crate) fn finish(&mut self, key: usize, result: io::Result<usize>, buf: Option<Buf>) -> Option<u64> {
        let slot = self.get_mut(key)?;
        let file = slot.file.id();
        if let Some(buf) = buf {
            slot.buf = buf;
        }
        if slot.abandoned {
            self.remove(key);
            return Some(file);
        }
        slot.result = Some(result);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
        Some(file)
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
    turns: RefCell<Turns>,
    backend: RefCell<Backend>,
}

/// Whose turn it is: operations wait in the queue of their file, so that a file that hangs holds up nobody else.
#[derive(Default)]
struct Turns {
    files: HashMap<u64, FileTurns>,
    waiting: usize,
}

#[derive(Default)]
struct FileTurns {
    at_kernel: usize,
    waiting: VecDeque<usize>,
}

impl Turns {
    /// The operation has ended.
    fn ended(&mut self, file: u64) {
        if let Some(turns) = self.files.get_mut(&file) {
            turns.at_kernel = turns.at_kernel.saturating_sub(1);
            if turns.at_kernel == 0 && turns.waiting.is_empty() {
                self.files.remove(&file);
            }
        }
    }
}

impl Backend {
    /// Takes the operation, or `false` while there are too many.
    fn push(&mut self, key: usize, slot: &mut Slot) -> bool {
        match self {
            Self::Uring(ring) => ring.push(key, slot),
            Self::Sync(pool) => pool.push(key, slot),
        }
    }

    fn at_once_per_file(&self) -> usize {
        match self {
            Self::Uring(_) => AT_ONCE_PER_FILE,
            Self::Sync(_) => crate::sync::AT_ONCE_PER_FILE,
        }
    }
}

impl Engine {
    pub(crate) fn new(backend: Backend) -> Rc<Self> {
        Rc::new(Self { slots: RefCell::default(), turns: RefCell::default(), backend: RefCell::new(backend) })
    }

    /// Begins an operation.
    pub(crate) fn start(self: &Rc<Self>, file: Arc<File>, op: FileOp, buf: Buf) -> OpFuture {
        let id = file.id();
        let slot = Slot { file, op, buf, result: None, waker: None, begun: false, abandoned: false };
        let key = self.slots.borrow_mut().insert(slot);
        let mut turns = self.turns.borrow_mut();
        turns.waiting += 1;
        turns.files.entry(id).or_default().waiting.push_back(key);
        drop(turns);
        self.feed();
        OpFuture(State::Started { engine: self.clone(), key })
    }

    /// Hands waiting operations to the backend as far as it takes them.
    fn feed(&self) {
        let mut turns = self.turns.borrow_mut();
        let mut backend = self.backend.borrow_mut();
        let mut slots = self.slots.borrow_mut();
        let at_once = backend.at_once_per_file();
        let Turns { files, waiting } = &mut *turns;
        for file in files.values_mut() {
            while file.at_kernel < at_once {
                let Some(&key) = file.waiting.front() else { break };
                if let Some(slot) = slots.get_mut(key) {
                    if !backend.push(key, slot) {
                        return;
                    }
                    slot.begun = true;
                    file.at_kernel += 1;
                }
                file.waiting.pop_front();
                *waiting -= 1;
            }
        }
    }

    /// Notes what has ended, and lets others have their turn.
    fn ended(&self, ended: &[(usize, u64)]) {
        let mut turns = self.turns.borrow_mut();
        ended.iter().for_each(|&(_, file)| turns.ended(file));
        let more = turns.waiting > 0;
        drop(turns);
        if more {
            self.feed();
        }
    }

    /// Lets the kernel see what was pushed, and notes what it has finished.
    pub(crate) fn turn(&self) {
        // What ends lets others begin, and those must be seen by the kernel before the queue may sleep.
        loop {
            let mut ended = Vec::new();
            if let Backend::Uring(ring) = &mut *self.backend.borrow_mut() {
                ring.turn(&mut self.slots.borrow_mut(), &mut ended);
            }
            if ended.is_empty() {
                return;
            }
            self.ended(&ended);
            if !self.has_unseen() {
                return;
            }
        }
    }

    /// Whether something was pushed that the kernel has not taken yet.
    pub(crate) fn has_unseen(&self) -> bool {
        match &*self.backend.borrow() {
            Backend::Uring(ring) => ring.unsubmitted() > 0,
            Backend::Sync(_) => false,
        }
    }

    /// The sync engine has finished one.
    pub(crate) fn finished(&self, key: usize, result: io::Result<usize>, buf: Buf) {
        if let Backend::Sync(pool) = &mut *self.backend.borrow_mut() {
            pool.finished();
        }
        let file = self.slots.borrow_mut().finish(key, result, Some(buf));
        self.ended(&file.map(|file| (key, file)).into_iter().collect::<Vec<_>>());
    }

    /// Nobody waits for the operation any more. One that has not begun and only reads need not be begun.
    fn give_up(&self, key: usize) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        if slot.result.is_some() {
            drop(slots.remove(key));
            return;
        }
        slot.abandoned = true;
        if slot.begun || !matches!(slot.op, FileOp::Read { .. } | FileOp::Prefetch(_)) {
            return;
        }
        let file = slot.file.id();
        let given_up = slots.remove(key);
        drop(slots);
        let mut turns = self.turns.borrow_mut();
        if let Some(own) = turns.files.get_mut(&file) {
            own.waiting.retain(|&other| other != key);
            turns.waiting -= 1;
        }
        drop(turns);
        drop(given_up);
    }

    /// Whether nothing is under way: only then may the queue end.
    pub(crate) fn is_idle(&self) -> bool {
        let at_kernel = match &*self.backend.borrow() {
            Backend::Uring(ring) => ring.in_flight(),
            Backend::Sync(pool) => pool.in_flight(),
        };
        at_kernel == 0 && self.turns.borrow().waiting == 0
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
/// Dropping it leaves the operation running, and its buffer is kept until it ends; a read that has not begun is not begun.
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
            engine.give_up(*key);
        }
    }
}
