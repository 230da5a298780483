//! Real files for the disk: some of a folder that every machine has, copied to where mke2fs takes them from.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most files that are taken.
const FILES_MAX: usize = 1200;
/// Most bytes of all files together, and of one.
const BYTES_MAX: u64 = 48 << 20;
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most folders that are looked into.
const FOLDERS_MAX: usize = 20_000;
/// A folder with fewer files is passed over for the next.
const FILES_ENOUGH: usize = 100;

/// Files of one folder.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) folder: PathBuf,
    /// Relative to the folder.
    pub(super) paths: Vec<PathBuf>,
    pub(super) bytes: u64,
}

impl Files {
    /// Some files of the first folder that has enough of them, else of the last.
    pub(super) fn find(folders: &[&Path]) -> Self {
        let mut files = Files::default();
        for folder in folders {
            files = Files::of(folder);
            if files.paths.len() >= FILES_ENOUGH {
                break;
            }
        }
        files
    }

    /// Regular files below `folder`, nearest first. What cannot be looked at is passed over.
    fn of(folder: &Path) -> Self {
        let mut files = Files { folder: folder.to_owned(), ..Files::default() };
        let mut folders = VecDeque::from([PathBuf::new()]);
        let mut seen = 1;
        while let Some(relative) = folders.pop_front() {
            let Ok(entries) = fs::read_dir(folder.join(&relative)) else { continue };
            let mut entries: Vec<fs::DirEntry> =
                entries.take(FOLDERS_MAX).filter_map(io::Result::ok).collect();
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let path = relative.join(entry.file_name());
                // Of the entry itself: links are not followed, so there are no loops.
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_dir() && seen < FOLDERS_MAX {
                    seen += 1;
                    folders.push_back(path);
                } else if meta.is_file() && !files.add(path, meta.len()) {
                    return files;
                }
            }
        }
        files
    }

    /// Adds a file that is not too large; false when no more are taken.
    fn add(&mut self, path: PathBuf, bytes: u64) -> bool {
        if bytes <= FILE_BYTES_MAX && self.bytes + bytes <= BYTES_MAX {
            self.bytes += bytes;
            self.paths.push(path);
        }
        self.paths.len() < FILES_MAX
    }

    /// Copies them below `target`, and forgets those that may not be read.
    pub(super) fn copy_to(&mut self, target: &Path) -> io::Result<()> {
        let mut copied = Vec::with_capacity(self.paths.len());
        let mut bytes = 0;
        for path in std::mem::take(&mut self.paths) {
            let (from, to) = (self.folder.join(&path), target.join(&path));
            if fs::File::open(&from).is_err() {
                continue;
            }
            to.parent().map_or(Ok(()), fs::create_dir_all)?;
            bytes += fs::copy(&from, &to)?;
            copied.push(path);
        }
        (self.paths, self.bytes) = (copied, bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_small_and_readable_and_no_more_than_enough() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| from.path().join(name);
        fs::create_dir(path("d")).unwrap();
        for number in 0..FILES_MAX + 10 {
            fs::write(path(&format!("d/{number}")), "abc").unwrap();
        }
        fs::write(path("a"), "hello").unwrap();
        fs::File::create(path("large")).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        std::os::unix::fs::symlink("a", path("link")).unwrap();
        std::os::unix::fs::symlink(".", path("loop")).unwrap();
        let mut files = Files::find(&[from.path()]);
        assert_eq!(files.paths.len(), FILES_MAX);
        assert_eq!(files.paths[0], Path::new("a"));
        fs::remove_file(path("d/1")).unwrap();
        files.copy_to(to.path()).unwrap();
        assert_eq!((files.paths.len(), files.bytes), (FILES_MAX - 1, 5 + 3 * (FILES_MAX as u64 - 2)));
        assert_eq!(fs::read(to.path().join("d/0")).unwrap(), b"abc");
        for absent in ["large", "link", "loop", "d/1"] {
            assert!(!to.path().join(absent).exists(), "{absent}");
        }
    }

    #[test]
    fn a_poor_folder_is_passed_over() {
        let (poor, rich) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(poor.path().join("one"), "").unwrap();
        for number in 0..FILES_ENOUGH {
            fs::write(rich.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(Files::find(&[poor.path(), rich.path()]).folder, rich.path());
        assert_eq!(Files::find(&[rich.path(), poor.path()]).folder, rich.path());
        let nothing = Files::find(&[Path::new("/nonexistent"), poor.path()]);
        assert_eq!((nothing.paths.len(), nothing.folder.as_path()), (1, poor.path()));
    }
}
