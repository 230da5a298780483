//! Where the journal is: neither ext4 nor an xfs without reverse mapping tells it, and it is what changes most. Read from
//! the super-block, whose bytes are untrusted: a place that makes no sense is none.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bowline_block::{ByteRange, Error, Result};

use crate::within::within;

/// How long the device may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Everything up to the end of ext4's super-block.
const HEAD_BYTES: usize = 2048;

/// The places of an internal journal, in bytes of the device.
pub(super) fn places(device: &Path, fs_type: &str) -> Result<Vec<ByteRange>> {
    let path = device.to_owned();
    let head = within(LIMIT, &format!("reading the super-block of {}", device.display()), move || {
        let mut head = vec![0; HEAD_BYTES];
        let failed = |error| Error::from_io(format!("cannot read {}", path.display()), error);
        File::open(&path).and_then(|file| file.read_exact_at(&mut head, 0)).map_err(failed)?;
        Ok(head)
    })?;
    Ok(if fs_type == "xfs" { xfs(&head).into_iter().collect() } else { ext4(&head) })
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..)?.first_chunk().copied()
}

fn le32(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(u32::from_le_bytes)
}

fn le16(head: &[u8], at: usize) -> Option<u16> {
    bytes(head, at).map(u16::from_le_bytes)
}

fn be32(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(|bytes| u32::from_be_bytes(bytes).into())
}

/// ext4 keeps a copy of the journal inode's block map in its super-block: a header and up to four extents.
fn ext4(head: &[u8]) -> Vec<ByteRange> {
    const SUPER: usize = 1024;
    const MAP: usize = SUPER + 0x10c;
    let found = || {
        let is_there = le16(head, SUPER + 0x38)? == 0xef53
            && le32(head, SUPER + 0x5c)? & 0x4 != 0
            && head.get(SUPER + 0xfd) == Some(&1);
        let block = 1024_u64.checked_shl(le32(head, SUPER + 0x18)?).filter(|block| *block <= 65536)?;
        // A tree of more than one level has its extents elsewhere.
        let is_flat = le16(head, MAP)? == 0xf30a && le16(head, MAP + 6)? == 0;
        let count = usize::from(le16(head, MAP + 2)?.min(4));
        (is_there && is_flat && block > 0).then_some((block, count))
    };
    let Some((block, count)) = found() else { return Vec::new() };
    let extent = |index: usize| {
        let at = MAP + 12 * (index + 1);
        let length = u64::from(le16(head, at + 4)?);
        let start = (u64::from(le16(head, at + 6)?) << 32) | u64::from(le32(head, at + 8)?);
        // More than 32768 means unwritten.
        let length = if length > 32768 { length - 32768 } else { length };
        ByteRange::checked(start.checked_mul(block)?, length.checked_mul(block)?)
    };
    (0..count).filter_map(extent).collect()
}

/// xfs tells the first block of its log and how many there are.
fn xfs(head: &[u8]) -> Option<ByteRange> {
    let block = be32(head, 4).filter(|block| (512..=65536).contains(block))?;
    let start = u64::from_be_bytes(bytes(head, 48)?);
    let group_blocks = be32(head, 84)?;
    let length = be32(head, 96)?;
    let group_bits = head.get(124).copied().filter(|bits| *bits < 32)?;
    if head.get(..4)? != b"XFSB" || start == 0 {
        // Without a start it is on another device.
        return None;
    }
    let (group, within_group) = (start >> group_bits, start & ((1 << group_bits) - 1));
    let first = group.checked_mul(group_blocks)?.checked_add(within_group)?;
    ByteRange::checked(first.checked_mul(block)?, length.checked_mul(block)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_super_block_is_taken(
            mut head in prop::collection::vec(any::<u8>(), HEAD_BYTES),
            shift in 0_u8..40,
        ) {
            head[..4].copy_from_slice(b"XFSB");
            let _ = xfs(&head);
            head[1024 + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
            head[1024 + 0x5c] |= 4;
            head[1024 + 0xfd] = 1;
            head[1024 + 0x18..][..4].copy_from_slice(&[shift, 0, 0, 0]);
            head[1024 + 0x10c..][..2].copy_from_slice(&0xf30a_u16.to_le_bytes());
            head[1024 + 0x112..][..2].copy_from_slice(&[0, 0]);
            prop_assert!(ext4(&head).len() <= 4);
            let _ = (ext4(&head[..1300]), xfs(&head[..100]));
        }
    }
}
