//! Programs of e2fsprogs, which a user's PATH often lacks though they are installed.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::failed;
use crate::cli::Result;

/// A program, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tool(PathBuf);

impl Tool {
    /// Looks in PATH, then where the system keeps its own programs.
    pub(super) fn find(name: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/sbin", "/usr/sbin"].map(PathBuf::from));
        Tool::find_in(folders, name)
    }

    fn find_in(mut folders: impl Iterator<Item = PathBuf>, name: &str) -> Option<Self> {
        let runs = |path: &Path| {
            path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        folders.find_map(|folder| Some(folder.join(name)).filter(|path| runs(path))).map(Tool)
    }

    /// Runs it to its end, and fails unless it succeeds; `hint` says what to do then.
    pub(super) fn run(&self, args: &[&OsStr], hint: &str) -> Result<()> {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let what = format!("run {name}");
        let ran = Command::new(&self.0).args(args).env("LC_ALL", "C").stdin(Stdio::null()).output();
        let output = ran.map_err(|error| failed(&what, error, hint))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(what, format_args!("{}: {}", output.status, said(&output)), hint))
    }
}

/// What it said, errors first; the error line is made one line by whoever prints it.
fn said(output: &Output) -> String {
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_only_what_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mke2fs");
        std::fs::write(&file, "").unwrap();
        let here = || std::iter::once(folder.path().to_owned());
        assert_eq!(Tool::find_in(here(), "mke2fs"), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Tool::find_in(here(), "mke2fs"), Some(Tool(file)));
        assert_eq!(Tool::find_in(here(), "e2fsck"), None);
    }

    #[test]
    fn what_a_failed_program_said_is_in_the_error() {
        let shell = Tool::find("sh").unwrap();
        let args = ["-c", "echo it is broken >&2; exit 4"].map(OsStr::new);
        let error = shell.run(&args, "mend it").unwrap_err().to_string();
        assert_eq!(error, "tour: run sh: exit status: 4: it is broken: mend it");
        assert!(shell.run(&["-c", "true"].map(OsStr::new), "").is_ok());
    }
}
