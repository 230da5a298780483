//! Changes for people, and as lines for scripts.

use bowline_api::units::ByteSize;
use bowline_api::{Changes, Extent};

use super::summary;
use super::walk::{Sink, Totals};
use crate::cli::{Output, Result};

/// A table and a line that sums up.
pub(super) struct People<'a, 'b> {
    output: &'a mut Output<'b>,
    width: usize,
    any: bool,
}

impl<'a, 'b> People<'a, 'b> {
    pub(super) fn new(output: &'a mut Output<'b>) -> Self {
        People { output, width: 0, any: false }
    }

    /// Columns are as wide as the device has digits: all the rows are not known yet when the first is printed.
    fn row(&mut self, offset: &str, length: &str, size: &str) -> Result<()> {
        let width = self.width;
        self.output.line(format_args!("{offset:>width$}  {length:>width$}  {size:>6}"))
    }
}

impl Sink for People<'_, '_> {
    fn begin(&mut self, head: &Changes) -> Result<()> {
        self.width = head.size.to_string().len().max("OFFSET".len());
        Ok(())
    }

    fn extent(&mut self, extent: Extent) -> Result<()> {
        if !self.any {
            self.row("OFFSET", "LENGTH", "SIZE")?;
            self.any = true;
        }
        let Extent { offset, length } = extent;
        self.row(&offset.to_string(), &length.to_string(), &ByteSize(length).human())
    }

    fn end(&mut self, head: &Changes, totals: &Totals) -> Result<()> {
        self.output.line(summary(head, totals))
    }
}

/// Only the line that sums up.
pub(super) struct Summary<'a, 'b>(pub(super) &'a mut Output<'b>);

impl Sink for Summary<'_, '_> {
    fn begin(&mut self, _: &Changes) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, head: &Changes, totals: &Totals) -> Result<()> {
        self.0.line(summary(head, totals))
    }
}

/// `OFFSET LENGTH`, one a line.
pub(super) struct Lines<'a, 'b>(&'a mut Output<'b>);

impl<'a, 'b> Lines<'a, 'b> {
    pub(super) fn new(output: &'a mut Output<'b>) -> Self {
        Lines(output)
    }
}

impl Sink for Lines<'_, '_> {
    fn begin(&mut self, _: &Changes) -> Result<()> {
        Ok(())
    }

    fn extent(&mut self, extent: Extent) -> Result<()> {
        self.0.line(format_args!("{} {}", extent.offset, extent.length))
    }

    fn end(&mut self, _: &Changes, _: &Totals) -> Result<()> {
        Ok(())
    }
}
