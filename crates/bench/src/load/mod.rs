//! The load generator: workloads, the connections that carry them, and what came of it.

mod connection;
mod order;
mod receive;

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::histogram::Histogram;
use crate::procfs;
use crate::wire::Command;

pub use connection::Connection;
pub use order::Order;

/// In which order blocks are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any block, any number of times.
    Random,
    /// Every block at most once, in random order; the run ends when all were visited.
    RandomOnce,
    /// Ascending; each connection has its own part of the device.
    Sequential,
    /// Ascending, once; the run ends at the end of the device.
    SequentialOnce,
    /// Random blocks out of a few thousand that lie evenly over the device (huge sparse devices).
    Spread,
    /// Ascending, once: one block out of each so many, at a place within them that looks random.
    OneOf(u64),
}

/// What is written, and how replies to reads are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Stamps only: cheap enough for timed runs.
    Stamps,
    /// Every byte of this generation.
    Generation(u64),
    /// Do not check (devices that hold no data of ours).
    Anything,
}

/// One workload.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Read or write.
    pub command: Command,
    /// Order of the offsets.
    pub access: Access,
    /// Bytes per request; a multiple of 4 KiB.
    pub request_bytes: u32,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// Connections, a thread each.
    pub connections: usize,
    /// What is written and expected.
    pub content: Content,
}

/// Where the load goes and for how long.
#[derive(Clone, Debug)]
pub struct Target {
    /// Unix socket of the server.
    pub socket: PathBuf,
    /// Export name.
    pub export: String,
    /// Ask for structured replies.
    pub structured: bool,
    /// Process whose CPU time (with its descendants') is the server's.
    pub pid: u32,
}

/// Duration of a run.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Unmeasured load before, on the same connections; zero where blocks may be visited only once.
    pub warm_up: Duration,
    /// Measured time.
    pub measured: Duration,
    /// Seed of the random order.
    pub seed: u64,
}

impl Timing {
    /// Until the order ends, at most ten minutes.
    #[must_use]
    pub fn unlimited(seed: u64) -> Self {
        Self { warm_up: Duration::ZERO, measured: Duration::from_secs(600), seed }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests answered.
    pub operations: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Latencies.
    pub latency: Histogram,
    /// The server's CPU time, user and system, all threads and descendants.
    pub server_cpu: Duration,
    /// Blocks or bytes with wrong contents.
    pub wrong: u64,
    /// Flushes that the block device below finished meanwhile, if there is one; also other programs'.
    pub flushes: Option<u64>,
}

impl Outcome {
    /// Requests a second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Megabytes (10^6) a second.
    #[must_use]
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Server CPU time per request in microseconds.
    #[must_use]
    pub fn cpu_us_per_operation(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / (self.operations as f64).max(1.0)
    }

    /// Flushes of the block device for a thousand requests.
    #[must_use]
    pub fn flushes_per_thousand(&self) -> Option<f64> {
        Some(self.flushes? as f64 * 1e3 / (self.operations as f64).max(1.0))
    }
}

/// What one connection came to.
#[derive(Clone, Debug, Default)]
pub struct Share {
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
    pub(crate) latency: Histogram,
    pub(crate) wrong: u64,
    pub(crate) finished: Option<Instant>,
}

/// Runs a workload: connects, warms up, measures, waits for the last answers, hangs up.
pub fn run(target: &Target, workload: &Workload, timing: Timing) -> Result<Outcome> {
    let mut connections = Vec::with_capacity(workload.connections);
    for index in 0..workload.connections {
        let connection = Connection::open(target, workload, index, timing.seed)
            .with_context(|| format!("connection {index} to {}", target.socket.display()))?;
        connections.push(connection);
    }

    // Everyone, the sampler included, meets before and after the measured part.
    let meeting = Barrier::new(workload.connections + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                let meeting = &meeting;
                scope.spawn(move || {
                    let warm_up = if timing.warm_up.is_zero() {
                        Ok(Share::default())
                    } else {
                        connection.drive(Instant::now() + timing.warm_up)
                    };
                    meeting.wait();
                    let begun = Instant::now();
                    let share = warm_up.and_then(|_| connection.drive(begun + timing.measured));
                    meeting.wait();
                    // Still connected: a server that forks per connection would lose the child and its CPU time.
                    (share, begun, connection)
                })
            })
            .collect();

        meeting.wait();
        let cpu_before = procfs::cpu_time(target.pid);
        meeting.wait();
        let cpu_after = procfs::cpu_time(target.pid);

        let mut outcome = Outcome::default();
        for worker in workers {
            let (share, begun, _connection) = worker.join().map_err(|_| anyhow!("a load thread panicked"))?;
            let share = share?;
            outcome.operations += share.operations;
            outcome.bytes += share.bytes;
            outcome.latency.merge(&share.latency);
            outcome.wrong += share.wrong;
            let elapsed = share.finished.map_or(Duration::ZERO, |at| at.duration_since(begun));
            outcome.elapsed = outcome.elapsed.max(elapsed);
        }
        outcome.server_cpu = cpu_after.saturating_sub(cpu_before);
        Ok(outcome)
    })
}
