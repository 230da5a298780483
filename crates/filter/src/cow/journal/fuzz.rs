//! Any bytes as a journal (I8): no panic, no memory beyond what the bytes can account for, and what is said anew is read
//! as the same.

use std::sync::{Mutex, PoisonError};

use bowline_block::Result;
use bowline_state::StateFile;

use super::index::Index;
use super::log::{FrameBuilder, scan};

struct Bytes(Mutex<Vec<u8>>);

impl Bytes {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StateFile for Bytes {
    fn len(&self) -> Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<usize> {
        self.with(|bytes| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let there = bytes.get(from..).unwrap_or_default();
            let len = there.len().min(data.len());
            data.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
            Ok(len)
        })
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn read(bytes: Vec<u8>) -> Option<(super::Header, Index)> {
    let file = Bytes(Mutex::new(bytes));
    let mut records = Vec::new();
    let read = scan(&file, None, |record| {
        records.push(record);
        Ok(())
    });
    let header = read.ok()?.header;
    let mut index = Index::new(&header);
    records.into_iter().try_for_each(|record| index.add(record)).ok()?;
    Some((header, index))
}

/// Bytes with checksums put right, so that mutations get behind them.
fn repaired(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    super::log::repair(&mut bytes);
    bytes
}

/// The entry.
#[allow(clippy::panic)]
pub fn snapshot_journal(data: &[u8]) {
    for bytes in [data.to_vec(), repaired(data)] {
        let Some((header, index)) = read(bytes) else { continue };
        let Ok(holdings) = index.resolve() else { continue };
        let (mut frame, mut again) = (FrameBuilder::default(), header.encode());
        let mut sequence = 1;
        let compacted = index.compact(|record| {
            if !frame.push(&record) {
                again.extend(frame.finish(header.generation, sequence));
                sequence += 1;
                frame.push(&record);
            }
        });
        assert!(compacted.is_ok(), "what was resolved can be said anew");
        again.extend(frame.finish(header.generation, sequence));
        let Some((same, said)) = read(again) else { panic!("what is written is read") };
        assert!(same == header, "the header is the same");
        assert!(said.resolve().as_ref() == Ok(&holdings), "said anew, it is the same");
    }
}
