//! `bowline-bench load`: one workload against one server that is already running, for profiling.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::load::{self, Access, Content, Outcome, Target, Timing, Workload};
use crate::wire::Command;

/// What to do.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// Random reads.
    Read,
    /// Random writes.
    Write,
    /// Sequential reads.
    SeqRead,
    /// Sequential writes.
    SeqWrite,
    /// Random writes, each block once.
    WriteOnce,
}

/// Arguments of `load`.
#[derive(Debug, Args)]
pub struct Load {
    /// Unix socket of the server.
    socket: PathBuf,
    /// Export name.
    export: String,
    /// What to do.
    #[arg(value_enum)]
    kind: Kind,
    /// Requests in flight per connection.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Connections, a thread each.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// KiB per request; a multiple of 4.
    #[arg(long, default_value_t = 4)]
    kib: u32,
    /// How long.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Process of the server, for its CPU time.
    #[arg(long, default_value_t = 0)]
    pid: u32,
    /// Ask for structured replies.
    #[arg(long)]
    structured: bool,
    /// Check the stamps that an earlier write left.
    #[arg(long)]
    check: bool,
}

/// Runs it and prints one line.
pub fn run(load: &Load) -> Result<bool> {
    let (command, access) = match load.kind {
        Kind::Read => (Command::Read, Access::Random),
        Kind::Write => (Command::Write, Access::Random),
        Kind::SeqRead => (Command::Read, Access::Sequential),
        Kind::SeqWrite => (Command::Write, Access::Sequential),
        Kind::WriteOnce => (Command::Write, Access::RandomOnce),
    };
    let workload = Workload {
        command,
        access,
        request_bytes: (load.kib.max(4) / 4 * 4) << 10,
        depth: load.depth.max(1),
        connections: load.connections.max(1),
        content: if load.check { Content::Stamps } else { Content::Anything },
    };
    let target = Target {
        socket: load.socket.clone(),
        export: load.export.clone(),
        structured: load.structured,
        pid: load.pid,
    };
    let timing = Timing { warm_up: Duration::ZERO, measured: Duration::from_secs_f64(load.seconds), seed: 1 };
    let outcome = load::run(&target, &workload, timing)?;
    print(&outcome);
    Ok(outcome.wrong == 0)
}

fn print(outcome: &Outcome) {
    println!(
        "{:.0} IOPS, {:.0} MB/s, p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs, server CPU {:.2} µs/op, {} wrong",
        outcome.iops(),
        outcome.megabytes_per_second(),
        outcome.latency.quantile_us(0.5),
        outcome.latency.quantile_us(0.99),
        outcome.latency.quantile_us(0.999),
        outcome.cpu_us_per_operation(),
        outcome.wrong
    );
}
