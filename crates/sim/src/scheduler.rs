//! A schedule: many futures on one thread, polled in an order that the seed decides.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::rng::Rng;

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Task<'a> {
    future: Pin<Box<dyn Future<Output = ()> + 'a>>,
    woken: Arc<Flag>,
}

/// Futures, and the seed of the order in which they are polled. Only what was woken is polled: a lost wake-up shows.
pub struct SimScheduler<'a> {
    rng: Rng,
    tasks: Vec<Task<'a>>,
}

/// The run did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// So many tasks wait, and nothing will wake them.
    Asleep(usize),
    /// So many tasks still ran after the polls that were granted.
    Busy(usize),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asleep(tasks) => write!(f, "{tasks} tasks wait and nobody will wake them"),
            Self::Busy(tasks) => write!(f, "{tasks} tasks have not ended within the polls granted"),
        }
    }
}

impl std::error::Error for Stuck {}

impl<'a> SimScheduler<'a> {
    /// A schedule without futures.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), tasks: Vec::new() }
    }

    /// Adds a future.
    pub fn spawn(&mut self, future: impl Future<Output = ()> + 'a) {
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        self.tasks.push(Task { future: Box::pin(future), woken });
    }

    /// Polls until all futures have ended, at most `polls` times.
    ///
    /// # Errors
    /// They have not.
    pub fn run(&mut self, polls: u64) -> Result<(), Stuck> {
        for _ in 0..polls {
            if self.tasks.is_empty() {
                return Ok(());
            }
            if !self.turn() {
                return Err(Stuck::Asleep(self.tasks.len()));
            }
        }
        if self.tasks.is_empty() { Ok(()) } else { Err(Stuck::Busy(self.tasks.len())) }
    }

    /// Polls one future that was woken, `false` if there is none.
    pub fn turn(&mut self) -> bool {
        let is_woken = |task: &Task<'_>| task.woken.0.load(Ordering::SeqCst);
        let ready: Vec<usize> =
            self.tasks.iter().enumerate().filter(|(_, task)| is_woken(task)).map(|(at, _)| at).collect();
        let Some(&at) = ready.get(self.rng.index(ready.len())) else { return false };
        let Some(task) = self.tasks.get_mut(at) else { return false };
        task.woken.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(task.woken.clone());
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
            drop(self.tasks.swap_remove(at));
        }
        true
    }

    /// How many futures have not ended.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.tasks.len()
    }
}

/// How long [`run_alone`] waits for a wake-up.
const ALONE_LIMIT: Duration = Duration::from_secs(30);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs one future to its end on this thread; other threads may wake it.
///
/// # Errors
/// It did not end within half a minute, so that no test hangs.
pub fn run_alone<T>(future: impl Future<Output = T>) -> Result<T, Stuck> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let deadline = Instant::now() + ALONE_LIMIT;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Ok(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Stuck::Asleep(1));
        }
        std::thread::park_timeout(left);
    }
}
