//! The set of queue threads of a process.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::probe::EngineKind;
use crate::queue::{Queue, spawn_local};
use crate::remote::{Message, Remote};

/// How long the end of the queues is waited for.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How many queues, and on which engine.
#[derive(Clone, Copy, Debug)]
pub struct QueuesConfig {
    /// Number of threads, at least 1.
    pub count: usize,
    /// Their engine.
    pub engine: EngineKind,
}

/// A way to send tasks to one queue, from any thread.
#[derive(Clone)]
pub struct QueueHandle {
    index: usize,
    remote: Arc<Remote>,
}

impl QueueHandle {
    /// The queue's number, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Starts a task there. `make` runs on the queue thread, so the task itself need not be `Send`.
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, make: impl FnOnce() -> F + Send + 'static) {
        self.remote.send(Message::Start(Box::new(move || spawn_local(make()))));
    }

    /// Runs a task there and waits for what it gives. Must not be called on a queue thread.
    ///
    /// # Errors
    /// The queue is gone.
    pub fn run<T, F>(&self, make: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.ask(make).recv().map_err(|_| io::Error::other("the queue has stopped"))
    }

    /// Runs a task there; what it gives arrives in the channel, which closes when the queue ends before.
    fn ask<T, F>(&self, make: impl FnOnce() -> F + Send + 'static) -> Receiver<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (answer, receive) = sync_channel(1);
        self.spawn(move || {
            let future = make();
            async move {
                let _ = answer.send(future.await);
            }
        });
        receive
    }

    /// As [`QueueHandle::run`], waiting no longer than `limit`; the task itself goes on.
    ///
    /// # Errors
    /// The queue is gone, or the time is over.
    pub fn run_within<T, F>(
        &self,
        limit: Duration,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.ask(make).recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
            RecvTimeoutError::Disconnected => io::Error::other("the queue has stopped"),
        })
    }
}

/// The queue threads. Dropping them ends them, once their tasks have.
pub struct Queues {
    handles: Vec<QueueHandle>,
    threads: Vec<JoinHandle<()>>,
    engine: EngineKind,
}

impl Queues {
    /// Starts the threads.
    ///
    /// # Errors
    /// The kernel refused a thread, a ring or an epoll set.
    pub fn start(config: QueuesConfig) -> io::Result<Self> {
        crate::signals::ignore_file_size_limit();
        let mut queues = Self { handles: Vec::new(), threads: Vec::new(), engine: config.engine };
        for index in 0..config.count.max(1) {
            let remote = Remote::new()?;
            let (started, wait) = sync_channel(1);
            let inbox = remote.clone();
            let thread =
                std::thread::Builder::new().name(format!("queue{index}")).spawn(move || match Queue::new(
                    index,
                    config.engine,
                    inbox,
                ) {
                    Ok(queue) => {
                        let _ = started.send(Ok(()));
                        queue.run();
                    }
                    Err(error) => drop(started.send(Err(error))),
                })?;
            queues.handles.push(QueueHandle { index, remote });
            queues.threads.push(thread);
            wait.recv().map_err(|_| io::Error::other("a queue thread ended at its start"))??;
        }
        Ok(queues)
    }

    /// The engine they run on.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        self.engine
    }

    /// The ways to reach them.
    #[must_use]
    pub fn handles(&self) -> &[QueueHandle] {
        &self.handles
    }

    /// The queue of that number, counted round.
    #[must_use]
    pub fn nth(&self, number: usize) -> Option<&QueueHandle> {
        self.handles.get(number.checked_rem(self.handles.len())?)
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.remote.send(Message::Stop);
        }
        let deadline = Instant::now() + END_LIMIT;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !thread.is_finished() {
                // Its operations hang in the kernel, and their buffers with them. The thread is left to itself.
                tracing::error!("a queue has not ended: a disk does not answer");
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a queue thread panicked");
            }
        }
    }
}
