//! `bowline tour`: the main job from end to end, on a disk it makes itself.

use clap::Args;

use crate::cli::{Output, Result};
use crate::tour;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bowline tour\n  bowline tour --patterned\n\n\
                        It runs a daemon of its own in a temporary folder and leaves nothing behind. It needs no root, \
                        and some 500M of space for a few seconds.")]
pub(crate) struct TourArgs {
    /// Use a disk without a file system, which needs no mke2fs and has nothing for fsck to check
    #[arg(long)]
    patterned: bool,
}

impl TourArgs {
    pub(crate) fn run(self, output: &mut Output<'_>) -> Result<()> {
        tour::run(self.patterned, output)
    }
}
