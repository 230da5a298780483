//! How long it takes to tell what changed on a huge device: in the tracker itself, and over the control socket.
//!
//! The tracker is measured in a program of its own (an example of the crate it is in), since this crate knows none of ours;
//! the control socket as a backup program would use it: page after page.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::backing::Bench;
use crate::bowline::{Daemon, DiffStorage, SNAPSHOT};
use crate::criteria::Verdict;
use crate::stats;
use crate::tracked_memory::{Dirt, add_null, change};

const DEVICE: &str = "huge";
const SIZE: &str = "16T";
const SIZE_BYTES: u64 = 16 << 40;
const UNION_AND_WALK_MS_MAX: f64 = 50.0;
/// A hundredth of the device may come out larger by this part: requests cut at its end, and neighbours.
const DIRTY_TOLERANCE: f64 = 0.05;
const REPEATS: usize = 7;

/// What the example tells of one question, asked several times.
#[derive(Debug, Deserialize)]
struct Walk {
    /// The question.
    name: String,
    /// Union of the sets and a walk over all extents, each time.
    milliseconds: Vec<f64>,
    /// CPU time of the same.
    cpu_milliseconds: Vec<f64>,
    /// Extents found.
    extents: u64,
    /// Bytes found.
    bytes: u64,
    /// Memory of the tracker.
    memory_bytes: u64,
}

/// Measures and judges.
pub fn measure(bench: &Bench) -> Result<Vec<Verdict>> {
    let mut verdicts = walks(bench)?;
    let runs = Dirt { name: "runs of 1 MiB", run_bytes: 1 << 20, one_of: 100 };
    verdicts.extend(pages(bench, runs)?);
    // Blocks of this device are of 64 KiB.
    let singles = Dirt { name: "single blocks", run_bytes: 64 << 10, one_of: 100 };
    verdicts.extend(pages(bench, singles)?);
    Ok(verdicts)
}

/// The tracker's own part.
fn walks(bench: &Bench) -> Result<Vec<Verdict>> {
    let program = bench.own_program.with_file_name("examples").join("changes_speed");
    let output = Command::new(&program).output();
    let output = output
        .with_context(|| format!("cannot run {} (`cargo xtask bench` builds it)", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", program.display(), said.trim());
    let walks: Vec<Walk> = serde_json::from_slice(&output.stdout).context("changes_speed: bad JSON")?;
    ensure!(!walks.is_empty(), "changes_speed measured nothing");
    walks.iter().map(judge).collect()
}

fn judge(walk: &Walk) -> Result<Verdict> {
    let share = walk.bytes as f64 / (SIZE_BYTES as f64 / 100.0);
    ensure!(
        (share - 1.0).abs() < DIRTY_TOLERANCE,
        "{}: {} bytes are not 1 % of the device",
        walk.name,
        walk.bytes
    );
    let median = stats::median(&walk.milliseconds);
    let (least, most) = stats::spread(&walk.milliseconds);
    let measured = format!(
        "{median:.1} ms ({least:.1}-{most:.1}; CPU {:.1} ms), {} extents; tracker {:.1} MiB",
        stats::median(&walk.cpu_milliseconds),
        walk.extents,
        walk.memory_bytes as f64 / f64::from(1 << 20)
    );
    let what = format!("changes of {SIZE}iB, union and walk: {}", walk.name);
    Ok(Verdict::at_most(what, median, UNION_AND_WALK_MS_MAX, " ms", measured))
}

/// The same over the control socket: one page, and all.
fn pages(bench: &Bench, dirt: Dirt) -> Result<Vec<Verdict>> {
    let daemon = Daemon::start_with_state(bench, &[])?;
    add_null(&daemon, DEVICE, SIZE, true)?;
    daemon.take(bench, &[DEVICE], DiffStorage::Memory, 1)?;
    daemon.remove_snapshots(1)?;
    change(bench, &daemon, DEVICE, dirt)?;
    let mut first = Vec::new();
    for _ in 0..REPEATS {
        first.push(page(&daemon, 0)?.elapsed);
    }
    let (mut offset, mut count, mut extents, mut bytes) = (Some(0), 0, 0, 0);
    let mut all = Duration::ZERO;
    while let Some(at) = offset {
        let page = page(&daemon, at)?;
        ensure!(page.next.is_none_or(|next| next > at), "page {count} leads back to {:?}", page.next);
        all += page.elapsed;
        count += 1;
        extents += page.extents;
        bytes += page.bytes;
        offset = page.next;
    }
    let share = bytes as f64 / (SIZE_BYTES as f64 / 100.0);
    ensure!((share - 1.0).abs() < DIRTY_TOLERANCE, "{bytes} bytes are not 1 % of the device");
    let first: Vec<f64> = first.iter().map(|elapsed| elapsed.as_secs_f64() * 1e3).collect();
    let (median, (least, most)) = (stats::median(&first), stats::spread(&first));
    let what = format!("changes of {SIZE}iB, 1 % in {}: one page of the API", dirt.name);
    let measured = format!(
        "{median:.1} ms ({least:.1}-{most:.1}); all {extents} extents on {count} pages {:.0} ms",
        all.as_secs_f64() * 1e3
    );
    Ok(vec![Verdict::figure(what, median, measured)])
}

struct Page {
    elapsed: Duration,
    extents: usize,
    bytes: u64,
    next: Option<u64>,
}

fn page(daemon: &Daemon, offset: u64) -> Result<Page> {
    let route = format!("/v1/devices/{DEVICE}/changes?since={SNAPSHOT}&offset={offset}");
    let (answer, elapsed) = daemon.get(&route)?;
    let number = |name| answer.get(name).and_then(Value::as_u64);
    let extents = answer.get("extents").and_then(Value::as_array);
    let extents = extents.context("an answer without extents")?.len();
    Ok(Page {
        elapsed,
        extents,
        bytes: number("bytes").context("an answer without bytes")?,
        next: number("next"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(milliseconds: f64, bytes: u64) -> Walk {
        let milliseconds = vec![milliseconds; 3];
        let cpu_milliseconds = milliseconds.clone();
        Walk {
            name: "planted".to_owned(),
            milliseconds,
            cpu_milliseconds,
            extents: 7,
            bytes,
            memory_bytes: 1 << 20,
        }
    }

    #[test]
    fn a_slow_walk_is_a_miss() {
        let met = |milliseconds| judge(&walk(milliseconds, SIZE_BYTES / 100)).unwrap().met;
        assert_eq!((met(50.0), met(50.1)), (Some(true), Some(false)));
    }

    #[test]
    fn a_walk_that_left_something_out_is_no_measurement() {
        assert!(judge(&walk(1.0, SIZE_BYTES / 200)).unwrap_err().to_string().contains("not 1 %"));
        assert!(judge(&walk(1.0, 0)).is_err());
    }
}
