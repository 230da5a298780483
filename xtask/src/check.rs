//! `cargo xtask check`: everything that CI runs.
//!
//! All steps run, also after one failed; the summary tells which. The main tests run last, and their summary ends the
//! output. Steps share one target folder and one set of features, so that little is built twice.

use std::time::Instant;

use crate::process::{self, Outcome, cargo, find};
use crate::{fuzz, packages, tidy};

/// Packages whose tests run once more on the sync engine.
const SYNC_ENGINE_PACKAGES: &[&str] =
    &["bowline-io", "bowline-store", "bowline-filter", "bowline-export-nbd", "bowline-daemon", "bowline"];

/// Packages with tests under a randomised scheduler (feature `shuttle`).
const SHUTTLE_PACKAGES: &[&str] = &["bowline-device", "bowline-filter"];

/// Name of a step, and what runs it.
type Step = (&'static str, fn(&mut Vec<String>) -> Outcome);

/// The order is: what is quick to fail first, the tests' own summary last.
const STEPS: &[Step] = &[
    ("packages", |_| packages::install()),
    ("fmt", |_| cargo(&["fmt", "--all", "--check"]).run()),
    ("tidy", |_| tidy::run()),
    ("deny", |_| deny()),
    ("clippy", |_| clippy()),
    ("docs", |_| docs()),
    ("doctest", |_| cargo(&["test", "--quiet", "--workspace", "--doc"]).run()),
    ("sync", |_| sync_engine()),
    ("shuttle", |_| shuttle()),
    ("fuzz", |_| fuzz::smoke()),
    ("tests", tests),
];

/// Runs all steps or the named ones; false when one failed, which the summary has told then.
pub(crate) fn run(names: &[String]) -> Result<bool, String> {
    for name in names {
        if !STEPS.iter().any(|(step, _)| step == name) {
            let known: Vec<&str> = STEPS.iter().map(|(step, _)| *step).collect();
            return Err(format!("no step {name:?}; there are: {}", known.join(" ")));
        }
    }
    let started = Instant::now();
    let mut results = Vec::new();
    let mut last_lines = Vec::new();
    for (name, step) in
        STEPS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|chosen| chosen == name))
    {
        println!("\n==> {name}");
        let step_started = Instant::now();
        let outcome = step(&mut last_lines);
        if let Err(message) = &outcome {
            println!("{name} failed: {message}");
        }
        results.push((*name, step_started.elapsed().as_secs_f64(), outcome));
    }

    println!("\n==> summary");
    for (name, seconds, outcome) in &results {
        let word = outcome.as_ref().map_or_else(|message| format!("FAILED: {message}"), |()| "ok".to_owned());
        println!("{name:>10} {seconds:>8.1} s  {word}");
    }
    println!("{:>10} {:>8.1} s", "all", started.elapsed().as_secs_f64());
    let failed: Vec<&str> =
        results.iter().filter(|(_, _, outcome)| outcome.is_err()).map(|(name, _, _)| *name).collect();
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    for line in &last_lines {
        println!("{line}");
    }
    Ok(failed.is_empty())
}

fn clippy() -> Outcome {
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"])
        .run()
}

fn docs() -> Outcome {
    cargo(&["doc", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").run()
}

fn deny() -> Outcome {
    if find("cargo-deny").is_none() && !in_cargo_home("cargo-deny") {
        println!("skipped: cargo-deny is not installed");
        return Ok(());
    }
    // The advisory database needs a network beyond the package registries.
    cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]).run()
}

fn in_cargo_home(program: &str) -> bool {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let home = home.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    home.is_some_and(|home| home.join("bin").join(program).is_file())
}

fn has_nextest() -> bool {
    find("cargo-nextest").is_some() || in_cargo_home("cargo-nextest")
}

/// Nextest is told the packages by a filter, for then the same binaries run; plain cargo takes the packages.
fn sync_engine() -> Outcome {
    let step = if has_nextest() {
        let filters: Vec<String> =
            SYNC_ENGINE_PACKAGES.iter().map(|name| format!("package(={name})")).collect();
        let filter = filters.join(" | ");
        cargo(&["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests", "pass", "-E", &filter])
    } else {
        let packages = SYNC_ENGINE_PACKAGES.iter().flat_map(|name| ["-p", name]);
        cargo(&["test", "--quiet", "--no-fail-fast", "--tests"]).args(packages)
    };
    step.env("BOWLINE_ENGINE", "sync").env("BOWLINE_CI", ci_word()).run()
}

fn shuttle() -> Outcome {
    let one = |name: &&str| cargo(&["test", "--quiet", "-p", name, "--features", "shuttle", "--tests"]).run();
    SHUTTLE_PACKAGES.iter().map(one).fold(Ok(()), Outcome::and)
}

fn tests(last_lines: &mut Vec<String>) -> Outcome {
    let step = if has_nextest() {
        cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        println!("cargo-nextest is not installed: cargo test it is");
        cargo(&["test", "--workspace", "--no-fail-fast", "--tests"])
    };
    let (outcome, kept) = step.env("BOWLINE_CI", ci_word()).run_keeping(is_summary);
    last_lines.extend(summary(&kept));
    outcome
}

/// Tests read this: under CI a missing program is a failure, elsewhere a reason to skip.
fn ci_word() -> &'static str {
    if process::in_ci() { "1" } else { "" }
}

/// The lines by which a test runner sums up, and the failures that nextest lists after.
fn is_summary(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("test result:")
        || line.starts_with("Summary [")
        || ["FAIL [", "TIMEOUT ["].iter().any(|word| line.starts_with(word))
}

/// Nextest's summary as it is; plain cargo's many lines added up into one.
fn summary(kept: &[String]) -> Vec<String> {
    if let Some(start) = kept.iter().position(|line| line.trim_start().starts_with("Summary [")) {
        let (before, from) = kept.split_at(start);
        // The summary comes last: failures are listed before it here, after it there.
        let failures = if from.len() > 1 { from.get(1..).unwrap_or_default() } else { before };
        return failures.iter().chain(from.first()).cloned().collect();
    }
    let results: Vec<&String> = kept.iter().filter(|line| line.starts_with("test result:")).collect();
    if results.is_empty() {
        return vec!["test result: FAILED. No test ran".to_owned()];
    }
    let total = |word: &str| results.iter().filter_map(|line| count_before(line, word)).sum::<u64>();
    let (passed, failed, ignored) = (total(" passed"), total(" failed"), total(" ignored"));
    let word = if failed == 0 && results.iter().all(|line| line.contains(": ok.")) { "ok" } else { "FAILED" };
    vec![format!(
        "test result: {word}. {passed} passed; {failed} failed; {ignored} ignored, in {} programs",
        results.len()
    )]
}

fn count_before(line: &str, word: &str) -> Option<u64> {
    line.split(word).next()?.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod unit_tests;
