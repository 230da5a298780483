//! One page of an answer, and what of it reads as zeroes.
//!
//! The semantics are those of CSI's `GetMetadataDelta`: the first extent ends after the offset asked for, extents ascend
//! and do not overlap, across pages too, and only the end of the list proves that it is complete. A page never begins
//! before the block of its offset: what has changed since the page before it was told cannot be told twice.

use std::sync::Arc;

use bowline_api::{ApiError, ChangesQuery, ErrorKind, Extent};
use bowline_block::{ByteRange, ExtentKind, Store};
use bowline_device::Device;

use crate::daemon::Daemon;
use crate::error::{failed, failed_io};

/// Extents asked of a store at once.
const EXTENTS_AT_ONCE: usize = 4096;

/// The extents of one page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) extents: Vec<Extent>,
    pub(super) next: Option<u64>,
}

/// Puts together a page from ranges that ascend.
pub(super) struct Pager {
    begin: u64,
    max: usize,
    page: Page,
}

impl Pager {
    /// # Errors
    /// The offset is beyond the device.
    pub(super) fn new(query: &ChangesQuery, size: u64, granularity: u64) -> Result<Self, ApiError> {
        if query.offset > size {
            let what = format!("changes of {}", query.device);
            let why = format!("offset {} is beyond its size of {size} bytes", query.offset);
            return Err(ApiError::new(ErrorKind::OutOfRange, what, why, "begin within the device"));
        }
        let begin = if query.offset == size { size } else { query.offset / granularity * granularity };
        Ok(Self { begin, max: query.max_results.max(1), page: Page::default() })
    }

    /// Where the page begins.
    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    /// Adds a range; `false` once the page is full.
    pub(super) fn push(&mut self, range: ByteRange) -> bool {
        let start = range.start().max(self.begin);
        if start >= range.end() {
            return true;
        }
        let length = range.end() - start;
        let full = self.page.extents.len() == self.max;
        match self.page.extents.last_mut() {
            Some(last) if last.offset + last.length >= start => {
                last.length = last.length.max(range.end() - last.offset);
            }
            Some(last) if full => {
                self.page.next = Some(last.offset + last.length);
                return false;
            }
            _ => self.page.extents.push(Extent { offset: start, length }),
        }
        true
    }

    pub(super) fn finish(self) -> Page {
        self.page
    }
}

impl Daemon {
    /// Those parts of the extents that `device` knows to read as zeroes.
    pub(super) fn zeroes_of(
        &self,
        device: &Arc<Device>,
        extents: &[Extent],
        what: &str,
    ) -> Result<Vec<Extent>, ApiError> {
        let ranges: Vec<_> =
            extents.iter().map(|extent| ByteRange::new(extent.offset, extent.length)).collect();
        let device = device.clone();
        self.on_queue(what, move || async move {
            let mut zeroes = Vec::new();
            for range in ranges {
                each_extent(&device, range, |range, kind| {
                    if kind.reads_zero() {
                        zeroes.push(range);
                    }
                    true
                })
                .await?;
            }
            Ok(merged(zeroes))
        })
    }

    /// Fills a page with what a device holds.
    pub(super) fn page_of_data(
        &self,
        device: &Arc<Device>,
        mut pager: Pager,
        what: &str,
    ) -> Result<Page, ApiError> {
        let device = device.clone();
        self.on_queue(what, move || async move {
            let whole = ByteRange::between(pager.begin(), device.geometry().size);
            each_extent(&device, whole, |range, kind| kind.reads_zero() || pager.push(range)).await?;
            Ok(pager.finish())
        })
    }

    fn on_queue<T: Send + 'static, F: Future<Output = bowline_block::Result<T>> + 'static>(
        &self,
        what: &str,
        task: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, ApiError> {
        let queue = self.queues.nth(0).ok_or_else(|| failed_io(what, std::io::Error::other("no queue")))?;
        queue.run(task).map_err(|error| failed_io(what, error))?.map_err(|error| failed(what, &error))
    }
}

/// Calls `each` with what the device knows of the range, until that says `false`. It is asked in pieces, so that its gate
/// is never kept for long.
async fn each_extent(
    device: &Arc<Device>,
    range: ByteRange,
    mut each: impl FnMut(ByteRange, ExtentKind) -> bool,
) -> bowline_block::Result<()> {
    let mut at = range.start();
    while at < range.end() {
        let found = device.extents(ByteRange::between(at, range.end()), EXTENTS_AT_ONCE).await?;
        let Some(last) = found.as_slice().last() else { break };
        at = last.range.end();
        for one in found.as_slice() {
            if !each(one.range, one.kind) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Ranges that ascend, as extents of which no two touch.
fn merged(ranges: Vec<ByteRange>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match extents.last_mut() {
            Some(last) if last.offset + last.length == range.start() => last.length += range.len(),
            _ => extents.push(Extent { offset: range.start(), length: range.len() }),
        }
    }
    extents
}

/// Takes ranges out of extents. Both ascend.
pub(super) fn leave_out(extents: &mut Vec<Extent>, ranges: &[ByteRange]) {
    if ranges.is_empty() {
        return;
    }
    let mut left = Vec::new();
    for extent in extents.drain(..) {
        let mut rest = ByteRange::new(extent.offset, extent.length);
        let from = ranges.partition_point(|range| range.end() <= rest.start());
        for range in
            ranges.iter().skip(from).take_while(|range| range.start() < extent.offset + extent.length)
        {
            let (before, behind) = rest.split_at(range.start());
            left.push(before);
            rest = behind.split_at(range.end()).1;
        }
        left.push(rest);
    }
    *extents = merged(left);
}

#[cfg(test)]
mod tests;
