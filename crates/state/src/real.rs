//! The real folder.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_block::{Error, Result};

use crate::{Folder, StateFile};

/// A file of the operating system.
pub struct RealFile {
    file: File,
    path: PathBuf,
}

impl RealFile {
    /// Takes an open file; `path` is what messages call it.
    #[must_use]
    pub fn new(file: File, path: &Path) -> Self {
        Self { file, path: path.to_owned() }
    }

    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    fn failed(&self, what: &str, error: io::Error) -> Error {
        Error::from_io(format!("cannot {what} {}", self.path.display()), error)
    }
}

impl StateFile for RealFile {
    fn len(&self) -> Result<u64> {
        self.file.metadata().map(|found| found.len()).map_err(|error| self.failed("look at", error))
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(room) = data.get_mut(done..).filter(|room| !room.is_empty()) {
            match self.file.read_at(room, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read", error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(|error| self.failed("write to", error))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|error| self.failed("change the size of", error))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| self.failed("sync", error))
    }
}

/// A folder of the operating system. Files in it are for its owner only.
pub struct RealFolder {
    path: PathBuf,
}

impl RealFolder {
    /// Opens the folder, making it if it is missing.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> Result<Self> {
        let this = Self { path: path.to_owned() };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| this.failed("make", "", error))?;
        Ok(this)
    }

    fn failed(&self, what: &str, name: &str, error: io::Error) -> Error {
        Error::from_io(format!("cannot {what} {}", self.path.join(name).display()), error)
    }

    fn create_file(&self, name: &str) -> Result<RealFile> {
        let path = self.path.join(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map(|file| RealFile::new(file, &path))
            .map_err(|error| self.failed("create", name, error))
    }
}

impl Folder for RealFolder {
    fn open(&self, name: &str) -> Result<Option<Arc<dyn StateFile>>> {
        let path = self.path.join(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Some(Arc::new(RealFile::new(file, &path)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("open", name, error)),
        }
    }

    fn create(&self, name: &str) -> Result<Arc<dyn StateFile>> {
        Ok(Arc::new(self.create_file(name)?))
    }

    fn replace(&self, name: &str, contents: &[u8]) -> Result<()> {
        let new = format!("{name}.new");
        let file = self.create_file(&new)?;
        file.write_at(0, contents)?;
        file.sync()?;
        self.rename(&new, name)?;
        self.sync()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
            .map_err(|error| self.failed("rename", from, error))
    }

    fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", name, error)),
            _ => Ok(()),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |error| self.failed("list", "", error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A name that is not text is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync(&self) -> Result<()> {
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| self.failed("sync", "", error))
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }
}
