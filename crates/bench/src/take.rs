//! How long the take of a snapshot over eight devices is, under full write load, for small and for huge devices.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::backing::Bench;
use crate::bowline::Daemon;
use crate::criteria::Verdict;
use crate::load::{self, Access, Content, Target, Timing, Workload};
use crate::memory::HUGE_BYTES;
use crate::stats;
use crate::wire::Command;

const DEVICES: usize = 8;
const TAKES: usize = 21;
const PAUSE: Duration = Duration::from_millis(100);
const TAKE_MS_MAX: f64 = 5.0;

/// Measures and judges both sizes.
pub fn measure(bench: &Bench) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for (name, size_bytes) in [("1 GiB", 1 << 30), ("64 TiB", HUGE_BYTES)] {
        let takes = one_size(bench, size_bytes).with_context(|| format!("takes of {name} devices"))?;
        let median = stats::median(&takes.request_ms);
        let (least, most) = stats::spread(&takes.request_ms);
        let measured = format!(
            "{median:.2} ms ({least:.2}-{most:.2}, {} takes; writes frozen for {:.2} ms; {:.0} writes/s)",
            takes.request_ms.len(),
            stats::median(&takes.frozen_ms),
            takes.writes_per_second
        );
        let what = format!("take over {DEVICES} devices of {name} under write load: median");
        verdicts.push(Verdict::at_most(what, median, TAKE_MS_MAX, " ms", measured));
    }
    Ok(verdicts)
}

struct Takes {
    request_ms: Vec<f64>,
    frozen_ms: Vec<f64>,
    writes_per_second: f64,
}

fn one_size(bench: &Bench, size_bytes: u64) -> Result<Takes> {
    let daemon = Daemon::start(bench, &[])?;
    let names: Vec<String> = (0..DEVICES).map(|index| format!("take{index}")).collect();
    for name in &names {
        let path = bench.path(name);
        let sparse = File::create(&path).and_then(|file| file.set_len(size_bytes));
        let null = format!("null:{}G", size_bytes >> 30);
        let source = if sparse.is_ok() { path.display().to_string() } else { null };
        daemon.verb(&["device", "add", name, &source])?;
        daemon.verb(&["export", "add", name, "--nbd"])?;
    }
    let taken = under_load(bench, &daemon, &names);
    drop(daemon);
    for name in &names {
        let _ = std::fs::remove_file(bench.path(name));
    }
    taken
}

fn under_load(bench: &Bench, daemon: &Daemon, names: &[String]) -> Result<Takes> {
    let workload = Workload {
        command: Command::Write,
        access: Access::Spread,
        request_bytes: 4096,
        depth: 8,
        connections: 1,
        content: Content::Anything,
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..)
            .zip(names)
            .map(|(seed, name)| {
                let target = daemon.target(bench, name);
                let stop = &stop;
                scope.spawn(move || write_until(stop, &target, &workload, seed))
            })
            .collect();
        let taken = repeat_take(daemon, names);
        stop.store(true, Ordering::Relaxed);
        let mut rate = 0.0;
        for writer in writers {
            rate += writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        taken.map(|(request_ms, frozen_ms)| Takes { request_ms, frozen_ms, writes_per_second: rate })
    })
}

/// Writes in short runs until told to stop; answers the rate.
fn write_until(stop: &AtomicBool, target: &Target, workload: &Workload, seed: u64) -> Result<f64> {
    let started = Instant::now();
    let mut operations = 0;
    while !stop.load(Ordering::Relaxed) {
        let timing = Timing { warm_up: Duration::ZERO, measured: Duration::from_millis(500), seed };
        operations += load::run(target, workload, timing)?.operations;
    }
    Ok(operations as f64 / started.elapsed().as_secs_f64())
}

/// Takes and removes. What counts is the whole request on the control socket; the daemon also tells the freeze.
fn repeat_take(daemon: &Daemon, names: &[String]) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut request_ms = Vec::with_capacity(TAKES);
    let mut frozen_ms = Vec::with_capacity(TAKES);
    let body = json!({"devices": names, "name": "take", "store": "mem", "limit": 4_u64 << 30});
    for _ in 0..TAKES {
        std::thread::sleep(PAUSE);
        let (taken, elapsed) = daemon.post("/v1/snapshots", &body)?;
        request_ms.push(elapsed.as_secs_f64() * 1e3);
        frozen_ms.extend(taken.get("frozen_us").and_then(Value::as_f64).map(|us| us / 1e3));
        daemon.verb(&["snapshot", "remove", "take"])?;
    }
    Ok((request_ms, frozen_ms))
}
