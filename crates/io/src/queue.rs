//! One queue: the thread's executor, and the functions its tasks call.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_task::{Runnable, Task};
use bowline_block::Buf;

use crate::engine::{Backend, Engine, FileOp, OpFuture};
use crate::file::File;
use crate::pool::Pool;
use crate::probe::EngineKind;
use crate::reactor::{OwnEvents, Reactor, TOKEN_BELL, TOKEN_ENGINE};
use crate::remote::{Message, Remote};
use crate::spin::Spin;
use crate::sync::{SyncEngine, perform};
use crate::uring::Uring;

/// Tasks run between two looks at the sockets, so that a busy task cannot starve a connection.
const RUNS_PER_TURN: usize = 128;
/// After what time the kernel is offered again what it could not take.
const RETRY: Duration = Duration::from_millis(1);

/// What a queue thread owns.
pub(crate) struct Queue {
    index: usize,
    ready: RefCell<VecDeque<Runnable>>,
    reactor: Reactor,
    engine: Rc<Engine>,
    pool: Arc<Pool>,
    remote: Arc<Remote>,
    spin: Spin,
    tasks: Cell<usize>,
    stopping: Cell<bool>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Queue>>> = const { RefCell::new(None) };
}

/// The queue of this thread.
pub(crate) fn current() -> Option<Rc<Queue>> {
    CURRENT.with_borrow(Clone::clone)
}

/// The number of this thread's queue, from 0; `None` elsewhere.
#[must_use]
pub fn queue_index() -> Option<usize> {
    CURRENT.with_borrow(|queue| queue.as_ref().map(|queue| queue.index))
}

/// Whether this is a queue thread.
#[must_use]
pub fn on_queue() -> bool {
    queue_index().is_some()
}

/// Starts a task on this thread's queue; it runs until it ends. Off a queue thread the task is dropped unstarted.
pub fn spawn_local(future: impl Future<Output = ()> + 'static) {
    if let Some(queue) = current() {
        queue.spawn(future).detach();
    } else {
        tracing::error!("a task was started on a thread without a queue, and dropped");
    }
}

/// Does a file operation on this thread's engine; off a queue thread, on the spot.
pub fn submit(file: &Arc<File>, op: FileOp, mut buf: Buf) -> OpFuture {
    match current() {
        Some(queue) => queue.engine.start(file.clone(), op, buf),
        None => OpFuture::ready(perform(file, op, &mut buf), buf),
    }
}

/// A buffer of `len` bytes from this thread's pool, with whatever was left in it. `len` must be bounded by the caller.
#[must_use]
pub fn alloc(len: usize) -> Buf {
    CURRENT.with_borrow(|queue| match queue {
        Some(queue) => queue.pool.alloc(len),
        None => Buf::zeroed(len),
    })
}

/// Waits. Off a queue thread, the thread sleeps.
pub fn sleep(duration: Duration) -> impl Future<Output = ()> {
    Sleep { due: Instant::now() + duration, timer: None }
}

struct Sleep {
    due: Instant,
    timer: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        let Some(queue) = current() else {
            std::thread::sleep(left);
            return Poll::Ready(());
        };
        if let Some(old) = self.timer.take() {
            queue.reactor.clear_timer(&old);
        }
        self.timer = Some(queue.reactor.set_timer(self.due, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(timer), Some(queue)) = (self.timer.take(), current()) {
            queue.reactor.clear_timer(&timer);
        }
    }
}

/// What `future` gives, or `None` if it takes longer than `limit`; then it is dropped.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut limit = std::pin::pin!(sleep(limit));
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Counts a task of a queue as long as it lives.
struct TaskCount(Rc<Queue>);

impl Drop for TaskCount {
    fn drop(&mut self) {
        self.0.tasks.set(self.0.tasks.get() - 1);
    }
}

impl Queue {
    /// Makes the queue of this thread.
    pub(crate) fn new(index: usize, kind: EngineKind, remote: Arc<Remote>) -> io::Result<Rc<Self>> {
        let pool = Pool::new();
        let reactor = Reactor::new()?;
        reactor.watch(remote.bell(), TOKEN_BELL)?;
        let backend = match kind {
            EngineKind::Uring => {
                let ring = Uring::new(&pool)?;
                reactor.watch_edges(ring.bell(), TOKEN_ENGINE)?;
                Backend::Uring(Box::new(ring))
            }
            EngineKind::Sync => Backend::Sync(SyncEngine::new(&remote, &format!("queue{index}"))?),
        };
        Ok(Rc::new(Self {
            index,
            ready: RefCell::default(),
            reactor,
            engine: Engine::new(backend),
            pool,
            remote,
            spin: Spin::default(),
            tasks: Cell::new(0),
            stopping: Cell::new(false),
        }))
    }

    pub(crate) fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) -> Task<()> {
        self.tasks.set(self.tasks.get() + 1);
        let count = TaskCount(self.clone());
        let future = async move {
            let _count = count;
            future.await;
        };
        let remote = self.remote.clone();
        let index = self.index;
        let schedule = move |runnable| schedule(index, &remote, runnable);
        let (runnable, task) = async_task::spawn_local(future, schedule);
        runnable.schedule();
        task
    }

    /// Runs until told to stop and out of tasks.
    pub(crate) fn run(self: &Rc<Self>) {
        CURRENT.set(Some(self.clone()));
        while !self.is_over() {
            self.turn();
        }
        self.remote.close();
        CURRENT.set(None);
    }

    fn is_over(&self) -> bool {
        self.stopping.get() && self.tasks.get() == 0 && self.engine.is_idle()
    }

    fn turn(self: &Rc<Self>) {
        self.read_inbox();
        let mut runs = 0;
        while runs < RUNS_PER_TURN {
            let Some(runnable) = self.ready.borrow_mut().pop_front() else { break };
            // A defect in one task ends that task, and not the thread that all others of this queue live on.
            if catch_unwind(AssertUnwindSafe(|| runnable.run())).is_err() {
                tracing::error!(queue = self.index, "a task panicked and was ended");
            }
            runs += 1;
        }
        self.engine.turn();
        let next_timer = self.reactor.fire_timers();
        let busy = !self.ready.borrow().is_empty() || self.is_over();
        let own = if busy { self.reactor.turn(Some(Duration::ZERO)) } else { self.wait(next_timer) };
        if own.any {
            self.spin.begin_turn();
        }
        if own.bell {
            self.remote.silence();
        }
        if own.engine {
            self.engine.turn();
        }
    }

    /// Waits for something to do: awake for a moment, where that is likely to pay, then asleep.
    fn wait(&self, next_timer: Option<Duration>) -> OwnEvents {
        if let Some(until) = self.spin.until() {
            while Instant::now() < until {
                let own = self.reactor.turn(Some(Duration::ZERO));
                if own.any || !self.remote.is_calm() {
                    self.spin.paid();
                    return own;
                }
                rustix::thread::sched_yield();
            }
            self.spin.in_vain();
        }
        let sleep = if self.engine.has_unseen() {
            // The kernel was out of memory for a request: nobody will ring for it, so it is tried again soon.
            Some(next_timer.unwrap_or(RETRY).min(RETRY))
        } else {
            next_timer
        };
        let calm = self.remote.fall_asleep();
        let own = self.reactor.turn(if calm { sleep } else { Some(Duration::ZERO) });
        self.remote.wake_up();
        own
    }

    fn read_inbox(self: &Rc<Self>) {
        while let Some(message) = self.remote.take() {
            match message {
                Message::Wake(runnable) => self.ready.borrow_mut().push_back(runnable),
                Message::Start(start) => {
                    if catch_unwind(AssertUnwindSafe(start)).is_err() {
                        tracing::error!(queue = self.index, "a task panicked before it began");
                    }
                }
                Message::Done { key, result, buf } => self.engine.finished(key, result, buf),
                Message::ForgetFile(id) => self.engine.forget_file(id),
                Message::Stop => self.stopping.set(true),
            }
        }
    }
}

/// Puts a woken task where its thread finds it.
fn schedule(index: usize, remote: &Arc<Remote>, runnable: Runnable) {
    let mut runnable = Some(runnable);
    CURRENT.with_borrow(|queue| {
        if let Some(queue) = queue
            && queue.index == index
            && Arc::ptr_eq(&queue.remote, remote)
        {
            queue.ready.borrow_mut().extend(runnable.take());
        }
    });
    if let Some(runnable) = runnable {
        remote.send(Message::Wake(runnable));
    }
}
