//! Opening files and block devices: every way in which that can go wrong gets its own words.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use bowline_block::{BlockSize, Buf, Error, ErrorKind, Result};
use bowline_io::File;
use rustix::fs::{
    FileType, FlockOperation, MemfdFlags, Mode, OFlags, SeekFrom, fcntl_setfl, flock, fstat, ftruncate,
    memfd_create, open, seek,
};
use rustix::io::{Errno, pread};

use super::flush::Flusher;
use super::inline::Inline;
use super::{CacheMode, FileOptions, FileStore, Kind, Opened};

/// What was just given back may be busy for a moment longer: the kernel lets go of a killed daemon's files only when
/// its `io_uring` is taken apart, some time after the process is gone. Until then, writes of its may still be under way.
const BUSY_TRIES: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

impl FileStore {
    /// Opens a regular file or block device, and locks it against a second user.
    ///
    /// # Errors
    /// With the path and a reason: missing, not permitted, a directory, in use, of size 0, not whole blocks.
    pub fn open(path: &Path, options: &FileOptions) -> Result<Opened> {
        let shown = path.display().to_string();
        let created = create_if_asked(path, options)?;
        let opened = Self::open_existing(path, options).map_err(|error| error.device(&shown));
        if opened.is_err() && created {
            // Made for nothing; a failure to remove it changes nothing about the reason.
            let _ = std::fs::remove_file(path);
        }
        opened
    }

    fn open_existing(path: &Path, options: &FileOptions) -> Result<Opened> {
        let kind = kind_of(path)?;
        let want = options.cache.unwrap_or(match kind {
            Kind::BlockDevice => CacheMode::Direct,
            _ => CacheMode::Buffered,
        });
        let fd = open_fd(path, options.read_only, kind)?;
        lock(&fd, options.read_only)?;
        let block_size = block_size(&fd, kind, options.block_size)?;
        let file = Arc::new(File::new(fd));
        let size = end_of(&file).map_err(|error| Error::from_io("cannot tell the size", error))?;
        check_size(size, block_size, &path.display().to_string())?;
        let (cache, notice) = settle_cache(&file, want, block_size);
        let inline = match cache {
            CacheMode::Direct => Inline::never(),
            CacheMode::Buffered => Inline::probe(&file, options.read_only || kind == Kind::BlockDevice),
        };
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let store = Self {
            file,
            path,
            kind,
            size: AtomicU64::new(size),
            block_size,
            read_only: options.read_only,
            cache,
            inline,
            flusher: Flusher::default(),
            shortest: AtomicU64::new(u64::MAX),
            vanished: AtomicBool::new(false),
        };
        Ok(Opened { store, notice })
    }

    /// Unnamed memory, which goes with the store. Untouched parts of it cost nothing.
    ///
    /// # Errors
    /// The kernel refused, or the size is not whole blocks.
    pub fn memory(size: u64, block_size: BlockSize, read_only: bool) -> Result<Self> {
        check_size(size, block_size, &format!("mem:{size}"))?;
        let refused = |error: Errno| Error::from_io("cannot get memory", error.into());
        let fd = memfd_create("bowline-mem", MemfdFlags::CLOEXEC).map_err(refused)?;
        ftruncate(&fd, size).map_err(refused)?;
        let file = Arc::new(File::new(fd));
        let inline = Inline::probe(&file, read_only);
        Ok(Self {
            file,
            path: "mem".into(),
            kind: Kind::Memory,
            size: AtomicU64::new(size),
            block_size,
            read_only,
            cache: CacheMode::Buffered,
            inline,
            flusher: Flusher::default(),
            shortest: AtomicU64::new(u64::MAX),
            vanished: AtomicBool::new(false),
        })
    }
}

/// Creates the file if a size was given and there is none.
fn create_if_asked(path: &Path, options: &FileOptions) -> Result<bool> {
    let Some(size) = options.create_size else { return Ok(false) };
    let shown = path.display().to_string();
    if path.exists() {
        let hint = "leave out the size, or choose another name";
        return Err(Error::new(ErrorKind::Exists, "it exists already").hint(hint).device(shown));
    }
    check_size(size, options.block_size.unwrap_or_default(), &shown)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let failed = |error: Errno| {
        let error = Error::from_io("cannot create it", error.into()).device(&shown);
        if error.kind() == ErrorKind::NotFound { error.hint("make its folder first") } else { error }
    };
    let fd = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    ftruncate(&fd, size).map_err(|error| {
        let _ = std::fs::remove_file(path);
        failed(error)
    })?;
    Ok(true)
}

/// Looks before opening: opening a pipe or a tape would do something.
fn kind_of(path: &Path) -> Result<Kind> {
    let stat = rustix::fs::stat(path).map_err(cannot_open)?;
    let refuse = |what| {
        let hint = "name a regular file or a block device";
        Err(Error::new(ErrorKind::Invalid, format!("it is {what}")).hint(hint))
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Kind::Regular),
        FileType::BlockDevice => Ok(Kind::BlockDevice),
        FileType::Directory => refuse("a directory"),
        FileType::CharacterDevice => refuse("a character device"),
        FileType::Fifo => refuse("a pipe"),
        FileType::Socket => refuse("a socket"),
        _ => refuse("neither file nor block device"),
    }
}

fn open_fd(path: &Path, read_only: bool, kind: Kind) -> Result<OwnedFd> {
    let mut flags = OFlags::CLOEXEC | if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if kind == Kind::BlockDevice && !read_only {
        // For block devices this means: not while it is mounted, or part of something that is.
        flags |= OFlags::EXCL;
    }
    let mut tries = 0;
    loop {
        match open(path, flags, Mode::empty()) {
            Ok(fd) => return Ok(fd),
            Err(Errno::BUSY) if tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(Errno::BUSY) => {
                let why = "it is mounted or in use by another program";
                return Err(Error::new(ErrorKind::Busy, why).hint("unmount it or stop that program"));
            }
            Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) if !read_only => {
                let hint =
                    "change its permissions, or only read it: `bowline device add NAME PATH --read-only`";
                return Err(Error::new(ErrorKind::Denied, "not permitted to write to it").hint(hint));
            }
            Err(error) => return Err(cannot_open(error)),
        }
    }
}

fn cannot_open(error: Errno) -> Error {
    let error = Error::from_io("cannot open it", error.into());
    match error.kind() {
        ErrorKind::NotFound => error.hint("create it, or give --size to have it created"),
        _ => error,
    }
}

/// One writer or many readers, across all daemons of the machine.
fn lock(fd: &OwnedFd, read_only: bool) -> Result<()> {
    let lock = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    for _ in 0..BUSY_TRIES {
        match flock(fd, lock) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(BUSY_PAUSE),
            // File systems without locks are served without.
            _ => return Ok(()),
        }
    }
    let why = "another program has it locked, or it is a device already";
    Err(Error::new(ErrorKind::Busy, why).hint("stop that program, or remove that device"))
}

fn block_size(fd: &OwnedFd, kind: Kind, wanted: Option<BlockSize>) -> Result<BlockSize> {
    if kind != Kind::BlockDevice {
        return Ok(wanted.unwrap_or_default());
    }
    let sector = rustix::fs::ioctl_blksszget(fd)
        .map_err(|error| Error::from_io("cannot tell the sector size", error.into()))?;
    let own = BlockSize::from_bytes(u64::from(sector)).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("its sectors have {sector} bytes"))
            .hint("use a device with sectors of 512 or 4096 bytes")
    })?;
    match wanted {
        Some(size) if size.bytes() < own.bytes() => {
            let why = format!("its sectors have {sector} bytes, and its blocks cannot be smaller");
            Err(Error::new(ErrorKind::Invalid, why).hint(format!("leave out --block-size, or give {sector}")))
        }
        Some(size) => Ok(size),
        None => Ok(own),
    }
}

/// Turns `O_DIRECT` on, if wanted and if blocks of this size can really be read that way.
fn settle_cache(file: &File, want: CacheMode, block_size: BlockSize) -> (CacheMode, Option<String>) {
    if want == CacheMode::Buffered {
        return (CacheMode::Buffered, None);
    }
    let mut probe = Buf::zeroed(usize::try_from(block_size.bytes()).unwrap_or(4096));
    let flags = rustix::fs::fcntl_getfl(file).unwrap_or(OFlags::empty());
    let direct = fcntl_setfl(file, flags | OFlags::DIRECT).and_then(|()| pread(file, &mut probe[..], 0));
    match direct {
        Ok(_) => (CacheMode::Direct, None),
        Err(error) => {
            let _ = fcntl_setfl(file, flags);
            let notice = format!(
                "direct I/O in blocks of {} bytes is refused ({error}): using the page cache",
                block_size.bytes()
            );
            (CacheMode::Buffered, Some(notice))
        }
    }
}

/// The size of a file or block device.
pub(super) fn end_of(file: &File) -> std::io::Result<u64> {
    let stat = fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        return Ok(u64::try_from(stat.st_size).unwrap_or(0));
    }
    Ok(seek(file, SeekFrom::End(0))?)
}

/// Whether a device can have that size.
pub(super) fn check_size(size: u64, block_size: BlockSize, shown: &str) -> Result<()> {
    /// Beyond this, tables that grow with the device would not stay small.
    const SIZE_MAX: u64 = 4 << 50;
    let (why, hint) = if size == 0 {
        ("its size is 0".to_owned(), "give it a size first".to_owned())
    } else if !size.is_multiple_of(block_size.bytes()) {
        let block = block_size.bytes();
        let whole = size.div_ceil(block).saturating_mul(block);
        (format!("its size {size} is not a multiple of {block} bytes"), format!("make it {whole} bytes"))
    } else if size > SIZE_MAX {
        (format!("its size {size} is beyond the limit of 4096T"), "make it smaller".to_owned())
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Invalid, why).hint(hint).device(shown))
}
