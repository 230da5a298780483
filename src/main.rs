//! `bowline`: the daemon and the command line that drives it, in one binary.
//!
//! `cli` is what every verb shares: arguments, output, errors and exit codes. `cmd` has one file for each verb. `tour`
//! shows the main job from end to end.

#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

mod cli;
mod cmd;
mod tour;

use std::io::BufWriter;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Not locked: the daemon prints from its own threads.
    let (mut out, mut err) = (BufWriter::new(std::io::stdout()), std::io::stderr());
    ExitCode::from(cli::run(std::env::args_os(), cli::Screen::of_stdout(), &mut out, &mut err))
}
