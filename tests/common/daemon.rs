//! A daemon of its own for each test, on sockets in a temporary folder, ended with the test.

use std::ffi::{OsStr, OsString};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::nbd::Nbd;
use super::tools;

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

/// How a daemon is started.
#[derive(Clone)]
pub(crate) struct Start {
    folder: Arc<TempDir>,
    args: Vec<OsString>,
    engine: bool,
    customise: fn(&mut Command),
}

impl Start {
    /// In a new folder; on the engine that `BOWLINE_ENGINE` names.
    pub(crate) fn new() -> Self {
        let folder = Arc::new(tempfile::Builder::new().prefix("bl").tempdir().unwrap());
        Start { folder, args: Vec::new(), engine: true, customise: |_| {} }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// The engine is for this test to choose.
    pub(crate) fn any_engine(mut self) -> Self {
        self.engine = false;
        self
    }

    /// Changes the command before it is started.
    pub(crate) fn customise(mut self, customise: fn(&mut Command)) -> Self {
        self.customise = customise;
        self
    }

    /// A path in the daemon's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        command.arg("serve").arg("--socket").arg(self.path("c.sock")).args(&self.args);
        if let Some(engine) =
            std::env::var_os("BOWLINE_ENGINE").filter(|name| self.engine && !name.is_empty())
        {
            command.arg("--engine").arg(engine);
        }
        (self.customise)(&mut command);
        command
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&self) -> Daemon {
        let log = |name| std::fs::File::create(self.path(name)).unwrap();
        let mut command = self.command();
        let child = command
            .stdin(Stdio::null())
            .stdout(log("out.log"))
            .stderr(log("err.log"))
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut daemon = Daemon { child, start: self.clone() };
        daemon.wait_until_up();
        daemon
    }

    /// Starts it where it must refuse to start: exit code 1 and one clear line, which is returned.
    pub(crate) fn refused(&self) -> String {
        let output = tools::finish_within(&mut self.command(), Duration::from_secs(15));
        let ran = Ran::of(&output);
        assert_eq!(ran.code, 1, "{ran:?}");
        one_line(&ran)
    }
}

impl Ran {
    pub(crate) fn of(output: &std::process::Output) -> Self {
        Ran {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

/// The one line `bowline: what: why: what to do` of a failure. Lines of the log may stand before it.
fn one_line(ran: &Ran) -> String {
    let lines: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("bowline: ")).collect();
    assert_eq!(lines.len(), 1, "not one line of error: {ran:?}");
    assert_eq!(ran.err.lines().last(), lines.first().copied(), "the error is not the last line: {ran:?}");
    assert!(!ran.err.contains("panicked"), "{ran:?}");
    let line = lines[0].to_owned();
    // bowline, what, why, what to do.
    assert!(line.split(": ").count() >= 4, "it lacks what, why or what to do: {line}");
    assert!(!line.ends_with(')') || !line.contains("(os error "), "it ends without what to do: {line}");
    line
}

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    start: Start,
}

impl Daemon {
    /// One in a new folder, with nothing.
    pub(crate) fn start() -> Self {
        Start::new().start()
    }

    fn wait_until_up(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the daemon is not up\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        // The socket is there before the disks are: an answer comes once all of it is.
        self.ok(&["status"]);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.start.path(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("c.sock")
    }

    /// The socket of its own listener.
    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.path("nbd.sock")
    }

    /// The URI of a device or image on its own listener.
    pub(crate) fn uri(&self, name: &str) -> String {
        let name = name.replace('/', "%2F");
        format!("nbd+unix:///{name}?socket={}", self.nbd_socket().display())
    }

    /// A connection to a device or image.
    pub(crate) fn connect(&self, name: &str) -> Nbd {
        Nbd::connect_unix(&self.nbd_socket(), name)
            .unwrap_or_else(|error| panic!("connect to {name}: {error}"))
    }

    /// Runs `bowline VERB…` against this daemon.
    pub(crate) fn bowline(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
        Ran::of(&tools::finish(command.arg("--socket").arg(self.socket()).args(args)))
    }

    /// A verb that must succeed; what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.bowline(args);
        assert_eq!(ran.code, 0, "bowline {args:?}: {}\n{}", ran.err, self.log());
        ran.out
    }

    /// A verb with `--json`; what it answered.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[&["--json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("bowline {args:?}: {error}: {text}"))
    }

    /// A verb that must fail with exit code 1 and one clear line, which is returned.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let ran = self.bowline(args);
        assert_eq!(ran.code, 1, "bowline {args:?}: {ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "bowline {args:?}: {ran:?}");
        one_line(&ran)
    }

    /// A request of the control API itself: the status and body of its answer.
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        super::http::ask(&self.socket(), method, path, body)
    }

    /// The same where it must succeed. Much faster than a verb, where there are hundreds.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.api(method, path, body);
        assert!((200..300).contains(&status), "{method} {path} {body}: {status} {answer}\n{}", self.log());
        answer
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.ok(&["events"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many events of a kind a snapshot has had.
    pub(crate) fn count_events(&self, kind: &str, snapshot: &str) -> usize {
        let is = |event: &&Value| event["kind"] == kind && event["snapshot"] == snapshot;
        self.events().iter().filter(is).count()
    }

    /// What it printed for its disks, and its log.
    pub(crate) fn out(&self) -> String {
        std::fs::read_to_string(self.path("out.log")).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("err.log")).unwrap_or_default()
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        resident_kib(self.pid())
    }

    /// Of that, what is its own.
    pub(crate) fn own_kib(&self) -> u64 {
        own_kib(self.pid())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        tools::wait(&mut self.child, limit).unwrap_or_else(|| panic!("it still runs\n{}", self.log()))
    }

    /// Stops it as an administrator would; it must exit with 0. Returns how it can be started again.
    pub(crate) fn stop(mut self) -> Start {
        self.signal(Signal::TERM);
        let status = self.wait(Duration::from_secs(20));
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log());
        self.start.clone()
    }

    /// Ends it as a power cut of the process would. Returns how it can be started again.
    pub(crate) fn kill(mut self) -> Start {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.start.clone()
    }

    /// Adds a device over a new sparse file of its name.
    pub(crate) fn add_file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(&format!("{name}.raw"));
        tools::sparse_file(&path, bytes);
        self.ok(&["device", "add", name, path.to_str().unwrap()]);
        path
    }

    /// The same, with its changes tracked.
    pub(crate) fn add_tracked(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(&format!("{name}.raw"));
        tools::sparse_file(&path, bytes);
        self.ok(&["device", "add", name, path.to_str().unwrap(), "--track"]);
        path
    }

    /// The whole contents of a device or image, over one connection.
    pub(crate) fn read_all(&self, name: &str) -> Vec<u8> {
        self.connect(name).read_all().unwrap_or_else(|error| panic!("read {name}: {error}\n{}", self.log()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}---", self.log());
        }
    }
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// Of that, what is the process's own: without the pages of its program file, which are large where it is not optimised.
pub(crate) fn own_kib(pid: u32) -> u64 {
    status_kib(pid, "RssAnon:") + status_kib(pid, "RssShmem:")
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
