//! Whole command lines: what they print and how they exit, over a daemon with made-up contents.

mod help;
mod verbs;
mod wrong;

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use bowline_api::server::fake::Fake;
use tokio::sync::oneshot;

use super::*;

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: u8,
}

pub(crate) fn bowline(args: &[&str]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("bowline").chain(args.iter().copied()).map(OsString::from);
    let code = run(args, Screen::PLAIN, &mut out, &mut err);
    Ran { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), code }
}

pub(crate) struct Daemon {
    pub(crate) fake: Arc<Fake>,
    pub(crate) socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let control = fake.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                bowline_api::server::serve(listener, control, async { drop(stopped.await) }).await;
            });
        });
        Daemon { fake, socket, stop: Some(stop), thread: Some(thread), _folder: folder }
    }

    pub(crate) fn ask(&self, args: &[&str]) -> Ran {
        bowline(&[&["--socket", self.socket.to_str().unwrap()], args].concat())
    }

    /// Asks with a stdout that is closed after `room` bytes.
    fn ask_closing(&self, args: &[&str], room: usize) -> (u8, String) {
        let mut err = Vec::new();
        let all = [&["bowline", "--socket", self.socket.to_str().unwrap()], args].concat();
        let code = run(all.into_iter().map(OsString::from), Screen::PLAIN, &mut Closing { room }, &mut err);
        (code, String::from_utf8(err).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        self.thread.take().map(JoinHandle::join);
    }
}

/// A pipe whose reader leaves after `room` bytes.
struct Closing {
    room: usize,
}

impl Write for Closing {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let taken = buf.len().min(self.room);
        self.room -= taken;
        if taken == 0 && !buf.is_empty() { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_control_socket_is_where_the_contract_says() {
    let with = |set: &[(&str, &str)]| {
        paths::default_socket(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    };
    let all = [("BOWLINE_SOCKET", "/a/b.sock"), ("XDG_RUNTIME_DIR", "/run/user/1")];
    assert_eq!(with(&all), PathBuf::from("/a/b.sock"));
    assert_eq!(with(&all[1..]), PathBuf::from("/run/user/1/bowline/control.sock"));
    assert_eq!(with(&[("BOWLINE_SOCKET", "")]), PathBuf::from("/run/bowline/control.sock"));
}

#[test]
fn tables_align() {
    let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
    table.row(["a".into(), "1.5G".into(), String::new()]);
    table.row(["longer".into(), "4K".into(), "\x1b[31mred\n".into()]);
    assert_eq!(table.to_string(), "NAME    SIZE  NOTE\na       1.5G  -\nlonger    4K  ?[31mred?\n");
    let mut pairs = Table::pairs();
    pairs.pair("size", 5);
    pairs.pair("block size", 512);
    assert_eq!(pairs.to_string(), "size        5\nblock size  512\n");
    assert_eq!(Table::new(&["A", "B"]).to_string(), "A  B\n");
}
