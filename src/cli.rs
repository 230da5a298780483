//! The command line: global options, exit codes, and one line for every error.

mod failure;
mod logging;
mod output;
mod paths;
mod table;
mod usage;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser};

pub(crate) use failure::{Failure, Result};
pub(crate) use logging::level as log_level;
pub(crate) use output::{Output, Screen};
pub(crate) use paths::absolute;
pub(crate) use table::Table;

use crate::cmd::Verb;

/// A layer between a Linux block device and whoever uses it: instant snapshots, changed blocks, exports.
#[derive(Debug, Parser)]
#[command(
    name = "bowline",
    version,
    subcommand_required = true,
    after_help = "Example:\n  bowline serve disk.img\n  bowline snapshot take disk.img\n\n\
                  Sizes are bytes, or K M G T (powers of 1024). Times are as 5s or 200ms."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Control socket of the daemon [default: $BOWLINE_SOCKET, else $XDG_RUNTIME_DIR/bowline/control.sock, else
    /// /run/bowline/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print one JSON document instead of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more to stderr; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Global {
    /// The control socket: the option, else the environment, else where the system keeps sockets.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| paths::default_socket(|name| std::env::var_os(name)))
    }

    /// The daemon of this command.
    pub(crate) fn client(&self) -> Result<bowline_client::Client> {
        Ok(bowline_client::Client::connect(self.socket())?)
    }
}

/// Runs one command line; returns the exit code: 0 success, 1 the operation failed, 2 wrong usage.
pub(crate) fn run(
    args: impl IntoIterator<Item = OsString>,
    screen: Screen,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error, &usage::verb(&Cli::command(), &args), out, err),
    };
    logging::start(log_level(matches!(cli.verb, Verb::Serve(_)), cli.global.verbose));
    let mut output = Output::new(out, cli.global.json, screen);
    let done = cli.verb.run(&cli.global, &mut output).and_then(|()| output.flush());
    match done {
        // Nobody reads on, as in `bowline changes disk | head`: nothing has failed.
        Ok(()) | Err(Failure::OutputClosed) => 0,
        Err(failure) => {
            let _ = writeln!(err, "bowline: {}", bowline_api::error::one_line(&failure.to_string()));
            failure.exit_code()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
