//! Readiness of sockets, and timers.
//!
//! Sockets are registered edge-triggered and for reading only: a socket's peer makes it writable with every byte it
//! takes, and each of those events would wake this thread for nothing. Writability is asked for when a send has
//! found the socket full.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::queue;

/// Tokens below this are the queue's own.
const FIRST_SOCKET: u64 = 16;
pub(crate) const TOKEN_BELL: u64 = 0;
pub(crate) const TOKEN_ENGINE: u64 = 1;
const EVENTS_MAX: usize = 64;

#[derive(Default)]
struct SocketState {
    readable: Cell<bool>,
    writable: Cell<bool>,
    asked_writable: Cell<bool>,
    /// The peer has hung up: there will be no further edge, so a receive may find the end at any time.
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The epoll set and the timers of one queue.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    sockets: RefCell<HashMap<u64, Rc<SocketState>>>,
    next_token: Cell<u64>,
    timers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_timer: Cell<u64>,
}

impl Reactor {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: RefCell::default(),
            next_token: Cell::new(FIRST_SOCKET),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
        })
    }

    /// Watches a descriptor of the queue itself, level-triggered.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    /// Watches an eventfd that is never read: each signal is an edge.
    pub(crate) fn watch_edges(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)?)
    }

    /// Waits for events, at most `wait`, and wakes who waited for them. Returns the queue's own tokens that are ready.
    pub(crate) fn turn(&self, wait: Option<Duration>) -> OwnEvents {
        let wait = wait.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS_MAX];
        let mut own = OwnEvents::default();
        // An interrupted wait is a turn without events.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut room[..], wait.as_ref()) else { return own };
        for event in events {
            own.any = true;
            let (token, flags) = (event.data.u64(), event.flags);
            match token {
                TOKEN_BELL => own.bell = true,
                TOKEN_ENGINE => own.engine = true,
                _ => self.ready(token, flags),
            }
        }
        own
    }

    fn ready(&self, token: u64, flags: epoll::EventFlags) {
        let Some(socket) = self.sockets.borrow().get(&token).cloned() else { return };
        let ended =
            flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::RDHUP);
        if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::RDHUP) {
            socket.ended.set(true);
        }
        if ended || flags.contains(epoll::EventFlags::IN) {
            socket.readable.set(true);
        }
        if ended || flags.contains(epoll::EventFlags::OUT) {
            socket.writable.set(true);
        }
        let waker = socket.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the timers that are due; how long until the next one.
    pub(crate) fn fire_timers(&self) -> Option<Duration> {
        if self.timers.borrow().is_empty() {
            return None;
        }
        let now = Instant::now();
        loop {
            let mut timers = self.timers.borrow_mut();
            let entry = timers.first_entry()?;
            if entry.key().0 > now {
                return Some(entry.key().0 - now);
            }
            let waker = entry.remove();
            drop(timers);
            waker.wake();
        }
    }

    /// Sets a timer; the key takes it back.
    pub(crate) fn set_timer(&self, due: Instant, waker: Waker) -> (Instant, u64) {
        let id = self.next_timer.get();
        self.next_timer.set(id + 1);
        self.timers.borrow_mut().insert((due, id), waker);
        (due, id)
    }

    pub(crate) fn clear_timer(&self, key: &(Instant, u64)) {
        self.timers.borrow_mut().remove(key);
    }
}

/// The queue's own descriptors that are ready.
#[derive(Default)]
pub(crate) struct OwnEvents {
    /// Anything has happened, be it to the queue's own descriptors or to sockets.
    pub(crate) any: bool,
    pub(crate) bell: bool,
    pub(crate) engine: bool,
}

/// The readiness of one socket, registered with the queue it was made on. One task waits for it.
///
/// Readiness is remembered, not asked for: a user clears it when a call would have blocked or moved less than it was
/// asked to, and hears of the next change.
pub struct Readiness {
    state: Rc<SocketState>,
    token: u64,
    home: Weak<queue::Queue>,
    fd: OwnedFd,
}

impl Readiness {
    /// Registers a nonblocking socket with the queue of this thread. Keeps a duplicate of the descriptor, so that the
    /// registration cannot outlive it.
    ///
    /// # Errors
    /// Not on a queue thread, or the kernel refused.
    pub fn register(fd: impl AsFd) -> io::Result<Self> {
        let queue = queue::current().ok_or_else(|| io::Error::other("not on a queue thread"))?;
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        let reactor = queue.reactor();
        let token = reactor.next_token.get();
        reactor.next_token.set(token + 1);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&reactor.epoll, &fd, epoll::EventData::new_u64(token), flags)?;
        let state = Rc::new(SocketState::default());
        state.readable.set(true);
        state.writable.set(true);
        reactor.sockets.borrow_mut().insert(token, state.clone());
        Ok(Self { state, token, home: Rc::downgrade(&queue), fd })
    }

    /// Whether a receive may find something.
    #[inline]
    #[must_use]
    pub fn readable(&self) -> bool {
        self.state.readable.get()
    }

    /// Whether a send may find room.
    #[inline]
    #[must_use]
    pub fn writable(&self) -> bool {
        self.state.writable.get()
    }

    /// The last receive found the socket empty, or left it so. Once the peer has hung up the socket stays readable:
    /// data and the end of the stream may have come as one edge.
    #[inline]
    pub fn clear_readable(&self) {
        self.state.readable.set(self.state.ended.get());
    }

    /// The last send found the socket full.
    pub fn clear_writable(&self) {
        self.state.writable.set(false);
        self.state.asked_writable.set(true);
        // Arming, and arming again, also reports a socket that drained between the send and now.
        self.modify(epoll::EventFlags::OUT);
    }

    /// The socket took all that was to be sent: its further room is of no interest.
    pub fn done_writing(&self) {
        if self.state.asked_writable.replace(false) {
            self.modify(epoll::EventFlags::empty());
        }
    }

    fn modify(&self, extra: epoll::EventFlags) {
        let Some(queue) = self.home.upgrade() else { return };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET | extra;
        let data = epoll::EventData::new_u64(self.token);
        let _ = epoll::modify(&queue.reactor().epoll, &self.fd, data, flags);
    }

    /// Wakes the task at the next change.
    pub fn set_waker(&self, cx: &Context<'_>) {
        let mut waker = self.state.waker.borrow_mut();
        match waker.as_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// Ready when a receive may find something.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        if self.readable() {
            return Poll::Ready(());
        }
        self.set_waker(cx);
        Poll::Pending
    }

    /// Ready when a send may find room.
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        if self.writable() {
            return Poll::Ready(());
        }
        self.set_waker(cx);
        Poll::Pending
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        if let Some(queue) = self.home.upgrade() {
            queue.reactor().sockets.borrow_mut().remove(&self.token);
            let _ = epoll::delete(&queue.reactor().epoll, &self.fd);
        }
    }
}
