//! What tracking costs a writer: a tracked device beside one that is not, in the same process.
//!
//! # Design notes
//!
//! * The target is smaller than the noise between two runs. So both devices are in one daemon, and short slices alternate
//!   between them: A B B A, whose two sums a steady drift leaves equal. A *pair* is one such four.
//! * The two files take turns in being the tracked one, so what one file is faster by cancels out. In a third leg
//!   neither is tracked: what that shows is noise.
//! * The state folder is on a real disk, where making an intent durable costs something; the devices are in memory,
//!   where nothing hides what a write costs.
//! * Both devices have had a take: in the first epoch nothing needs an intent. A slice in advance touches all regions,
//!   so the epoch is in its steady state; another measurement begins an epoch before every slice.
//! * The verdict comes from the median, with the interval that holds the true median in 95 of 100 runs. Where the target
//!   lies within that interval, the verdict says so.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::backing::Bench;
use crate::bowline::{Daemon, DiffStorage};
use crate::criteria::{self, Verdict};
use crate::load::{self, Access, Content, Outcome, Timing, Workload};
use crate::rounds::Plan;
use crate::stats;
use crate::wire::Command;

const DEVICES: [&str; 2] = ["track-a", "track-b"];
/// Pairs in each leg of a round.
const PAIRS: u32 = 5;
/// How many slices make what others call a round's time.
const SLICES: f64 = 4.0;
const WARM_UP: Duration = Duration::from_millis(50);
/// At most three hundredths of the rate.
const RATE_LEAST: f64 = 0.97;

/// When an epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Epochs {
    /// Long before.
    Steady,
    /// Right before each slice.
    Fresh,
}

/// Ratios of pairs.
#[derive(Debug, Default)]
struct Ratios {
    /// Rate of the tracked device in that of the other.
    rate: Vec<f64>,
    /// Server CPU for each write, the same way, but for whole legs: the clock of a process ticks every 10 ms.
    cpu: Vec<f64>,
    /// Rates where neither is tracked.
    noise: Vec<f64>,
    durable: bool,
}

/// Measures and judges. `disk` is a folder on a real disk.
pub fn measure(bench: &Bench, plan: Plan, disk: &Path) -> Result<Vec<Verdict>> {
    for device in DEVICES {
        fs::copy(&bench.disk, bench.path(device)).context("cannot make a second disk")?;
    }
    let mut verdicts = Vec::new();
    let title = "tracking, 4 KiB random write, QD32";
    let steady = run((bench, disk), plan, Epochs::Steady)?;
    verdicts.push(judge(format!("{title}: IOPS of a tracked device"), &steady));
    verdicts.push(cpu_figure(format!("{title}: server CPU per operation"), &steady));
    let fresh = run((bench, disk), plan, Epochs::Fresh)?;
    let what =
        format!("{title}, a new epoch each {:.2} s: IOPS of a tracked device", slice(plan).as_secs_f64());
    verdicts.push(Verdict::figure(what, stats::median(&fresh.rate), describe(&fresh)));
    for device in DEVICES {
        let _ = fs::remove_file(bench.path(device));
    }
    Ok(verdicts)
}

/// The rule: the median decides; whether it can is told with it. What is not durable is not what was asked for.
fn judge(what: String, ratios: &Ratios) -> Verdict {
    let median = stats::median(&ratios.rate);
    let (low, high) = stats::median_interval(&ratios.rate);
    let sure = match (low >= RATE_LEAST, high < RATE_LEAST) {
        (true, _) | (_, true) => "clear",
        _ => "WITHIN NOISE: more rounds decide",
    };
    let mut verdict =
        Verdict::at_least(what, median, RATE_LEAST, "x", format!("{}; {sure}", describe(ratios)));
    if !ratios.durable {
        verdict.met = Some(false);
        verdict.measured += "; but what is tracked is not durable";
    }
    verdict
}

fn cpu_figure(what: String, ratios: &Ratios) -> Verdict {
    Verdict::figure(
        what,
        stats::median(&ratios.cpu),
        format!("{} of an untracked one", criteria::times(&ratios.cpu)),
    )
}

fn describe(ratios: &Ratios) -> String {
    let of = |values: &[f64]| {
        let (low, high) = stats::median_interval(values);
        let (least, most) = stats::spread(values);
        format!("{:.3}x [95%: {low:.3}-{high:.3}] ({least:.2}-{most:.2})", stats::median(values))
    };
    format!(
        "{}, {} pairs; untracked beside untracked {}",
        of(&ratios.rate),
        ratios.rate.len(),
        of(&ratios.noise)
    )
}

fn slice(plan: Plan) -> Duration {
    Duration::from_secs_f64(plan.seconds / SLICES)
}

fn run(places: (&Bench, &Path), plan: Plan, epochs: Epochs) -> Result<Ratios> {
    let mut ratios = Ratios { durable: true, ..Ratios::default() };
    for round in 0..plan.rounds {
        for tracked in [None, Some(0), Some(1)] {
            leg(places, plan, epochs, round, tracked, &mut ratios)
                .with_context(|| format!("round {round}, device {tracked:?} tracked"))?;
        }
    }
    Ok(ratios)
}

/// One daemon, of whose devices one is tracked, or none.
fn leg(
    (bench, disk): (&Bench, &Path),
    plan: Plan,
    epochs: Epochs,
    round: u32,
    tracked: Option<usize>,
    ratios: &mut Ratios,
) -> Result<()> {
    let state =
        tempfile::tempdir_in(disk).with_context(|| format!("cannot make a folder in {}", disk.display()))?;
    let daemon = Daemon::start_in(bench, &[], state.path())?;
    for (index, name) in DEVICES.iter().enumerate() {
        let path = bench.path(name).display().to_string();
        let options: &[&str] = if tracked == Some(index) { &["--track"] } else { &[] };
        daemon.verb(&[&["device", "add", name, path.as_str()], options].concat())?;
        daemon.verb(&["export", "add", name, "--nbd"])?;
        ratios.durable &= tracked != Some(index) || is_durable(&daemon, name)?;
    }
    begin_epoch(bench, &daemon)?;
    let first = tracked.unwrap_or(0);
    let write = |device: usize, seed: u32| -> Result<Outcome> {
        if epochs == Epochs::Fresh {
            begin_epoch(bench, &daemon)?;
        }
        let name = DEVICES.get(device % 2).context("no such device")?;
        let warm_up = if epochs == Epochs::Fresh { Duration::ZERO } else { WARM_UP };
        let timing = Timing { warm_up, measured: slice(plan), seed: u64::from(seed) + 1 };
        let outcome = load::run(&daemon.target(bench, name), &WRITES, timing)?;
        ensure!(outcome.operations > 0, "no write was answered");
        Ok(outcome)
    };
    let mut spent = (Spent::default(), Spent::default());
    write(0, 0)?;
    write(1, 0)?;
    for pair in 0..PAIRS {
        let seed = round * PAIRS + pair + 1;
        let [one, other, again, last] =
            [write(first, seed)?, write(first + 1, seed)?, write(first + 1, seed)?, write(first, seed)?];
        let rate = (one.iops() + last.iops()) / (other.iops() + again.iops());
        if tracked.is_some() {
            ratios.rate.push(rate);
            [&one, &last].into_iter().for_each(|outcome| spent.0.add(outcome));
            [&other, &again].into_iter().for_each(|outcome| spent.1.add(outcome));
        } else {
            ratios.noise.push(rate);
        }
    }
    if tracked.is_some() {
        ratios.cpu.push(spent.0.each() / spent.1.each().max(1e-9));
    }
    Ok(())
}

/// CPU time of several slices.
#[derive(Default)]
struct Spent {
    seconds: f64,
    operations: u64,
}

impl Spent {
    fn add(&mut self, outcome: &Outcome) {
        self.seconds += outcome.server_cpu.as_secs_f64();
        self.operations += outcome.operations;
    }

    fn each(&self) -> f64 {
        self.seconds / (self.operations as f64).max(1.0)
    }
}

const WRITES: Workload = Workload {
    command: Command::Write,
    access: Access::Random,
    request_bytes: 4096,
    depth: 32,
    connections: 1,
    content: Content::Stamps,
};

/// A take begins an epoch of both devices; what it held is not needed.
fn begin_epoch(bench: &Bench, daemon: &Daemon) -> Result<()> {
    daemon.take(bench, &DEVICES, DiffStorage::Memory, 1)?;
    daemon.remove_snapshots(1)
}

fn is_durable(daemon: &Daemon, device: &str) -> Result<bool> {
    let shown = daemon.json(&["device", "show", device])?;
    let of = |field| shown.pointer(field).and_then(Value::as_bool);
    ensure!(of("/tracking/enabled") == Some(true), "device {device} is not tracked: {shown}");
    Ok(of("/tracking/durable") == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(rate: &[f64], durable: bool) -> Verdict {
        let ratios = Ratios { rate: rate.to_vec(), noise: vec![1.0, 1.01], durable, ..Ratios::default() };
        judge("tracking".to_owned(), &ratios)
    }

    #[test]
    fn a_planted_cost_is_a_miss_and_a_clear_one() {
        let verdict = judged(&[0.95, 0.94, 0.96, 0.95, 0.95, 0.95, 0.96], true);
        assert_eq!(verdict.met, Some(false));
        assert!(verdict.measured.contains("clear"), "{}", verdict.measured);
        let verdict = judged(&[0.99, 0.98, 1.0, 0.99, 1.01, 0.99, 0.98], true);
        assert_eq!(verdict.met, Some(true));
        assert!(verdict.measured.contains("clear"), "{}", verdict.measured);
    }

    #[test]
    fn what_noise_hides_is_said_to_be_hidden() {
        for (middle, met) in [(0.975, true), (0.965, false)] {
            let verdict = judged(&[0.8, 0.9, 0.95, middle, 1.0, 1.05, 1.1], true);
            assert_eq!(verdict.met, Some(met));
            assert!(verdict.measured.contains("WITHIN NOISE"), "{}", verdict.measured);
        }
    }

    #[test]
    fn tracking_that_would_not_survive_a_crash_does_not_meet_the_target() {
        assert_eq!(judged(&[1.0; 9], true).met, Some(true));
        assert_eq!(judged(&[1.0; 9], false).met, Some(false));
    }
}
