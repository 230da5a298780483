//! `bowline completions`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::{Cli, Output, Result};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bowline completions bash > /etc/bash_completion.d/bowline")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self, output: &mut Output<'_>) -> Result<()> {
        // Into memory first: clap_complete panics on a pipe that is closed early.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "bowline", &mut script);
        output.line(String::from_utf8_lossy(&script).trim_end())
    }
}
