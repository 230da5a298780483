//! The disk file that all servers serve in turn, and the folder it lives in.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::pattern;

const FOLDER_PREFIX: &str = "bowline-bench-";
const STEP_BYTES: usize = 1 << 20;

/// What every run needs to know.
#[derive(Debug)]
pub struct Bench {
    folder: PathBuf,
    /// The served file.
    pub disk: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// Our binary.
    pub bowline: PathBuf,
    /// This program (it is also the do-little server).
    pub own_program: PathBuf,
    /// Ask for structured replies.
    pub structured: bool,
}

impl Bench {
    /// Makes a working folder below `parent` and a disk filled with generation 0.
    pub fn new(parent: &Path, size_bytes: u64, bowline: PathBuf) -> Result<Self> {
        remove_left_over(parent);
        let folder = parent.join(format!("{FOLDER_PREFIX}{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let disk = folder.join("disk");
        let own_program = std::env::current_exe().context("cannot find this program's own file")?;
        let bench = Self { folder, disk, size_bytes, bowline, own_program, structured: false };
        bench.fill()?;
        Ok(bench)
    }

    /// Writes generation 0 over the whole disk.
    pub fn fill(&self) -> Result<()> {
        let mut file =
            File::create(&self.disk).with_context(|| format!("cannot create {}", self.disk.display()))?;
        let mut buffer = vec![0; STEP_BYTES];
        for offset in (0..self.size_bytes).step_by(STEP_BYTES) {
            pattern::fill(&mut buffer, offset, 0);
            file.write_all(&buffer).context("cannot fill the disk")?;
        }
        file.sync_all().context("cannot fill the disk")
    }

    /// The same for another place: an own folder and disk there.
    pub fn elsewhere(&self, parent: &Path) -> Result<Self> {
        let mut bench = Self::new(parent, self.size_bytes, self.bowline.clone())?;
        bench.structured = self.structured;
        Ok(bench)
    }

    /// A folder in the working folder, emptied of what an earlier round left.
    pub fn empty_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// A path in the working folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A run that was killed leaves a gigabyte in memory behind; the next one clears it away.
fn remove_left_over(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_holds_the_pattern_and_goes_away_with_the_run() {
        let parent = tempfile::tempdir().unwrap();
        let stale = parent.path().join(format!("{FOLDER_PREFIX}4194304999"));
        fs::create_dir(&stale).unwrap();
        let bench = Bench::new(parent.path(), 2 << 20, PathBuf::new()).unwrap();
        assert!(!stale.exists());
        let content = fs::read(&bench.disk).unwrap();
        assert_eq!(content.len(), 2 << 20);
        assert_eq!(pattern::wrong_bytes(&content, 0, 0), 0);
        let folder = bench.path("");
        drop(bench);
        assert!(!folder.exists());
    }
}
