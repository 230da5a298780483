//! Queue threads and their I/O engines.
//!
//! A queue is one OS thread that owns everything it uses: an executor for its tasks, an epoll set for its sockets,
//! timers, buffers, and an I/O engine for files. Nothing is shared between queues; other threads reach one only
//! through its [`QueueHandle`], by sending it a task.
//!
//! ```text
//!   tasks ──► engine.submit ──► io_uring | thread pool ──► completion ──► waker ──► tasks
//!     ▲                                                                     │
//!     └────────────── epoll (sockets, ring, other threads) ◄────────────────┘
//! ```
//!
//! Two engines stand behind one interface: [`EngineKind::Uring`] and, where the kernel refuses io_uring,
//! [`EngineKind::Sync`], a small pool of threads doing the plain system calls. Code that is not on a queue thread
//! (tools, tests, the daemon's start) may use the same functions: there the system calls are made on the spot.

mod engine;
mod file;
mod pool;
mod probe;
mod queue;
mod queues;
mod reactor;
mod remote;
mod signals;
mod spin;
mod sync;
mod uring;

pub use engine::{FileOp, OpFuture};
pub use file::File;
pub use probe::{EngineKind, probe};
pub use queue::{alloc, on_queue, queue_index, sleep, spawn_local, submit, timeout};
pub use queues::{QueueHandle, Queues, QueuesConfig};
pub use reactor::Readiness;

#[cfg(test)]
mod tests;
