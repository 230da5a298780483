//! Folders and files that are read and never written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_block::{Error, ErrorKind, Result};
use bowline_state::{Folder, RealFile, StateFile};

/// Names of one folder that are looked at.
const NAMES_MAX: usize = 1_000_000;

/// The names in a folder, sorted; what is no text is made readable, and is none of ours.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)?.take(NAMES_MAX) {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a regular file to read.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // What is in a file's place may be anything, a pipe that nobody writes to for one.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// A folder that is only read.
pub(super) struct ReadFolder(pub(super) PathBuf);

/// A file that is only read.
struct ReadFile(RealFile);

fn refused() -> Error {
    Error::new(ErrorKind::ReadOnly, "a check changes nothing")
}

impl Folder for ReadFolder {
    fn open(&self, name: &str) -> Result<Option<Arc<dyn StateFile>>> {
        let path = self.0.join(name);
        match open(&path) {
            Ok(file) => Ok(Some(Arc::new(ReadFile(RealFile::new(file, &path))))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::from_io("it cannot be opened", error)),
        }
    }

    fn create(&self, _: &str) -> Result<Arc<dyn StateFile>> {
        Err(refused())
    }

    fn replace(&self, _: &str, _: &[u8]) -> Result<()> {
        Err(refused())
    }

    fn rename(&self, _: &str, _: &str) -> Result<()> {
        Err(refused())
    }

    fn remove(&self, _: &str) -> Result<()> {
        Err(refused())
    }

    fn names(&self) -> Result<Vec<String>> {
        names(&self.0).map_err(|error| Error::from_io("it cannot be listed", error))
    }

    fn sync(&self) -> Result<()> {
        Err(refused())
    }

    fn location(&self) -> String {
        self.0.display().to_string()
    }
}

impl StateFile for ReadFile {
    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<usize> {
        self.0.read_at(offset, data)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(refused())
    }

    fn set_len(&self, _: u64) -> Result<()> {
        Err(refused())
    }

    fn sync(&self) -> Result<()> {
        Err(refused())
    }
}
