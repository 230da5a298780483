//! What the daemon costs in memory: idle, with a huge sparse device, and per preserved block.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::backing::Bench;
use crate::bowline::{Daemon, DiffStorage};
use crate::criteria::Verdict;
use crate::load::{self, Access, Content, Timing, Workload};
use crate::pattern::BLOCK_BYTES;
use crate::procfs;
use crate::wire::Command;

const MIB: f64 = (1 << 20) as f64;
/// A huge device: 64 TiB.
pub const HUGE_BYTES: u64 = 64 << 40;
/// Where `status` tells what the index takes.
const INDEX_POINTER: &str = "/limits/snapshot_index_bytes/used";
const SETTLE: Duration = Duration::from_millis(300);

/// Measures and judges.
pub fn measure(bench: &Bench) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    let daemon = Daemon::start(bench, &[&bench.disk])?;
    std::thread::sleep(SETTLE);
    let idle = resident_mib(&daemon)?;
    verdicts.push(at_most_mib("idle daemon with one disk: resident memory", idle, 20.0));

    let source = huge_source(bench);
    daemon.verb(&["device", "add", "huge", &source])?;
    std::thread::sleep(SETTLE);
    let grown = resident_mib(&daemon)? - idle;
    let what = format!("a 64 TiB device ({}): more resident memory", kind_of(&source));
    verdicts.push(at_most_mib(&what, grown, 16.0));
    daemon.verb(&["device", "remove", "huge"])?;

    daemon.take(bench, &["disk"], DiffStorage::File, 1)?;
    let before = resident_mib(&daemon)?;
    let preserved = overwrite(bench, &daemon)?;
    let grown = (resident_mib(&daemon)? - before).max(0.0) * MIB;
    let measured =
        format!("{:.1} bytes of resident memory for each of {preserved} blocks", grown / preserved);
    println!("  {measured} (buffers included; the log is in a file)");
    // The daemon's own count is judged when it tells it: resident memory also holds buffers.
    let status = daemon.json(&["status"])?;
    match status.pointer(INDEX_POINTER).and_then(Value::as_f64) {
        Some(index_bytes) => {
            // One bit per block of the device is granted besides.
            let bits = bench.size_bytes as f64 / BLOCK_BYTES as f64 / 8.0;
            let each = (index_bytes - bits).max(0.0) / preserved;
            let measured = format!("{each:.2} bytes, {index_bytes} bytes in all");
            let what = "index per preserved 4 KiB block, as status tells it".to_owned();
            verdicts.push(Verdict::at_most(what, each, 8.0, " bytes", measured));
        }
        None => println!("  status has no {INDEX_POINTER}: the index is not judged"),
    }
    daemon.remove_snapshots(1)?;
    Ok(verdicts)
}

/// A sparse file where the file system allows that size, else a null device.
#[must_use]
pub fn huge_source(bench: &Bench) -> String {
    let path = bench.path("huge");
    let made = File::create(&path).and_then(|file| file.set_len(HUGE_BYTES));
    if made.is_ok() { path.display().to_string() } else { "null:64T".to_owned() }
}

fn kind_of(source: &str) -> &str {
    if source.starts_with("null:") { source } else { "sparse file" }
}

fn resident_mib(daemon: &Daemon) -> Result<f64> {
    let bytes = procfs::resident_bytes(daemon.pid()).context("cannot read the daemon's memory")?;
    Ok(bytes as f64 / MIB)
}

fn at_most_mib(what: &str, value: f64, most: f64) -> Verdict {
    Verdict::at_most(what.to_owned(), value, most, " MiB", format!("{value:.1} MiB"))
}

/// Writes every block once in random order; answers how many.
fn overwrite(bench: &Bench, daemon: &Daemon) -> Result<f64> {
    let target = daemon.target(bench, "disk");
    let workload = Workload {
        command: Command::Write,
        access: Access::RandomOnce,
        request_bytes: 4096,
        depth: 32,
        connections: 1,
        content: Content::Stamps,
    };
    let outcome = load::run(&target, &workload, Timing::unlimited(1))?;
    Ok((outcome.operations as f64).max(1.0))
}
