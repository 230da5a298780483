//! Every file of a file system, once per name: no link is followed, no other file system entered, nothing is waited for.

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bowline_block::{Error, Result};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use crate::mountinfo::DevId;

/// Folders that wait for their turn.
const WAITING_MAX: usize = 1_000_000;

/// A file or folder that was opened.
pub(super) struct Entry<'a> {
    pub(super) file: &'a OwnedFd,
    pub(super) inode: u64,
    pub(super) is_folder: bool,
    folder: &'a Path,
    name: &'a [u8],
}

impl Entry<'_> {
    /// The path from the root of the file system.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(std::ffi::OsStr::from_bytes(self.name))
    }
}

pub(super) struct Walk {
    root: OwnedFd,
    dev: DevId,
}

/// Reading changes nothing, not even when something was read last.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

impl Walk {
    pub(super) fn open(mount_point: &Path, dev: DevId) -> Result<Self> {
        let failed =
            |error: Errno| Error::from_io(format!("cannot open {}", mount_point.display()), error.into());
        let root = openat(CWD, mount_point, READ | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
        Ok(Self { root, dev })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Visits everything until `visit` breaks; or says why some was left out.
    pub(super) fn run(
        &self,
        mut visit: impl FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> std::result::Result<(), String> {
        let mut waiting = vec![PathBuf::new()];
        let mut left_out: Option<String> = None;
        while let Some(folder) = waiting.pop() {
            match self.folder(&folder, &mut waiting, &mut visit) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                // Deleted meanwhile, or another mount: no folder of this file system.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => {}
                Err(error) => {
                    left_out
                        .get_or_insert_with(|| format!("cannot look into /{}: {error}", folder.display()));
                }
            }
            if waiting.len() > WAITING_MAX {
                left_out.get_or_insert_with(|| "too many folders".to_owned());
                waiting.truncate(WAITING_MAX);
            }
        }
        left_out.map_or(Ok(()), Err)
    }

    fn folder(
        &self,
        folder: &Path,
        waiting: &mut Vec<PathBuf>,
        visit: &mut impl FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> rustix::io::Result<ControlFlow<()>> {
        let name = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = READ | OFlags::DIRECTORY;
        let open = |flags| openat2(&self.root, name, flags, Mode::empty(), resolve);
        let opened = without_access_time(flags, open)?;
        let stat = fstat(&opened)?;
        let entry = Entry { file: &opened, inode: stat.st_ino, is_folder: true, folder, name: b"" };
        if visit(entry).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        for entry in Dir::read_from(&opened)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = entry.file_type();
            if kind == FileType::Directory {
                waiting.push(folder.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
            } else if matches!(kind, FileType::RegularFile | FileType::Unknown)
                && self.file(&opened, folder, name, waiting, visit).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn file(
        &self,
        parent: &OwnedFd,
        folder: &Path,
        name: &CStr,
        waiting: &mut Vec<PathBuf>,
        visit: &mut impl FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let open = |flags| openat(parent, name, flags, Mode::empty());
        // Deleted meanwhile, or of a kind that is not opened.
        let Ok(file) = without_access_time(READ, open) else { return ControlFlow::Continue(()) };
        let Ok(stat) = fstat(&file) else { return ControlFlow::Continue(()) };
        let name = name.to_bytes();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => waiting.push(folder.join(std::ffi::OsStr::from_bytes(name))),
            FileType::RegularFile if DevId::of(stat.st_dev) == self.dev && stat.st_blocks > 0 => {
                return visit(Entry { file: &file, inode: stat.st_ino, is_folder: false, folder, name });
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Opens so that the time of the last access stays, where that is allowed.
fn without_access_time(
    flags: OFlags,
    open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}
