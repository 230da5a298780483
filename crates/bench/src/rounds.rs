//! Interleaved rounds: every subject once, then every subject again, each time freshly started.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::backing::Bench;
use crate::load::{self, Outcome, Timing};
use crate::procfs;
use crate::rows::Row;
use crate::stats;
use crate::subject::Subject;

/// Time for a server that prepares memory in the background after its start.
const SETTLE: Duration = Duration::from_millis(100);
const SHALLOW_FACTOR: u32 = 3;
const WARM_UP: Duration = Duration::from_millis(100);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds per row.
    pub rounds: u32,
    /// Measured time of one subject in one round.
    pub seconds: f64,
}

/// All rounds of one subject in one row.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Who.
    pub subject: Subject,
    /// One per round.
    pub outcomes: Vec<Outcome>,
}

/// A row with its figures.
#[derive(Clone, Debug)]
pub struct RowResult {
    /// The row.
    pub row: Row,
    /// Those that got through all rounds.
    pub cells: Vec<Cell>,
    /// Those that did not, and why.
    pub absent: Vec<(Subject, String)>,
}

impl Plan {
    /// A shallow queue is a coin toss: either both sides share a core or each has its own. More tosses, as much time.
    #[must_use]
    pub fn for_row(self, row: &Row) -> Self {
        if row.workload.depth > 1 {
            return self;
        }
        Self { rounds: self.rounds * SHALLOW_FACTOR, seconds: self.seconds / f64::from(SHALLOW_FACTOR) }
    }
}

impl Cell {
    /// One figure of each round.
    pub fn series(&self, figure: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(figure).collect()
    }

    /// Median of one figure.
    pub fn median(&self, figure: impl Fn(&Outcome) -> f64) -> f64 {
        stats::median(&self.series(figure))
    }

    /// Flushes of the block device for a thousand requests, if there is one.
    #[must_use]
    pub fn median_flushes(&self) -> Option<f64> {
        let each: Option<Vec<f64>> = self.outcomes.iter().map(Outcome::flushes_per_thousand).collect();
        each.map(|each| stats::median(&each))
    }

    /// A latency quantile: median over the rounds, in microseconds.
    #[must_use]
    pub fn latency_us(&self, fraction: f64) -> f64 {
        self.median(|outcome| outcome.latency.quantile_us(fraction))
    }
}

impl RowResult {
    /// The cell of a subject.
    #[must_use]
    pub fn cell(&self, subject: Subject) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.subject == subject)
    }

    /// The peer with the highest median rate.
    #[must_use]
    pub fn best_peer(&self) -> Option<&Cell> {
        let peers = self.cells.iter().filter(|cell| matches!(cell.subject, Subject::Peer(_)));
        peers.max_by(|one, other| one.median(Outcome::iops).total_cmp(&other.median(Outcome::iops)))
    }
}

/// Measures one row.
pub fn measure(
    bench: &Bench,
    row: &Row,
    plan: Plan,
    missing: &BTreeMap<&'static str, String>,
    wanted: impl Fn(Subject) -> bool,
) -> RowResult {
    let plan = plan.for_row(row);
    let mut result = RowResult { row: row.clone(), cells: Vec::new(), absent: Vec::new() };
    for subject in row.subjects.iter().copied().filter(|subject| wanted(*subject)) {
        match missing.get(subject.label()) {
            Some(reason) => result.absent.push((subject, format!("missing: {reason}"))),
            None => result.cells.push(Cell { subject, outcomes: Vec::new() }),
        }
    }
    for round in 0..plan.rounds {
        let mut cells = std::mem::take(&mut result.cells);
        cells.retain_mut(|cell| match one_round(bench, row, cell.subject, plan, round) {
            Ok(outcome) => {
                cell.outcomes.push(outcome);
                true
            }
            Err(error) => {
                result.absent.push((cell.subject, format!("failed in round {round}: {error:#}")));
                false
            }
        });
        result.cells = cells;
    }
    result
}

fn one_round(bench: &Bench, row: &Row, subject: Subject, plan: Plan, round: u32) -> Result<Outcome> {
    let running = subject.start(bench)?;
    std::thread::sleep(SETTLE);
    let timing = Timing {
        warm_up: if row.once() { Duration::ZERO } else { WARM_UP },
        measured: Duration::from_secs_f64(plan.seconds),
        seed: u64::from(round) + 1,
    };
    let flushes_before = procfs::flushes_below(&bench.disk);
    let mut outcome = load::run(&running.target, &row.workload, timing)?;
    let flushes = procfs::flushes_below(&bench.disk);
    outcome.flushes = flushes.zip(flushes_before).map(|(after, before)| after.saturating_sub(before));
    running.finish()?;
    ensure!(outcome.operations > 0, "no request was answered");
    ensure!(outcome.wrong == 0, "{} blocks were read with wrong contents", outcome.wrong);
    Ok(outcome)
}
