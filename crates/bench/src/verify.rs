//! Catches a server that lies: every byte written is read back and compared, and an image is compared with what
//! its origin held at the take.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::backing::Bench;
use crate::bowline::SNAPSHOT;
use crate::load::{self, Access, Content, Target, Timing, Workload};
use crate::subject::{Held, Subject};
use crate::wire::Command;

/// Shapes of load that are verified: request size, depth, connections.
const SHAPES: [(u32, usize, usize); 4] = [(4096, 1, 1), (4096, 32, 1), (4096, 32, 4), (1 << 20, 4, 2)];
/// Depth 1 over a whole large device takes long and shows no more than a part of it does.
const SHALLOW_MAX: Duration = Duration::from_secs(2);

/// Writes a new generation in every shape, reads it back in another, compares all bytes.
pub fn plain(bench: &Bench, subject: Subject) -> Result<()> {
    let running = subject.start(bench)?;
    for (generation, shape) in (1..).zip(SHAPES) {
        let content = Content::Generation(generation);
        pass(&running.target, Command::Write, shape, content).context("writing")?;
        if shape.1 > 1 {
            for shape in [(4096, 32, 1), (128 << 10, 8, 4)] {
                pass(&running.target, Command::Read, shape, content)
                    .with_context(|| format!("reading back generation {generation} with {shape:?}"))?;
            }
        }
    }
    running.finish()
}

/// Overwrites a device under a held snapshot; its image must still have the old generation, every byte of it.
pub fn image(bench: &Bench, held: Held) -> Result<()> {
    bench.fill()?;
    let running = Subject::Bowline(held).start(bench)?;
    let image = Target { export: format!("{SNAPSHOT}/disk"), ..running.target.clone() };
    pass(&running.target, Command::Write, (4096, 32, 2), Content::Generation(9)).context("overwriting")?;
    pass(&running.target, Command::Read, (4096, 32, 1), Content::Generation(9)).context("the origin")?;
    pass(&image, Command::Read, (128 << 10, 8, 2), Content::Generation(0)).context("the image")?;
    running.finish()
}

fn pass(target: &Target, command: Command, shape: (u32, usize, usize), content: Content) -> Result<()> {
    let (request_bytes, depth, connections) = shape;
    let access = Access::RandomOnce;
    let workload = Workload { command, access, request_bytes, depth, connections, content };
    let mut timing = Timing::unlimited(u64::from(request_bytes) + connections as u64);
    if depth == 1 {
        timing.measured = SHALLOW_MAX;
    }
    let outcome = load::run(target, &workload, timing)?;
    ensure!(outcome.wrong == 0, "{} wrong bytes in {} requests", outcome.wrong, outcome.operations);
    Ok(())
}
