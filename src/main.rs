//! `bowline`: the daemon and the command line that drives it, in one binary.
//!
//! `cli` is what every verb shares: arguments, output, errors and exit codes. `cmd` has one file for each verb.

mod cli;
mod cmd;

use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr());
    ExitCode::from(cli::run(std::env::args_os(), cli::Screen::of_stdout(), &mut out, &mut err))
}
