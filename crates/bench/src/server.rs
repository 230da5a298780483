//! A server process: started, waited for until it accepts, stopped without leaving anything behind.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::procfs;

const START_MAX: Duration = Duration::from_secs(15);
const STOP_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Not the child's where the program goes into the background.
    pid: u32,
    socket: PathBuf,
}

impl Server {
    /// Starts a program and waits until its socket accepts connections; its messages go to `log`. A program that
    /// goes into the background tells its PID in `pid_file`.
    pub fn start(command: &mut Command, socket: &Path, log: &Path, pid_file: Option<&Path>) -> Result<Self> {
        let background = pid_file.is_some();
        for stale in [Some(socket), pid_file].into_iter().flatten() {
            let _ = fs::remove_file(stale);
        }
        let output = File::create(log).context("cannot create the server's log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let mut server = Self { pid: child.id(), child, socket: socket.to_path_buf() };
        let deadline = Instant::now() + START_MAX;
        while UnixStream::connect(socket).is_err() {
            let ended = server.child.try_wait()?.filter(|status| !(background && status.success()));
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                let what = ended.map_or("did not listen".to_owned(), |status| format!("ended with {status}"));
                bail!("{} {what}: {}", command.get_program().display(), said.trim());
            }
            std::thread::sleep(POLL);
        }
        if let Some(pid_file) = pid_file {
            while server.pid == server.child.id() {
                let text = fs::read_to_string(pid_file).unwrap_or_default();
                server.pid = text.trim().parse().unwrap_or(server.pid);
                ensure!(Instant::now() < deadline, "the server told no PID in {}", pid_file.display());
                std::thread::sleep(POLL);
            }
        }
        Ok(server)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Server {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let in_background = self.pid != self.child.id();
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_MAX;
        while matches!(self.child.try_wait(), Ok(None)) || (in_background && procfs::is_alive(self.pid)) {
            if Instant::now() > deadline {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(POLL);
        }
        let _ = fs::remove_file(&self.socket);
    }
}

/// First line that a program prints when asked for its version; the reason when it is not there.
pub fn version(program: &str, argument: &str) -> Result<String, String> {
    let output =
        Command::new(program).arg(argument).output().map_err(|error| format!("{program}: {error}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown version");
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_at_once_is_reported_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such disk >&2; exit 3"]);
        let error = Server::start(&mut command, &folder.path().join("s"), &folder.path().join("log"), None)
            .unwrap_err();
        assert!(error.to_string().contains("no such disk"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        assert!(version("no-such-program-here", "-V").unwrap_err().contains("no-such-program-here"));
    }
}
