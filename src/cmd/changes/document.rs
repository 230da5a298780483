//! Changes as one JSON document, written as it comes in.
//!
//! A document has two lists, and both become known side by side: the second waits in a temporary file once it is long.

use std::io::{Read as _, Seek as _, Write as _};

use bowline_api::{Changes, Extent};
use serde_json::json;
use tempfile::SpooledTempFile;

use super::walk::{Sink, Totals};
use crate::cli::{Failure, Output, Result};

/// Bytes of the second list that are kept in memory.
const SPOOL_BYTES: usize = 4 << 20;

/// The document.
pub(super) struct Document<'a, 'b> {
    output: &'a mut Output<'b>,
    extents: u64,
    zeroes: u64,
    waiting: SpooledTempFile,
}

impl<'a, 'b> Document<'a, 'b> {
    pub(super) fn new(output: &'a mut Output<'b>) -> Self {
        Document { output, extents: 0, zeroes: 0, waiting: SpooledTempFile::new(SPOOL_BYTES) }
    }
}

fn element(number: u64, extent: Extent) -> String {
    let comma = if number == 0 { "\n" } else { ",\n" };
    format!("{comma}    {{ \"offset\": {}, \"length\": {} }}", extent.offset, extent.length)
}

fn spooled(error: &std::io::Error) -> Failure {
    Failure::Failed(format!(
        "write the output: a temporary file failed ({error}): make room in the temporary folder"
    ))
}

impl Sink for Document<'_, '_> {
    fn begin(&mut self, head: &Changes) -> Result<()> {
        let fields = [
            ("device", json!(head.device)),
            ("size", json!(head.size)),
            ("granularity", json!(head.granularity)),
            ("generation", json!(head.generation)),
            ("since", json!(head.since)),
            ("since_epoch", json!(head.since_epoch)),
            ("until", json!(head.until)),
            ("until_epoch", json!(head.until_epoch)),
        ];
        self.output.piece("{\n")?;
        for (name, value) in fields {
            self.output.piece(format_args!("  \"{name}\": {value},\n"))?;
        }
        self.output.piece("  \"extents\": [")
    }

    fn extent(&mut self, extent: Extent) -> Result<()> {
        self.output.piece(element(self.extents, extent))?;
        self.extents += 1;
        Ok(())
    }

    fn zero(&mut self, extent: Extent) -> Result<()> {
        self.waiting.write_all(element(self.zeroes, extent).as_bytes()).map_err(|error| spooled(&error))?;
        self.zeroes += 1;
        Ok(())
    }

    fn end(&mut self, _: &Changes, totals: &Totals) -> Result<()> {
        let end = |count| if count == 0 { "]" } else { "\n  ]" };
        self.output.piece(format_args!("{},\n  \"zeroes\": [", end(self.extents)))?;
        self.waiting.rewind().map_err(|error| spooled(&error))?;
        let mut part = vec![0; 64 << 10];
        loop {
            let length = self.waiting.read(&mut part).map_err(|error| spooled(&error))?;
            match part.get(..length) {
                Some([]) | None => break,
                Some(read) => self.output.bytes(read)?,
            }
        }
        self.output.line(format_args!(
            "{},\n  \"bytes\": {},\n  \"next\": null\n}}",
            end(self.zeroes),
            totals.bytes
        ))
    }
}
