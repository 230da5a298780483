//! Where a file has data and where it has holes.

use bowline_block::{ByteRange, Error, ErrorKind, ExtentKind, ExtentList, Result};
use bowline_io::File;
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;

use super::FileStore;

impl FileStore {
    /// Bytes that its contents really take, holes left out; 0 where that cannot be told.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        // The kernel counts in units of 512 bytes, whatever the file system's blocks are.
        fstat(&self.file).map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }
}

/// Walks the file's own map (`SEEK_DATA`, `SEEK_HOLE`). The file's position is used by nobody, so moving it does no
/// harm, from however many threads.
pub(super) fn find(file: &File, range: ByteRange, found: &mut ExtentList) -> Result<()> {
    let mut at = range.start();
    while at < range.end() {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.clamp(at, range.end()),
            // No more data up to the end of the file.
            Err(Errno::NXIO) => {
                check_end(file, range)?;
                range.end()
            }
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                return unknown(ByteRange::between(at, range.end()), found);
            }
            Err(error) => return Err(Error::from_io("cannot find data", error.into())),
        };
        if data > at {
            if !found.push(ByteRange::between(at, data), ExtentKind::Hole) {
                return Ok(());
            }
            at = data;
            continue;
        }
        let hole = match seek(file, SeekFrom::Hole(at)) {
            Ok(hole) => hole.clamp(at, range.end()),
            // The data was taken away between the two calls.
            Err(Errno::NXIO) => {
                check_end(file, range)?;
                range.end()
            }
            Err(error) => return Err(Error::from_io("cannot find holes", error.into())),
        };
        // A hole that begins here was made between the two calls; data is a safe answer for the rest of the block.
        let end = if hole == at { (at / 4096 + 1).saturating_mul(4096).min(range.end()) } else { hole };
        if !found.push(ByteRange::between(at, end), ExtentKind::Data) {
            return Ok(());
        }
        at = end;
    }
    Ok(())
}

/// Refuses to call a hole what lies beyond the end of a file that was made shorter: reading it is an error too.
fn check_end(file: &File, range: ByteRange) -> Result<()> {
    let size = super::open::end_of(file).map_err(|error| Error::from_io("cannot tell the size", error))?;
    if size >= range.end() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Io, format!("the file ends at {size}: it was made shorter while in use")))
}

/// The answer of a file that cannot tell.
pub(super) fn unknown(range: ByteRange, found: &mut ExtentList) -> Result<()> {
    found.push(range, ExtentKind::Data);
    Ok(())
}
