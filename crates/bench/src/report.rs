//! Tables for people, and the same as JSON.

use std::fs;

use serde_json::{Value, json};

use crate::backing::Bench;
use crate::criteria::{self, Verdict};
use crate::load::Outcome;
use crate::rounds::{Cell, Plan, RowResult};
use crate::stats;

/// One minute's load above which something else is running.
const BUSY_LOAD: f64 = 0.7;

/// Where and with what a run was made.
#[must_use]
pub fn environment(bench: &Bench, plan: Plan, versions: &[(String, Result<String, String>)]) -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu_info = read("/proc/cpuinfo");
    let cpu = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": cpu.map_or("unknown", |(_, name)| name),
        "load_before": read("/proc/loadavg"),
        "disk": bench.disk.display().to_string(),
        "disk_file_system": file_system_of(bench),
        "disk_bytes": bench.size_bytes,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "structured_replies": bench.structured,
        "versions": versions.iter().map(|(who, version)| match version {
            Ok(version) => json!({"name": who, "version": version}),
            Err(reason) => json!({"name": who, "missing": reason}),
        }).collect::<Vec<_>>(),
    })
}

/// The disk's path and file system.
#[must_use]
pub fn place(bench: &Bench) -> String {
    format!("{} ({})", bench.disk.display(), file_system_of(bench))
}

/// The mount point with the longest matching path says which file system holds the disk.
fn file_system_of(bench: &Bench) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let holding = fields.filter(|(point, _)| bench.disk.starts_with(point));
    holding.max_by_key(|(point, _)| point.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

/// Prints the environment.
pub fn print_environment(environment: &Value) {
    let text = |key: &str| match environment.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    println!("kernel {} · {} cores · {}", text("kernel"), text("cores"), text("cpu"));
    println!("disk {} ({}, {} bytes)", text("disk"), text("disk_file_system"), text("disk_bytes"));
    println!(
        "{} interleaved rounds of {} s, fresh server and connections each; load before: {}",
        text("rounds"),
        text("seconds"),
        text("load_before")
    );
    let load: f64 = text("load_before").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    if load > BUSY_LOAD {
        println!("  the machine is busy: take no verdict from this run");
    }
    for entry in environment.get("versions").and_then(Value::as_array).into_iter().flatten() {
        let of = |key| entry.get(key).and_then(Value::as_str);
        let name = of("name").unwrap_or_default();
        match (of("version"), of("missing")) {
            (Some(version), _) => println!("  {name}: {version}"),
            (None, reason) => println!("  {name}: MISSING ({})", reason.unwrap_or("unknown reason")),
        }
    }
}

/// Prints a row: medians, spread of the rate, and the rate against the best peer's, round by round.
pub fn print_row(result: &RowResult) {
    println!("\n{}", result.row.title);
    println!(
        "  {:<21}{:>10}{:>9}{:>9}{:>9}{:>10}{:>9}   {:<17}against best peer",
        "", "IOPS", "MB/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs", "spread of rate"
    );
    let best = result.best_peer();
    for cell in &result.cells {
        let (least, most) = stats::spread(&cell.series(Outcome::iops));
        let median = cell.median(Outcome::iops).max(1e-9);
        let ratio = best.map_or(String::new(), |best| {
            criteria::times(&stats::ratios(&cell.series(Outcome::iops), &best.series(Outcome::iops)))
        });
        println!(
            "  {:<21}{:>10.0}{:>9.0}{:>9.1}{:>9.1}{:>10.1}{:>9.2}   {:<17}{ratio}",
            cell.subject.label(),
            median,
            cell.median(Outcome::megabytes_per_second),
            cell.latency_us(0.5),
            cell.latency_us(0.99),
            cell.latency_us(0.999),
            cell.median(Outcome::cpu_us_per_operation),
            format!("-{:.0}% +{:.0}%", 100.0 * (1.0 - least / median), 100.0 * (most / median - 1.0)),
        );
    }
    let flushes = result.cells.iter().filter_map(|cell| {
        let each = cell.median_flushes()?;
        Some(format!("{} {each:.2}", cell.subject.label()))
    });
    let flushes: Vec<_> = flushes.collect();
    if !flushes.is_empty() {
        println!("  flushes of the block device for 1000 requests: {}", flushes.join(", "));
    }
    for (subject, reason) in &result.absent {
        println!("  {:<21}{reason}", subject.label());
    }
}

/// Prints the targets.
pub fn print_verdicts(verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    println!("\nTargets");
    for verdict in verdicts {
        let word = match verdict.met {
            Some(true) => "met   ",
            Some(false) => "MISSED",
            None => "      ",
        };
        println!("  {word} {:<88} {:<10} {}", verdict.what, verdict.target, verdict.measured);
    }
    let count = |met| verdicts.iter().filter(|verdict| verdict.met == Some(met)).count();
    println!("  {} of {} targets met", count(true), count(true) + count(false));
}

/// A row as JSON, every round included.
#[must_use]
pub fn row_json(result: &RowResult) -> Value {
    json!({
        "key": result.row.key,
        "title": result.row.title,
        "best_peer": result.best_peer().map(|cell| cell.subject.label()),
        "subjects": result.cells.iter().map(cell_json).collect::<Vec<_>>(),
        "absent": result.absent.iter()
            .map(|(subject, reason)| json!({"name": subject.label(), "reason": reason}))
            .collect::<Vec<_>>(),
    })
}

fn cell_json(cell: &Cell) -> Value {
    json!({
        "name": cell.subject.label(),
        "iops": cell.median(Outcome::iops),
        "megabytes_per_second": cell.median(Outcome::megabytes_per_second),
        "p50_us": cell.latency_us(0.5),
        "p99_us": cell.latency_us(0.99),
        "p999_us": cell.latency_us(0.999),
        "server_cpu_us_per_operation": cell.median(Outcome::cpu_us_per_operation),
        "flushes_per_thousand": cell.median_flushes(),
        "rounds": cell.outcomes.iter().map(|outcome| json!({
            "iops": outcome.iops(),
            "operations": outcome.operations,
            "seconds": outcome.elapsed.as_secs_f64(),
            "p50_us": outcome.latency.quantile_us(0.5),
            "p99_us": outcome.latency.quantile_us(0.99),
            "server_cpu_us_per_operation": outcome.cpu_us_per_operation(),
        })).collect::<Vec<_>>(),
    })
}
