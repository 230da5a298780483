//! A test that mounts runs in a child with its own processes and its own mounts: whatever ends it, also a kill, the
//! kernel unmounts and detaches all that it left.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::tools::{self, both, eventually, finish_within, is_root, tool};

/// Tells the child that it is the one.
const INSIDE: &str = "BOWLINE_TEST_INSIDE";

/// Runs `body` in namespaces of its own, at most `limit`. `test` is the full name of the test that calls this: the
/// child is this program, asked for that test alone. Skips, aloud, where that needs a right or program that is missing.
pub(crate) fn caged(test: &str, limit: Duration, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let Some(unshare) = tool("unshare").filter(|_| is_root()) else { return };
    let namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let tried = finish_within(Command::new(&unshare).args(namespaces).arg("true"), limit);
    if !tried.status.success() {
        return tools::skip(&format!("no namespaces can be made here: {}", both(&tried).trim()));
    }
    let folder = tempfile::Builder::new().prefix("bl").tempdir().unwrap();
    let mut command = Command::new(&unshare);
    command.args(namespaces).arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    // With its temporary folders in that one, what it may have left can be told from what others use.
    command.env(INSIDE, "1").env("TMPDIR", folder.path());
    let ended = finish_within(&mut command, limit);
    let said = both(&ended);
    eprintln!("{said}");
    assert!(ended.status.success(), "{test}: {}", ended.status);
    assert!(said.contains("1 passed"), "no test is called {test}");
    // The kernel frees them a little after their last user.
    eventually("no loop device is left behind", || loops_over(folder.path()).is_empty().then_some(()));
}

/// The loop devices whose files are in a folder.
fn loops_over(folder: &Path) -> Vec<PathBuf> {
    let blocks = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let is_over = |block: &PathBuf| {
        let file = std::fs::read_to_string(block.join("loop/backing_file"));
        file.is_ok_and(|file| file.contains(folder.to_str().unwrap()))
    };
    blocks.filter(is_over).collect()
}
