//! A regular file, a block device, or unnamed memory.
//!
//! What the page cache holds is read and written on the spot; only what would wait for a disk goes to the engine of
//! the queue. Which calls may be made on the spot is found out when the file is opened: see [`inline::Inline`].

mod discard;
mod extents;
mod flush;
mod inline;
mod open;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bowline_block::{
    BlockSize, Buf, ByteRange, Capabilities, Done, Error, ErrorKind, ExtentList, Flags, Geometry, Io,
    IoFuture, Loss, Now, Op, Result, Store,
};
use bowline_io::{File, FileOp, submit};

use flush::Flusher;
use inline::Inline;

/// Zeroes are written in pieces of this size where the file cannot make them itself.
const ZERO_PIECE_BYTES: usize = 256 << 10;

/// Whether the page cache is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Past the page cache (`O_DIRECT`).
    Direct,
    /// Through the page cache.
    Buffered,
}

/// How a file is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOptions {
    /// No change is let through; the file need not be writable.
    pub read_only: bool,
    /// The logical block size; `None` is 512, or what the block device has.
    pub block_size: Option<BlockSize>,
    /// `None` is direct for block devices and buffered for files.
    pub cache: Option<CacheMode>,
    /// The size to create a missing file with.
    pub create_size: Option<u64>,
}

/// A store that was opened, and what is worth telling about it.
pub struct Opened {
    /// The store.
    pub store: FileStore,
    /// What was asked for and could not be had, in one sentence.
    pub notice: Option<String>,
}

/// What kind of thing holds the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Regular,
    BlockDevice,
    Memory,
}

/// A store over an open file.
pub struct FileStore {
    file: Arc<File>,
    path: PathBuf,
    kind: Kind,
    size: AtomicU64,
    block_size: BlockSize,
    read_only: bool,
    cache: CacheMode,
    inline: Inline,
    flusher: Flusher,
    /// Where the file was seen to end before its size, since that was last asked for; else the greatest number.
    shortest: AtomicU64,
    vanished: AtomicBool,
}

impl FileStore {
    /// Whether the page cache is used.
    #[must_use]
    pub fn cache(&self) -> CacheMode {
        self.cache
    }

    fn error(&self, why: &str, error: std::io::Error) -> Error {
        let error = Error::from_io(why, error).device(self.location());
        if error.kind() == ErrorKind::Gone {
            self.vanished.store(true, Ordering::SeqCst);
        }
        error
    }

    /// Looks whether the file is as long as it was.
    fn look(&self) {
        if let (Kind::Regular | Kind::BlockDevice, Ok(end)) = (self.kind, open::end_of(&self.file))
            && end < self.size.load(Ordering::Relaxed)
        {
            self.shortest.fetch_min(end, Ordering::SeqCst);
        }
    }

    fn ended_early(&self, at: u64) -> Error {
        self.shortest.fetch_min(at, Ordering::SeqCst);
        Error::new(ErrorKind::Io, format!("the file ends at {at}: it was made shorter while in use"))
            .device(self.location())
    }

    /// Whether the buffer is as long as the range: it is not where there was no memory for it.
    fn check_length(&self, range: ByteRange, data: &Buf) -> Result<()> {
        if data.len() as u64 == range.len() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, "there is no memory for the request").device(self.location()))
    }

    async fn read(&self, range: ByteRange, mut data: Buf) -> Done {
        if let Err(error) = self.check_length(range, &data) {
            return Done::new(Err(error), data);
        }
        let mut skip = 0;
        while skip < data.len() {
            let offset = range.start() + skip as u64;
            let (result, back) = submit(&self.file, FileOp::Read { offset, skip }, data).await;
            data = back;
            match result {
                Ok(0) => return Done::new(Err(self.ended_early(offset)), data),
                Ok(bytes) => skip += bytes,
                Err(error) if interrupted(&error) => {}
                Err(error) => return Done::new(Err(self.error("cannot read", error)), data),
            }
        }
        Done::new(Ok(()), data)
    }

    async fn write(&self, range: ByteRange, data: Buf, flags: Flags) -> Done {
        if !flags.contains(Flags::FUA) {
            return self.write_with(range, data, false).await;
        }
        if self.cache == CacheMode::Buffered {
            // Through the page cache a durable write could be told of the failed write-back of another, which the next
            // flush would then not hear of.
            let Done { result, data } = self.write_with(range, data, false).await;
            return match result {
                Ok(()) => Done::new(self.flush().await, data),
                Err(error) => Done::new(Err(error), data),
            };
        }
        if let Err(error) = self.still_flushes() {
            return Done::new(Err(error), data);
        }
        let done = self.write_with(range, data, true).await;
        if done.result.is_err() {
            self.flusher.fail();
        }
        done
    }

    async fn write_with(&self, range: ByteRange, mut data: Buf, durable: bool) -> Done {
        if let Err(error) = self.check_length(range, &data) {
            return Done::new(Err(error), data);
        }
        let mut skip = 0;
        while skip < data.len() {
            let offset = range.start() + skip as u64;
            let (result, back) = submit(&self.file, FileOp::Write { offset, skip, durable }, data).await;
            data = back;
            match result {
                Ok(0) => return Done::new(Err(ErrorKind::NoSpace.into()), data),
                Ok(bytes) => skip += bytes,
                Err(error) if interrupted(&error) => {}
                Err(error) => return Done::new(Err(self.error("cannot write", error)), data),
            }
        }
        Done::new(Ok(()), data)
    }

    fn still_flushes(&self) -> Result<()> {
        if self.flusher.has_failed() {
            let why = "an earlier flush failed, so nothing can be promised any more";
            let hint = "remove the device and check its disk";
            return Err(Error::new(ErrorKind::Io, why).hint(hint).device(self.location()));
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.still_flushes()?;
        if self.read_only {
            return Ok(());
        }
        let mut failure = None;
        let good = self
            .flusher
            .flush(async || {
                loop {
                    match submit(&self.file, FileOp::Sync, Buf::empty()).await.0 {
                        Ok(_) => {
                            self.look();
                            return true;
                        }
                        Err(error) if interrupted(&error) => {}
                        Err(error) => {
                            failure = Some(self.error("cannot flush", error));
                            return false;
                        }
                    }
                }
            })
            .await;
        match failure {
            Some(error) => Err(error),
            None if good => Ok(()),
            None => self.still_flushes(),
        }
    }

    async fn discard(&self, range: ByteRange, flags: Flags) -> Result<()> {
        let (result, _) = submit(&self.file, FileOp::PunchHole(range), Buf::empty()).await;
        match result {
            Ok(_) => self.flush_if(flags).await,
            // Block devices that cannot discard to zeroes may be able to discard to whatever they please.
            Err(error) if unsupported(&error) && self.kind == Kind::BlockDevice => {
                discard::discard(&self.file, range).await.map_err(|error| error.device(self.location()))?;
                self.flush_if(flags).await
            }
            // A discard is a hint: a store that cannot take it leaves the bytes as they are.
            Err(error) if unsupported(&error) => Ok(()),
            Err(error) => Err(self.error("cannot discard", error)),
        }
    }

    async fn write_zeroes(&self, range: ByteRange, flags: Flags) -> Result<()> {
        let op =
            if flags.contains(Flags::NO_UNMAP) { FileOp::ZeroRange(range) } else { FileOp::PunchHole(range) };
        let (result, _) = submit(&self.file, op, Buf::empty()).await;
        match result {
            Ok(_) => {}
            Err(error) if unsupported(&error) && flags.contains(Flags::FAST_ZERO) => {
                let why = "zeroes can only be written here";
                return Err(Error::new(ErrorKind::Unsupported, why).device(self.location()));
            }
            Err(error) if unsupported(&error) => self.write_zeroes_slowly(range).await?,
            Err(error) => return Err(self.error("cannot write zeroes", error)),
        }
        self.flush_if(flags).await
    }

    async fn write_zeroes_slowly(&self, range: ByteRange) -> Result<()> {
        let mut zeroes = Buf::zeroed(ZERO_PIECE_BYTES);
        for piece in range.pieces(ZERO_PIECE_BYTES as u64) {
            zeroes.set_len(usize::try_from(piece.len()).unwrap_or(0));
            let done = self.write(piece, zeroes, Flags::empty()).await;
            done.result?;
            zeroes = done.data;
        }
        Ok(())
    }

    async fn flush_if(&self, flags: Flags) -> Result<()> {
        if flags.contains(Flags::FUA) { self.flush().await } else { Ok(()) }
    }
}

fn interrupted(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::Interrupted
}

fn unsupported(error: &std::io::Error) -> bool {
    // EOPNOTSUPP, ENOSYS, ENODEV: the file system or device does not do it.
    matches!(error.raw_os_error(), Some(95 | 38 | 19))
}

impl Store for FileStore {
    fn geometry(&self) -> Geometry {
        let can = match self.kind {
            Kind::Regular | Kind::Memory => Capabilities::all(),
            Kind::BlockDevice => Capabilities::DISCARD | Capabilities::WRITE_ZEROES,
        };
        Geometry {
            size: self.size.load(Ordering::Relaxed),
            block_size: self.block_size,
            read_only: self.read_only,
            can,
        }
    }

    fn location(&self) -> String {
        match self.kind {
            Kind::Memory => format!("mem:{}", self.size.load(Ordering::Relaxed)),
            _ => self.path.display().to_string(),
        }
    }

    #[inline]
    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        self.inline.read(&self.file, range, data)
    }

    #[inline]
    fn write_now(&self, range: ByteRange, data: &[u8], flags: Flags) -> Now {
        if flags.contains(Flags::FUA) {
            return Now::NotNow;
        }
        self.inline.write(&self.file, range, data)
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        let Io { request, data } = io;
        let (range, flags) = (request.range, request.flags);
        match request.op {
            Op::Read => Box::pin(self.read(range, data)),
            Op::Write => Box::pin(self.write(range, data, flags)),
            Op::Flush => Box::pin(async move { Done::new(self.flush().await, data) }),
            Op::Discard => Box::pin(async move { Done::new(self.discard(range, flags).await, data) }),
            Op::WriteZeroes => {
                Box::pin(async move { Done::new(self.write_zeroes(range, flags).await, data) })
            }
            Op::SecureErase | Op::Zone => Done::ready(Err(ErrorKind::Unsupported.into()), data),
        }
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        let known = matches!(self.kind, Kind::Regular | Kind::Memory);
        Now::Done(if known {
            extents::find(&self.file, range, found)
        } else {
            extents::unknown(range, found)
        })
    }

    fn resize(&self, size: u64) -> Result<()> {
        open::check_size(size, self.block_size, &self.location())?;
        match self.kind {
            Kind::BlockDevice => {
                let now =
                    open::end_of(&self.file).map_err(|error| self.error("cannot tell the size", error))?;
                if now != size {
                    let why =
                        format!("the block device has {now} bytes: a device follows it, and cannot lead");
                    return Err(Error::new(ErrorKind::Invalid, why).device(self.location()));
                }
            }
            Kind::Regular | Kind::Memory => rustix::fs::ftruncate(&*self.file, size)
                .map_err(|error| self.error("cannot resize", error.into()))?,
        }
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn take_loss(&self) -> Option<Loss> {
        self.look();
        match self.shortest.swap(u64::MAX, Ordering::SeqCst) {
            u64::MAX => self.vanished.swap(false, Ordering::SeqCst).then_some(Loss::Vanished),
            end => Some(Loss::Shorter(end)),
        }
    }

    fn close(&self) {
        // Given back at once, whoever still holds the file for the end of an operation.
        let _ = rustix::fs::flock(&*self.file, rustix::fs::FlockOperation::Unlock);
    }
}
