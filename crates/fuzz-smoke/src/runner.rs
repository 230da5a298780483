//! Runs one target until its time is over, or until an input makes it panic or hang.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::mutate::{Random, next_input};
use crate::targets::{self, FuzzTarget};

/// An input that takes longer hangs the parser.
const INPUT_MAX: Duration = Duration::from_secs(10);

/// Fuzzes a target; false when an input failed.
pub(crate) fn fuzz(target: &FuzzTarget, folder: &Path, seed: u64, time: Duration) -> Result<bool> {
    let corpus = read_corpus(&folder.join("corpus").join(target.name))?;
    let artifacts = folder.join("artifacts").join(target.name);
    let mut random = Random::new(seed);
    let deadline = Instant::now() + time;
    let (count, failed) = watched(target, &artifacts, |begin| {
        let mut count = 0_u64;
        let mut given = corpus.iter().cloned();
        while Instant::now() < deadline {
            let input = given.next().unwrap_or_else(|| next_input(&corpus, &mut random));
            begin(&input);
            count += 1;
            if catch_unwind(AssertUnwindSafe(|| (target.entry)(&input))).is_err() {
                return (count, Some(input));
            }
        }
        (count, None)
    });
    match failed {
        None => println!("{}: {count} inputs, seed {seed}", target.name),
        Some(input) => {
            let path = keep(&artifacts, &input)?;
            println!("{}: input {count} of seed {seed} failed; it is in {path}", target.name);
            return Ok(false);
        }
    }
    Ok(true)
}

/// Runs the target once on a kept input; its folder names the target.
pub(crate) fn replay(path: &Path) -> Result<()> {
    let name = path.parent().and_then(Path::file_name).unwrap_or_default();
    let target = targets::all().iter().find(|target| name == target.name);
    let target =
        target.with_context(|| format!("{}: its folder must be named after a target", path.display()))?;
    let input = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    (target.entry)(&input);
    println!("{}: {} passes", target.name, path.display());
    Ok(())
}

/// Runs `body`, which tells of each input before it is run, beside a watchdog that ends the process on a hang.
fn watched<T>(target: &FuzzTarget, artifacts: &Path, body: impl FnOnce(&dyn Fn(&[u8])) -> T) -> T {
    let current = Mutex::new(Vec::new());
    let started = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| {
            let mut seen = 0;
            let mut since = Instant::now();
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(200));
                let now_at = started.load(Ordering::Relaxed);
                if now_at != seen {
                    (seen, since) = (now_at, Instant::now());
                } else if since.elapsed() > INPUT_MAX {
                    let input = current.lock().unwrap_or_else(PoisonError::into_inner);
                    let kept = keep(artifacts, &input).unwrap_or_else(|error| format!("{error:#}"));
                    println!("{}: hangs on the input in {kept}", target.name);
                    std::process::exit(1);
                }
            }
        });
        let result = body(&|input: &[u8]| {
            let mut slot = current.lock().unwrap_or_else(PoisonError::into_inner);
            slot.clear();
            slot.extend_from_slice(input);
            started.fetch_add(1, Ordering::Relaxed);
        });
        done.store(true, Ordering::Relaxed);
        watchdog.thread().unpark();
        result
    })
}

fn read_corpus(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no corpus in {}", folder.display()))?;
    let mut paths: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    // The order decides what a seed means.
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).with_context(|| format!("cannot read {}", path.display())))
        .collect()
}

fn keep(artifacts: &Path, input: &[u8]) -> Result<String> {
    fs::create_dir_all(artifacts).context("cannot create the artifacts folder")?;
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = artifacts.join(format!("smoke-{hash:016x}"));
    fs::write(&path, input).context("cannot keep the failing input")?;
    let path = path.canonicalize().unwrap_or(path);
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails_on_magic(data: &[u8]) {
        assert!(!data.starts_with(b"BAD"), "planted");
    }

    fn corpus(folder: &Path, input: &[u8]) {
        let corpus = folder.join("corpus/planted");
        fs::create_dir_all(&corpus).unwrap();
        fs::write(corpus.join("one"), input).unwrap();
    }

    #[test]
    fn a_planted_failure_is_found_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        corpus(folder.path(), b"BAe and more");
        let target = FuzzTarget { name: "planted", entry: fails_on_magic };
        let found = fuzz(&target, folder.path(), 1, Duration::from_secs(30)).unwrap();
        assert!(!found);
        let kept = read_corpus(&folder.path().join("artifacts/planted")).unwrap();
        assert!(kept[0].starts_with(b"BAD"), "{kept:?}");
    }

    #[test]
    fn a_good_target_passes_and_a_missing_corpus_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        corpus(folder.path(), b"good");
        let target = FuzzTarget { name: "planted", entry: |_| {} };
        assert!(fuzz(&target, folder.path(), 1, Duration::from_millis(50)).unwrap());
        let target = FuzzTarget { name: "absent", entry: |_| {} };
        assert!(fuzz(&target, folder.path(), 1, Duration::from_millis(50)).is_err());
    }
}
