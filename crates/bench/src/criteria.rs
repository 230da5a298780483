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
    /// Whether the target is met; `None` where there is no target.
    pub met: Option<bool>,
}

impl Verdict {
    /// Judges that a figure must be at least `least`.
    #[must_use]
    pub fn at_least(what: String, value: f64, least: f64, unit: &str, measured: String) -> Self {
        Self { what, target: format!(">= {least}{unit}"), measured, value, met: Some(value >= least) }
    }

    /// Judges that a figure must be at most `most`.
    #[must_use]
    pub fn at_most(what: String, value: f64, most: f64, unit: &str, measured: String) -> Self {
        Self { what, target: format!("<= {most}{unit}"), measured, value, met: Some(value <= most) }
    }

    /// Tells a figure that has no target.
    #[must_use]
    pub fn figure(what: String, value: f64, measured: String) -> Self {
        Self { what, target: "-".to_owned(), measured, value, met: None }
    }
}

const BOWLINE: Subject = Subject::Bowline(Held::Nothing);
/// What counts as "no worse" between two medians of latencies or throughputs: nothing is granted.
const NO_WORSE: f64 = 1.0;
/// First writes against copy-before-write's: random ones of 4 KiB in a deep queue, and sequential ones of 1 MiB.
const COPY_BEFORE_WRITE_RANDOM: f64 = 6.0;
const COPY_BEFORE_WRITE_SEQUENTIAL: f64 = 1.5;
/// What a first write may cost under many snapshots, in those under one.
const MANY_COST_MAX: f64 = 1.15;

/// Judges a row; empty when ours or the peers did not take part.
#[must_use]
pub fn judge(result: &RowResult) -> Vec<Verdict> {
    let key = result.row.key;
    match key {
        "first-qd32" => first_writes(result),
        "rewrite-qd32" => rewrites(result),
        "first-qd1" => beside_overlays(result, against_copy_before_write(result, NO_WORSE)),
        "first-1m" => {
            beside_overlays(result, against_copy_before_write(result, COPY_BEFORE_WRITE_SEQUENTIAL))
        }
        "many-qd32" => many(result),
        _ if key.starts_with("persistent-") => persistent(result),
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
    let mut verdicts = against_copy_before_write(result, COPY_BEFORE_WRITE_RANDOM);
    for storage in DiffStorage::PLAIN {
        verdicts.extend(against_own_plain(result, Subject::Bowline(Held::Fresh(storage)), 0.5));
    }
    beside_overlays(result, verdicts)
}

fn rewrites(result: &RowResult) -> Vec<Verdict> {
    DiffStorage::PLAIN
        .into_iter()
        .filter_map(|storage| against_own_plain(result, Subject::Bowline(Held::Preserved(storage)), 0.95))
        .collect()
}

fn against_copy_before_write(result: &RowResult, least: f64) -> Vec<Verdict> {
    let Some(peer) = result.cell(Subject::Peer(Peer::CopyBeforeWrite)) else { return Vec::new() };
    let held = DiffStorage::PLAIN.into_iter().filter_map(|storage| result.cell(fresh(storage)));
    held.map(|ours| ratio(result, rate_name(result), ours, peer, Outcome::iops, least)).collect()
}

/// An overlay is no snapshot, since the disk stays as it was: it is shown beside ours, without a target.
fn beside_overlays(result: &RowResult, mut verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let overlays = [Peer::NbdkitCow, Peer::NbdkitCow4k];
    for peer in overlays.into_iter().filter_map(|peer| result.cell(Subject::Peer(peer))) {
        let held = DiffStorage::PLAIN.into_iter().filter_map(|storage| result.cell(fresh(storage)));
        verdicts.extend(held.map(|ours| figure(result, ours, peer)));
    }
    verdicts
}

/// Many snapshots cost what one does: one copy per first write.
fn many(result: &RowResult) -> Vec<Verdict> {
    let judged = DiffStorage::PLAIN.into_iter().filter_map(|storage| {
        let one = result.cell(fresh(storage))?;
        let many = result.cell(Subject::Bowline(Held::Many(storage)))?;
        let costs = stats::ratios(&one.series(Outcome::iops), &many.series(Outcome::iops));
        let what = format!("{}: cost of a write, {}", result.row.title, many.subject.label());
        let measured = format!("{} of {}", times(&costs), one.subject.label());
        Some(Verdict::at_most(what, stats::median(&costs), MANY_COST_MAX, "x", measured))
    });
    judged.collect()
}

/// What surviving a crash costs has no target: it is the disk's to say.
fn persistent(result: &RowResult) -> Vec<Verdict> {
    let Some(ours) = result.cell(fresh(DiffStorage::Persistent)) else { return Vec::new() };
    let others = [BOWLINE, fresh(DiffStorage::File)].into_iter().filter_map(|other| result.cell(other));
    others.map(|other| figure(result, ours, other)).collect()
}

const fn fresh(storage: DiffStorage) -> Subject {
    Subject::Bowline(Held::Fresh(storage))
}

fn rate_name(result: &RowResult) -> &'static str {
    if result.row.sequential() { "MB/s" } else { "IOPS" }
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

/// The ratio of two rates, without a target.
fn figure(result: &RowResult, ours: &Cell, other: &Cell) -> Verdict {
    let Verdict { what, value, measured, .. } =
        ratio(result, rate_name(result), ours, other, Outcome::iops, NO_WORSE);
    Verdict::figure(what, value, measured)
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
