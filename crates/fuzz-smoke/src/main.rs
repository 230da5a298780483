//! Runs the fuzz targets for a short time with plain cargo: no nightly, no libfuzzer.
//!
//! Design notes: inputs are mutations of a small committed corpus (`fuzz/corpus`, shared with cargo-fuzz). There is no
//! coverage feedback, so this finds the shallow mistakes at once and leaves the deep ones to cargo-fuzz. Everything
//! follows from the seed, which is printed; the failing input is written to `fuzz/artifacts`.

mod golden;
mod mutate;
mod runner;
mod targets;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

const USAGE: &str =
    "usage: bowline-fuzz-smoke [TARGET] [--seconds N] [--seed N] | --write-corpus | FILE to replay";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bowline-fuzz-smoke: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The shared fuzz folder.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn run() -> Result<bool> {
    let mut seconds = 10;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut seed = u64::from(now.subsec_nanos()) ^ now.as_secs();
    let mut chosen = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok()).context(USAGE);
        match word.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = number()?,
            "--write-corpus" => return golden::write(&folder().join("corpus")).map(|()| true),
            _ if word.starts_with('-') => bail!(USAGE),
            _ => chosen = Some(word),
        }
    }
    if let Some(path) = chosen.as_deref().map(Path::new).filter(|path| path.is_file()) {
        return runner::replay(path).map(|()| true);
    }
    let targets =
        targets::all().iter().filter(|target| chosen.as_deref().is_none_or(|name| name == target.name));
    let targets: Vec<_> = targets.collect();
    if targets.is_empty() {
        let known: Vec<&str> = targets::all().iter().map(|target| target.name).collect();
        bail!("no such target; there are: {}", known.join(" "));
    }
    let mut good = true;
    for target in targets {
        good &= runner::fuzz(target, &folder(), seed, Duration::from_secs(seconds))?;
    }
    Ok(good)
}
