//! `cargo xtask fuzz`: libfuzzer where it is installed, our own seeded mutation runner everywhere else.

use crate::process::{self, Outcome, Step, cargo, find};

/// Seconds per target in `check`.
const SMOKE_SECONDS: &str = "4";
const DEFAULT_SECONDS: u64 = 60;

/// The short run in `check`: all targets, own runner, new seed each time (it is printed).
pub(crate) fn smoke() -> Outcome {
    own_runner(&["--seconds", SMOKE_SECONDS])
}

/// Fuzzes one target or all.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let (target, seconds) = parse(arguments)?;
    let seconds = seconds.to_string();
    if has_libfuzzer() {
        // The toolchain is chosen by rustup's own `cargo`, not by the one that runs us.
        let listed = Step::new("cargo").args(["+nightly", "fuzz", "list"]).output()?;
        let targets: Vec<&str> =
            listed.lines().filter(|name| target.is_none_or(|chosen| chosen == *name)).collect();
        if targets.is_empty() {
            return Err(format!("no such target; there are: {}", listed.trim().replace('\n', " ")));
        }
        let limit = format!("-max_total_time={seconds}");
        let one = |name: &str| Step::new("cargo").args(["+nightly", "fuzz", "run", name, "--", &limit]).run();
        return targets.into_iter().map(one).fold(Ok(()), Outcome::and);
    }
    println!("cargo-fuzz or a nightly toolchain is missing: the seeded runner takes its place");
    let options = ["--seconds", seconds.as_str()];
    own_runner(&options.into_iter().chain(target).collect::<Vec<_>>())
}

fn parse(arguments: &[String]) -> Result<(Option<&str>, u64), String> {
    let mut target = None;
    let mut seconds = DEFAULT_SECONDS;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--seconds" {
            let value = words.next().ok_or("--seconds needs a number")?;
            seconds = value.parse().map_err(|_| format!("--seconds {value}: not a number"))?;
        } else if word.starts_with('-') || target.is_some() {
            return Err(format!("unknown argument {word:?}; usage: cargo xtask fuzz [TARGET] [--seconds N]"));
        } else {
            target = Some(word.as_str());
        }
    }
    Ok((target, seconds))
}

fn has_libfuzzer() -> bool {
    let installed = find("cargo-fuzz").is_some();
    installed && Step::new("rustup").args(["run", "nightly", "rustc", "--version"]).output().is_ok()
}

/// Builds with the features of the whole workspace, so that nothing is built anew.
fn own_runner(arguments: &[&str]) -> Outcome {
    cargo(&["build", "--quiet", "--workspace", "--bin", "bowline-fuzz-smoke"]).run()?;
    Step::new(process::built("debug", "bowline-fuzz-smoke")?).args(arguments).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments() {
        assert_eq!(parse(&[]).unwrap(), (None, DEFAULT_SECONDS));
        assert_eq!(parse(&words("uri --seconds 5")).unwrap(), (Some("uri"), 5));
        assert!(parse(&words("--seconds")).is_err());
        assert!(parse(&words("--seconds five")).is_err());
        assert!(parse(&words("uri api")).is_err());
    }
}
