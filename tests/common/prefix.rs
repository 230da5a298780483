//! The checker of images (I2): what one writer did, in order, and whether an image is exactly some beginning of it.
//!
//! A writer has one request in flight at a time and its own part of the disk. So whatever the instant of a take, the
//! image of that part is what the first *n* of its writes made, for some *n* between the writes that were
//! acknowledged before the take began and those that were submitted before it ended.

use super::oracle::{Found, SECTOR, judge};

/// A write, in sectors of the disk. Its place in the log is its sequence, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) kind: OpKind,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    Write,
    /// Write-zeroes, or a discard that must read as zeroes.
    Zero,
}

/// All that one writer did to its part of the disk, which was zero before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) writer: u32,
    /// First sector of its part.
    pub(crate) first: u64,
    /// Sectors of its part.
    pub(crate) count: u64,
    pub(crate) ops: Vec<Op>,
}

impl Log {
    /// The `n` for which `disk` (the whole disk) holds what the first `n` ops made, `at_least <= n <= at_most`.
    pub(crate) fn prefix_of(&self, disk: &[u8], at_least: u64, at_most: u64) -> Result<u64, String> {
        let found = self.sequences(disk)?;
        let mut n = found.iter().copied().max().unwrap_or(0);
        if n > self.ops.len() as u64 {
            return Err(format!("writer {}: write {n} was never submitted", self.writer));
        }
        let mut expected = self.after(n);
        // Trailing zeroings leave no number of their own: each may or may not have been done.
        loop {
            if expected == found && n >= at_least {
                break;
            }
            match self.ops.get(usize::try_from(n).unwrap()) {
                Some(op) if op.kind == OpKind::Zero => {
                    n += 1;
                    self.apply(&mut expected, n);
                }
                _ if expected == found => {
                    return Err(format!(
                        "writer {}: holds {n} writes, {at_least} were acknowledged before",
                        self.writer
                    ));
                }
                _ => return Err(self.describe(&found)),
            }
        }
        if n > at_most {
            return Err(format!("writer {}: holds {n} writes, only {at_most} were submitted", self.writer));
        }
        Ok(n)
    }

    /// Whether `disk` holds all that was done.
    pub(crate) fn is_all_of(&self, disk: &[u8]) -> Result<(), String> {
        let all = self.ops.len() as u64;
        self.prefix_of(disk, all, all).map(drop)
    }

    /// Whether `disk` holds all that was acknowledged, after a writer was cut off: of a write that was under way, any part
    /// may be there.
    pub(crate) fn survives_in(&self, disk: &[u8], acknowledged: u64) -> Result<(), String> {
        let found = self.sequences(disk)?;
        let mut expected = self.after(acknowledged);
        for op in self.ops.iter().skip(usize::try_from(acknowledged).unwrap()) {
            let from = usize::try_from(op.first - self.first).unwrap();
            let cut = from..from + usize::try_from(op.count).unwrap();
            expected[cut.clone()].copy_from_slice(&found[cut]);
        }
        if expected == found { Ok(()) } else { Err(self.describe(&found)) }
    }

    /// The last write of each sector, as found.
    fn sequences(&self, disk: &[u8]) -> Result<Vec<u64>, String> {
        let from = usize::try_from(self.first).unwrap() * SECTOR;
        let part = &disk[from..from + usize::try_from(self.count).unwrap() * SECTOR];
        let mut found = Vec::with_capacity(usize::try_from(self.count).unwrap());
        for (number, sector) in (self.first..).zip(part.chunks(SECTOR)) {
            match judge(sector, number) {
                Ok(Found::Zero) => found.push(0),
                Ok(Found::Written(stamp)) if stamp.writer == self.writer => found.push(stamp.sequence),
                Ok(Found::Written(stamp)) => {
                    return Err(format!(
                        "sector {number} is writer {}'s, not {}'s",
                        stamp.writer, self.writer
                    ));
                }
                Err(damage) => return Err(format!("sector {number} is damaged: {damage:?}")),
            }
        }
        Ok(found)
    }

    fn after(&self, n: u64) -> Vec<u64> {
        let mut sequences = vec![0; usize::try_from(self.count).unwrap()];
        for sequence in 1..=n {
            self.apply(&mut sequences, sequence);
        }
        sequences
    }

    fn apply(&self, sequences: &mut [u64], sequence: u64) {
        let op = self.ops[usize::try_from(sequence - 1).unwrap()];
        let from = usize::try_from(op.first - self.first).unwrap();
        let value = if op.kind == OpKind::Write { sequence } else { 0 };
        sequences[from..from + usize::try_from(op.count).unwrap()].fill(value);
    }

    /// Says where the disk is not what any beginning of the log made.
    fn describe(&self, found: &[u64]) -> String {
        let newest = found.iter().copied().max().unwrap_or(0);
        let expected = self.after(newest);
        let differ = expected.iter().zip(found).filter(|(expected, found)| expected != found).count();
        let at = expected.iter().zip(found).position(|(expected, found)| expected != found).unwrap_or(0);
        format!(
            "writer {}: no beginning of its writes: the newest is {newest}, so sector {} should hold write {}, \
             but holds {} ({differ} such sectors)",
            self.writer,
            self.first + at as u64,
            expected[at],
            found[at],
        )
    }
}
