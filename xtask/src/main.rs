//! `cargo xtask`: the project's command runner.
//!
//! Design notes: `check` is everything that CI runs and the second command of the README; there is no other list of
//! checks. The runner uses the standard library only, so that it is there in a moment.

mod check;
mod fuzz;
mod packages;
mod process;
mod tidy;

use std::process::ExitCode;

use process::Outcome;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  check [STEP]...                 all checks, or only these: packages fmt tidy deny clippy docs doctest
                                  sync shuttle fuzz tests
  bench [OPTION]...               benchmark table, ours beside the peers (--quick, --help)
  fuzz [TARGET] [--seconds N]     fuzz one target or all, 60 s each by default
  run                             the tour: the main job on real input
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match command {
        "check" => match check::run(rest) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(message) => Err(message),
        },
        "bench" => bench(rest),
        "fuzz" => fuzz::run(rest),
        "run" => process::cargo(&["run", "--release", "--", "tour"]).args(rest).run(),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        unknown => Err(format!("no command {unknown:?}\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Builds ours and the benchmark programs in release, and runs the one that runs the others.
fn bench(arguments: &[String]) -> Outcome {
    process::cargo(&["build", "--release", "-p", "bowline", "-p", "bowline-bench"]).run()?;
    // In a build of its own: what its tests need must not come into ours.
    process::cargo(&["build", "--release", "-p", "bowline-filter", "--example", "changes_speed"]).run()?;
    let program = process::built("release", "bowline-bench")?;
    process::Step::new(&program).args(arguments).run()
}
