//! The targets, each held against what was measured. A ratio is printed whether or not the target is met.

use serde::Serialize;

use crate::bowline::DiffStorage;
use crate::load::Outcome;
use crate::peers::Peer;
use crate::rounds::{Cell, RowResult};
use crate::stats;
use crate::subject::{Held, Subject};

/// One target and how it came out.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What is judged.
    pub what: String,
    /// The target, in words.
    pub target: String,
    /// What was measured, in words.
    pub measured: String,
    /// The measured figure.
    pub value: f64,
    /// Whether the target is met.
    pub met: bool,
}

impl Verdict {
    /// Judges that a figure must be at least `least`.
    #[must_use]
    pub fn at_least(what: String, value: f64, least: f64, unit: &str, measured: String) -> Self {
        Self { what, target: format!(">= {least}{unit}"), measured, value, met: value >= least }
    }

    /// Judges that a figure must be at most `most`.
    #[must_use]
    pub fn at_most(what: String, value: f64, most: f64, unit: &str, measured: String) -> Self {
        Self { what, target: format!("<= {most}{unit}"), measured, value, met: value <= most }
    }
}

const BOWLINE: Subject = Subject::Bowline(Held::Nothing);
/// What counts as "no worse" between two medians of latencies or throughputs: nothing is granted.
const NO_WORSE: f64 = 1.0;

/// Judges a row; empty when ours or the peers did not take part.
#[must_use]
pub fn judge(result: &RowResult) -> Vec<Verdict> {
    let key = result.row.key;
    match key {
        "first-qd32" => first_writes(result),
        "rewrite-qd32" => rewrites(result),
        "first-qd1" | "first-1m" => against_copy_before_write(result, None),
        _ => {
            let (Some(ours), Some(best)) = (result.cell(BOWLINE), result.best_peer()) else {
                return Vec::new();
            };
            if key.contains("qd32") {
                deep_queue(result, ours, best)
            } else if key.contains("qd1") {
                shallow_queue(result, ours)
            } else {
                vec![ratio(result, "MB/s", ours, best, Outcome::megabytes_per_second, NO_WORSE)]
            }
        }
    }
}

fn deep_queue(result: &RowResult, ours: &Cell, best: &Cell) -> Vec<Verdict> {
    let series = |cell: &Cell| cell.series(Outcome::cpu_us_per_operation);
    let ratios = stats::ratios(&series(ours), &series(best));
    let measured = format!("{} of {}", times(&ratios), best.subject.label());
    let what = format!("{}: server CPU per operation", result.row.title);
    vec![
        ratio(result, "IOPS", ours, best, Outcome::iops, 1.4),
        Verdict::at_most(what, stats::median(&ratios), 0.6, "x", measured),
    ]
}

fn shallow_queue(result: &RowResult, ours: &Cell) -> Vec<Verdict> {
    [(0.5, "p50"), (0.99, "p99")]
        .into_iter()
        .filter_map(|(fraction, name)| {
            let peers = result.cells.iter().filter(|cell| matches!(cell.subject, Subject::Peer(_)));
            let best =
                peers.min_by(|one, other| one.latency_us(fraction).total_cmp(&other.latency_us(fraction)))?;
            let series = |cell: &Cell| cell.series(|outcome| outcome.latency.quantile_us(fraction));
            let ratios = stats::ratios(&series(ours), &series(best));
            let measured = format!("{} of {}", times(&ratios), best.subject.label());
            let what = format!("{}: {name} latency", result.row.title);
            Some(Verdict::at_most(what, stats::median(&ratios), NO_WORSE, "x", measured))
        })
        .collect()
}

fn first_writes(result: &RowResult) -> Vec<Verdict> {
    let mut verdicts = against_copy_before_write(result, Some(5.0));
    for storage in [DiffStorage::Memory, DiffStorage::File] {
        verdicts.extend(against_own_plain(result, Subject::Bowline(Held::Fresh(storage)), 0.5));
    }
    verdicts
}

fn rewrites(result: &RowResult) -> Vec<Verdict> {
    [DiffStorage::Memory, DiffStorage::File]
        .into_iter()
        .filter_map(|storage| against_own_plain(result, Subject::Bowline(Held::Preserved(storage)), 0.95))
        .collect()
}

/// The rows without a target of their own are held to "no worse".
fn against_copy_before_write(result: &RowResult, least: Option<f64>) -> Vec<Verdict> {
    let Some(peer) = result.cell(Subject::Peer(Peer::CopyBeforeWrite)) else { return Vec::new() };
    [DiffStorage::Memory, DiffStorage::File]
        .into_iter()
        .filter_map(|storage| result.cell(Subject::Bowline(Held::Fresh(storage))))
        .map(|ours| {
            let name = if result.row.sequential() { "MB/s" } else { "IOPS" };
            ratio(result, name, ours, peer, Outcome::iops, least.unwrap_or(NO_WORSE))
        })
        .collect()
}

fn against_own_plain(result: &RowResult, subject: Subject, least: f64) -> Option<Verdict> {
    let (ours, plain) = (result.cell(subject)?, result.cell(BOWLINE)?);
    Some(ratio(result, "IOPS", ours, plain, Outcome::iops, least))
}

fn ratio(
    result: &RowResult,
    figure_name: &str,
    ours: &Cell,
    other: &Cell,
    figure: impl Fn(&Outcome) -> f64,
    least: f64,
) -> Verdict {
    let ratios = stats::ratios(&ours.series(&figure), &other.series(&figure));
    let what = format!("{}: {figure_name} of {}", result.row.title, ours.subject.label());
    let measured = format!("{} of {}", times(&ratios), other.subject.label());
    Verdict::at_least(what, stats::median(&ratios), least, "x", measured)
}

/// Median and spread of per-round ratios.
#[must_use]
pub fn times(ratios: &[f64]) -> String {
    let (least, most) = stats::spread(ratios);
    format!("{:.2}x ({least:.2}-{most:.2})", stats::median(ratios))
}

#[cfg(test)]
#[path = "criteria_tests.rs"]
mod tests;
