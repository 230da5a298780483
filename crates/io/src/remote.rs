//! How other threads reach a queue: an inbox and a wake-up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_task::Runnable;
use bowline_block::Buf;
use crossbeam_queue::SegQueue;
use rustix::event::{EventfdFlags, eventfd};

/// What can be sent to a queue.
pub(crate) enum Message {
    /// A task of this queue that another thread woke.
    Wake(Runnable),
    /// Something to start here.
    Start(Box<dyn FnOnce() + Send>),
    /// The sync engine has done operation `key`.
    Done { key: usize, result: io::Result<usize>, buf: Buf },
    /// A file was closed: its registration is to go.
    ForgetFile(u64),
    /// The thread is to end once its tasks have.
    Stop,
}

/// A queue's inbox. Bounded by what may be sent: each task is in it at most once, each operation once.
pub(crate) struct Remote {
    inbox: SegQueue<Message>,
    asleep: AtomicBool,
    closed: AtomicBool,
    bell: OwnedFd,
}

static ALL: Mutex<Vec<Weak<Remote>>> = Mutex::new(Vec::new());

/// Tells every queue that the file is gone.
pub(crate) fn forget_file(id: u64) {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|remote| remote.upgrade().inspect(|remote| remote.send(Message::ForgetFile(id))).is_some());
}

impl Remote {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let remote = Arc::new(Self {
            inbox: SegQueue::new(),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            bell,
        });
        ALL.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&remote));
        Ok(remote)
    }

    /// Sends a message and wakes the queue if it sleeps.
    pub(crate) fn send(&self, message: Message) {
        self.inbox.push(message);
        if self.closed.load(Ordering::SeqCst) {
            // Nobody will read it; who waits for an answer hears that there will be none.
            while self.inbox.pop().is_some() {}
            return;
        }
        // SeqCst on both sides: either the sleeper sees the message, or we see that it sleeps.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the bell is ringing already.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// The queue has ended.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        while self.inbox.pop().is_some() {}
    }

    pub(crate) fn take(&self) -> Option<Message> {
        self.inbox.pop()
    }

    /// Says that the queue is about to sleep. `false` if there is something to do after all.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        let calm = self.inbox.is_empty();
        if !calm {
            self.asleep.store(false, Ordering::SeqCst);
        }
        calm
    }

    /// Whether nothing has come in.
    pub(crate) fn is_calm(&self) -> bool {
        self.inbox.is_empty()
    }

    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Silences the bell.
    pub(crate) fn silence(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
