//! Running other programs.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// What a step comes to: nothing, or one line that says what failed.
pub(crate) type Outcome = Result<(), String>;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// A program that was built into a profile's folder of the same target directory as this one.
pub(crate) fn built(profile: &str, name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find the target folder: {error}"))?;
    let target = own.ancestors().nth(2).ok_or("cannot find the target folder")?;
    Ok(target.join(profile).join(name))
}

/// Whether CI runs this: then nothing may be skipped.
pub(crate) fn in_ci() -> bool {
    ["BOWLINE_CI", "CI"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .any(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// The full path of a program, also in the folders of the administrator.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

/// One run of a program, in the repository's root.
#[derive(Debug)]
pub(crate) struct Step {
    command: Command,
}

/// A cargo command.
pub(crate) fn cargo(arguments: &[&str]) -> Step {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Step::new(program).args(arguments)
}

impl Step {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root());
        Self { command }
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn describe(&self) -> String {
        let words = self.command.get_args().map(OsStr::to_string_lossy);
        let program = Path::new(self.command.get_program()).file_name().unwrap_or_default().to_string_lossy();
        std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Runs it with our own output.
    pub(crate) fn run(mut self) -> Outcome {
        let what = self.describe();
        println!("$ {what}");
        let status = self.command.status().map_err(|error| format!("cannot run {what}: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("{what}: {status}")) }
    }

    /// Runs it quietly and answers what it printed.
    pub(crate) fn output(mut self) -> Result<String, String> {
        let what = self.describe();
        let output = self.command.output().map_err(|error| format!("cannot run {what}: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{what}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
        }
    }

    /// Runs it, passes its output on, and keeps the lines that `keep` chooses.
    pub(crate) fn run_keeping(mut self, keep: fn(&str) -> bool) -> (Outcome, Vec<String>) {
        let what = self.describe();
        println!("$ {what}");
        let kept = Mutex::new(Vec::new());
        let child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return (Err(format!("cannot run {what}: {error}")), Vec::new()),
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            let kept = &kept;
            scope.spawn(move || pass_on(stdout, kept, keep, false));
            pass_on(stderr, kept, keep, true);
        });
        let outcome = match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{what}: {status}")),
            Err(error) => Err(format!("{what}: {error}")),
        };
        (outcome, kept.into_inner().unwrap_or_default())
    }
}

fn pass_on(stream: Option<impl Read>, kept: &Mutex<Vec<String>>, keep: fn(&str) -> bool, is_error: bool) {
    let Some(stream) = stream else { return };
    // A test may print anything; a line that is no text must not end the pipe.
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if is_error {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
        if keep(&line)
            && let Ok(mut kept) = kept.lock()
        {
            kept.push(line.into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_with_the_command() {
        let error = Step::new("sh").args(["-c", "exit 7"]).run().unwrap_err();
        assert!(error.contains("sh -c exit 7") && error.contains('7'), "{error}");
        assert!(Step::new("no-such-program-here").run().is_err());
    }

    #[test]
    fn chosen_lines_of_both_streams_are_kept() {
        let step = Step::new("sh").args(["-c", "echo keep 1; echo drop; echo keep 2 >&2; exit 1"]);
        let (outcome, mut kept) = step.run_keeping(|line| line.starts_with("keep"));
        kept.sort();
        assert!(outcome.is_err());
        assert_eq!(kept, ["keep 1", "keep 2"]);
    }
}
