//! What the tour tells: one line for each step, and on a terminal what is under way.

use std::fmt::Display;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::{Output, Result};

/// One step that was done.
#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    seconds: f64,
    text: String,
}

/// All that was done, as JSON.
#[derive(Debug, Serialize)]
struct Document<'a> {
    steps: &'a [Step],
    seconds: f64,
}

/// The steps so far, told as they are done.
pub(super) struct Report<'a, 'o> {
    output: &'a mut Output<'o>,
    steps: Vec<Step>,
    began: Instant,
    step_began: Instant,
}

impl<'a, 'o> Report<'a, 'o> {
    pub(super) fn new(output: &'a mut Output<'o>) -> Self {
        let now = Instant::now();
        Report { output, steps: Vec::new(), began: now, step_began: now }
    }

    /// Tells that a step is done, which began when the last one ended.
    pub(super) fn step(&mut self, name: &'static str, text: impl Display) -> Result<()> {
        let seconds = self.step_began.elapsed().as_secs_f64();
        self.step_began = Instant::now();
        let text = text.to_string();
        if !self.output.is_json() {
            self.output.line(format_args!("{name:<9} {seconds:>5.2} s  {text}"))?;
            self.output.flush()?;
        }
        self.steps.push(Step { name, seconds, text });
        Ok(())
    }

    /// Tells people more about the last step.
    pub(super) fn for_people(&mut self, tell: impl FnOnce(&mut Output<'o>) -> Result<()>) -> Result<()> {
        if self.output.is_json() {
            return Ok(());
        }
        tell(self.output)?;
        self.output.flush()
    }

    /// Tells that all is done.
    pub(super) fn end(&mut self, text: impl FnOnce(Duration) -> String) -> Result<()> {
        let took = self.began.elapsed();
        if self.output.is_json() {
            return self.output.document(&Document { steps: &self.steps, seconds: took.as_secs_f64() });
        }
        self.output.line(text(took))
    }
}

/// A bar over `length` bytes, seen on a terminal only and gone when dropped.
pub(super) fn byte_bar(what: &'static str, length: u64) -> Bar {
    bar(what, length, "{prefix:<9} {bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}")
}

/// A bar over some time in milliseconds, with a message.
pub(super) fn time_bar(what: &'static str, length: u64) -> Bar {
    bar(what, length, "{prefix:<9} {bar:40} {msg}")
}

fn bar(what: &'static str, length: u64, template: &str) -> Bar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    Bar(ProgressBar::new(length).with_style(style).with_prefix(what))
}

/// A progress bar on stderr.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn at(&self, position: u64) {
        self.0.set_position(position);
    }

    pub(super) fn message(&self, message: String) {
        self.0.set_message(message);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
