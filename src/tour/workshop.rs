//! What the tour must not leave behind: its temporary folder and its daemon.
//!
//! Design notes: both are behind one lock, which whoever cleans up holds until nothing is left: the end of the tour, or
//! the thread that waits for SIGINT, SIGTERM and SIGHUP. The daemon is in a process group of its own, so that Ctrl-C
//! reaches it through us only and the tour does not report a daemon that went away.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bowline_nbd::NbdUri;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::failed;
use crate::cli::Result;

/// The longest the daemon may take to start, and to stop.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// Longest path of a Unix socket, without its end, and the longest name of a socket in our folder.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = "/bowline-tour-XXXXXX/control.sock";
/// Most bytes of the daemon's log that are looked at for its last words.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// How often a folder is removed in which a thread of ours may still make files.
const REMOVE_TRIES: u32 = 50;

#[derive(Debug)]
struct Tools {
    folder: TempDir,
    daemon: Option<Child>,
}

/// A temporary folder, and a daemon that serves from it.
#[derive(Debug)]
pub(super) struct Workshop {
    folder: PathBuf,
    tools: Arc<Mutex<Option<Tools>>>,
}

/// What the daemon said when it was up.
#[derive(Debug)]
pub(super) struct Served {
    /// The device.
    pub(super) device: String,
    /// Where it is exported.
    pub(super) uri: NbdUri,
    /// The daemon.
    pub(super) process: u32,
}

impl Workshop {
    /// Makes the folder, and waits for signals from now on.
    pub(super) fn open() -> Result<Self> {
        let mut parent = std::env::temp_dir();
        if parent.as_os_str().len() + SOCKET_NAME.len() > SOCKET_PATH_MAX {
            parent = PathBuf::from("/tmp");
        }
        let hint = "name a folder you may write to in TMPDIR";
        let what = format!("make a temporary folder in {}", parent.display());
        let folder = tempfile::Builder::new().prefix("bowline-tour-").tempdir_in(&parent);
        let folder = folder.map_err(|error| failed(&what, error, hint))?;
        let path = folder.path().to_owned();
        let tools = Arc::new(Mutex::new(Some(Tools { folder, daemon: None })));
        clean_up_on_signal(tools.clone())
            .map_err(|error| failed("wait for signals", error, "try again with fewer programs running"))?;
        Ok(Workshop { folder: path, tools })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn control_socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("daemon.log")
    }

    /// Runs `bowline serve` on `disk`, this same program, and waits until it serves.
    pub(super) fn serve(&self, disk: &Path) -> Result<Served> {
        let hint = "see that bowline can be run again from where it is";
        let (stdout, process) =
            self.start(disk).map_err(|error| failed("start bowline serve", error, hint))?;
        let (send, received) = mpsc::channel();
        // It ends with the daemon, whose stdout ends then.
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let _ = send.send(lines.next());
            lines.for_each(drop);
        });
        let refused = |why: &dyn std::fmt::Display| failed("start bowline serve", why, "please report this");
        match received.recv_timeout(TIMEOUT) {
            Ok(Some(Ok(line))) => {
                let parsed =
                    line.split_once("  ").map(|(device, uri)| (device, uri.trim().parse::<NbdUri>()));
                match parsed {
                    Some((device, Ok(uri))) => Ok(Served { device: device.to_owned(), uri, process }),
                    Some((_, Err(error))) => Err(refused(&format_args!("it says {line:?}: {error}"))),
                    None => Err(refused(&format_args!("it says {line:?} and not NAME and URI"))),
                }
            }
            Ok(_) => Err(refused(&"it ended at once")),
            Err(_) => Err(refused(&format_args!("it said nothing for {TIMEOUT:?}"))),
        }
    }

    fn start(&self, disk: &Path) -> io::Result<(ChildStdout, u32)> {
        let mut tools = lock(&self.tools);
        let Some(tools) = tools.as_mut() else { return Err(io::Error::other("the tour is over")) };
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg("--socket")
            .arg(self.control_socket())
            .arg(disk)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.log())?)
            .process_group(0)
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("its output is not to be had"));
        let process = child.id();
        tools.daemon = Some(child);
        Ok((stdout?, process))
    }

    /// Sends the daemon SIGTERM and waits for its end, which must be a success.
    pub(super) fn stop(&self) -> Result<()> {
        let refused = |why: &dyn std::fmt::Display| failed("stop the daemon", why, "please report this");
        let status = self.end(Signal::TERM).map_err(|error| refused(&error))?;
        match status.signal() {
            _ if status.success() => Ok(()),
            Some(signal) => Err(refused(&format_args!("after SIGTERM it was ended by signal {signal}"))),
            None => Err(refused(&format_args!("after SIGTERM it ended with {status} and not 0"))),
        }
    }

    fn end(&self, signal: Signal) -> io::Result<ExitStatus> {
        let began = Instant::now();
        let mut signalled = false;
        loop {
            // Not held while waiting, so that a signal is not kept waiting.
            if let Some(child) = lock(&self.tools).as_mut().and_then(|tools| tools.daemon.as_mut()) {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
                if !signalled {
                    kill_process(Pid::from_child(child), signal)?;
                    signalled = true;
                }
            }
            if began.elapsed() > TIMEOUT {
                return Err(io::Error::other(format!("it still runs after {TIMEOUT:?}")));
            }
            std::thread::sleep(POLL);
        }
    }

    /// The last line of the daemon's log, if there is any.
    pub(super) fn last_words(&self) -> Option<String> {
        let mut log = Vec::new();
        File::open(self.log()).ok()?.take(LOG_BYTES_MAX).read_to_end(&mut log).ok()?;
        let log = String::from_utf8_lossy(&log);
        log.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }

    /// Kills what runs and removes what is there.
    pub(super) fn close(&self) -> Result<()> {
        let hint = "remove it by hand";
        let what = format!("remove {}", self.folder.display());
        clean_up(&mut lock(&self.tools)).map_err(|error| failed(what, error, hint))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// A panic while it was held has broken nothing: cleaning up must go on.
fn lock(tools: &Mutex<Option<Tools>>) -> MutexGuard<'_, Option<Tools>> {
    tools.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_up(tools: &mut Option<Tools>) -> io::Result<()> {
    let Some(mut tools) = tools.take() else { return Ok(()) };
    if let Some(daemon) = &mut tools.daemon {
        // It may be gone already, and that is as well.
        let _ = daemon.kill();
        let _ = daemon.wait();
    }
    let mut removed = Ok(());
    for _ in 0..REMOVE_TRIES {
        removed = fs::remove_dir_all(tools.folder.path());
        match &removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::sleep(POLL),
            _ => return Ok(()),
        }
    }
    removed
}

/// Ends the process at a signal, with nothing left behind.
fn clean_up_on_signal(tools: Arc<Mutex<Option<Tools>>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let (mut interrupt, mut terminate, mut hangup) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    drop(inside);
    let wait = move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
                _ = hangup.recv() => SignalKind::hangup(),
            }
        });
        // Held to the end: the tour waits for it rather than reporting what went missing.
        let mut tools = lock(&tools);
        let left = match clean_up(&mut tools) {
            Ok(()) => "nothing is left behind".to_owned(),
            Err(error) => format!("its temporary folder could not be removed ({error})"),
        };
        let number = number.as_raw_value();
        let _ = writeln!(io::stderr(), "bowline: tour: stopped by signal {number}: {left}");
        std::process::exit(number.saturating_add(128));
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}
