//! Writing a journal anew, without what does not count any more.

use std::sync::Arc;

use bowline_block::{Error, ErrorKind, Result};
use bowline_state::{Folder, StateFile};

use super::index::Index;
use super::log::{FrameBuilder, read_header, scan};
use super::record::Record;

/// A journal that is ready to take over, but for what was added meanwhile. Synced, but not its name.
pub(super) struct Compacted {
    pub(super) file: Arc<dyn StateFile>,
    pub(super) name: String,
    pub(super) end: u64,
}

/// Frames of records, counted and perhaps written.
struct Frames<'a> {
    builder: FrameBuilder,
    generation: uuid::Uuid,
    count: u64,
    /// Where to, and the number of the first.
    to: Option<(&'a dyn StateFile, u64)>,
    at: u64,
    result: Result<()>,
}

impl Frames<'_> {
    fn push(&mut self, record: &Record) {
        if !self.builder.push(record) {
            self.flush();
            self.builder.push(record);
        }
    }

    fn flush(&mut self) {
        if self.builder.is_empty() || self.result.is_err() {
            return;
        }
        let sequence = self.to.map_or(0, |(_, first)| first.saturating_add(self.count));
        let bytes = self.builder.finish(self.generation, sequence);
        self.count += 1;
        if let Some((file, _)) = self.to {
            self.result = file.write_at(self.at, &bytes);
            self.at += bytes.len() as u64;
        }
    }
}

/// Writes `name` anew up to byte `until`, where the frame of that number would begin.
pub(super) fn compact(
    folder: &dyn Folder,
    name: &str,
    file: &dyn StateFile,
    until: u64,
    sequence: u64,
) -> Result<Compacted> {
    let (header, _) = read_header(file)?;
    let mut index = Index::new(&header);
    let read = scan(file, Some(until), |record| index.add(record))?;
    if (read.end, read.next_sequence) != (until, sequence) {
        return Err(corrupt(format!("it ends at {} instead of {until}", read.end)));
    }
    let new = format!("{name}.new");
    let to = folder.create(&new)?;
    let head = header.encode();
    to.write_at(0, &head)?;
    let frames = |to, at| Frames {
        builder: FrameBuilder::default(),
        generation: header.generation,
        count: 0,
        to,
        at,
        result: Ok(()),
    };
    // Counted first: the last one's number must be the one before `sequence`.
    let mut counted = frames(None, 0);
    index.compact(|record| counted.push(&record)).map_err(corrupt)?;
    counted.flush();
    let first = sequence.saturating_sub(counted.count);
    let mut written = frames(Some((&*to, first)), head.len() as u64);
    index.compact(|record| written.push(&record)).map_err(corrupt)?;
    written.flush();
    written.result?;
    let end = written.at;
    to.sync()?;
    Ok(Compacted { file: to, name: new, end })
}

fn corrupt(why: String) -> Error {
    Error::new(ErrorKind::Corrupt, why)
}
