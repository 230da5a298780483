//! How long a tracker takes to tell what changed on a device of 16 TiB of which 1 % did: the union of the sets and a walk
//! over all extents. Prints JSON; `cargo xtask bench` runs it.

use std::error::Error;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::ByteRange;
use bowline_filter::track::{NoTrackEvents, Tracker};
use rustix::time::{ClockId, clock_gettime};

const SIZE: u64 = 16 << 40;
const ONE_OF: u64 = 100;
/// Takes among which the changes are dealt out, besides the epoch that is going on.
const EPOCHS: u64 = 8;
const REPEATS: usize = 15;

fn main() -> Result<(), Box<dyn Error>> {
    let block = Tracker::memory("probe", SIZE, Arc::new(NoTrackEvents)).granularity();
    let mut answers = Vec::new();
    for (dirt, run_bytes) in [("runs of 1 MiB", 1 << 20), ("single blocks", block)] {
        answers.push(question(&format!("1 % in {dirt}, since one take until now"), run_bytes, 0, false)?);
        answers.push(question(&format!("1 % in {dirt}, between two takes"), run_bytes, 1, true)?);
        answers.push(question(&format!("1 % in {dirt}, {EPOCHS} takes and now"), run_bytes, EPOCHS, false)?);
    }
    println!("[{}]", answers.join(",\n "));
    Ok(())
}

/// Changes one run out of so many, the runs dealt out among `epochs` epochs and, unless `closed`, the one going on.
fn question(name: &str, run_bytes: u64, epochs: u64, closed: bool) -> Result<String, Box<dyn Error>> {
    let tracker = Tracker::memory("huge", SIZE, Arc::new(NoTrackEvents));
    let since = tracker.close_epoch("base").epoch;
    let parts = epochs + u64::from(!closed);
    for part in 0..parts {
        for group in (part..SIZE / run_bytes / ONE_OF).step_by(usize::try_from(parts)?) {
            let place = group * ONE_OF + mix(group) % ONE_OF;
            tracker.mark_blocking(ByteRange::new(place * run_bytes, run_bytes));
        }
        if part < epochs {
            let _ = tracker.close_epoch("next");
        }
    }
    let until = closed.then(|| since + epochs);
    let (mut milliseconds, mut cpu_milliseconds) = (Vec::new(), Vec::new());
    let (mut extents, mut bytes) = (0, 0);
    for _ in 0..REPEATS {
        let (started, cpu_before) = (Instant::now(), cpu_time());
        let changed = tracker.changed(since, until)?;
        (extents, bytes) = (0_u64, 0);
        for range in changed.ranges(0) {
            extents += 1;
            bytes += black_box(range).len();
        }
        milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        cpu_milliseconds.push(cpu_time().saturating_sub(cpu_before).as_secs_f64() * 1e3);
        if bytes != changed.bytes() {
            return Err(format!("{name}: the walk found {bytes} bytes of {}", changed.bytes()).into());
        }
    }
    let memory_bytes = tracker.memory_bytes();
    let mut text = String::new();
    write!(
        text,
        "{{\"name\":{name:?},\"milliseconds\":{milliseconds:?},\"cpu_milliseconds\":{cpu_milliseconds:?},\
         \"extents\":{extents},\"bytes\":{bytes},\"memory_bytes\":{memory_bytes}}}"
    )?;
    Ok(text)
}

/// CPU time of this thread: what the question takes where nothing else runs.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::from_nanos(u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0))
}

/// Places without a pattern (splitmix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
