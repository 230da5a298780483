//! Programs that tests run, each with a time limit; a missing one skips the test, but never under CI.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest any program of a test may run.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Whether nothing may be skipped.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("BOWLINE_CI").is_some_and(|value| !value.is_empty())
}

/// Says that a test is skipped, and why; under CI that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(!in_ci(), "nothing may be skipped under CI, but {why}");
    eprintln!("skipped: {why}");
}

/// The path of a program; `None`, said aloud, where it is not installed.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Whether this is root; where it is not, that is said, and under CI it is a failure.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("this part needs root");
    }
    root
}

/// Runs a program to its end; it must succeed. Returns what it wrote to stdout.
pub(crate) fn run<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> String {
    let mut command = Command::new(program);
    command.args(args);
    let output = finish(&mut command);
    assert!(output.status.success(), "{command:?} failed with {}\n{}", output.status, both(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program to its end, however it ends.
pub(crate) fn finish(command: &mut Command) -> Output {
    finish_within(command, LIMIT)
}

/// As [`finish`], with another limit.
pub(crate) fn finish_within(command: &mut Command, limit: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || read_all(&mut out));
    let err = std::thread::spawn(move || read_all(&mut err));
    let status = wait(&mut child, limit);
    let killed = status.is_none();
    let status = status.unwrap_or_else(|| {
        let _ = child.kill();
        child.wait().unwrap()
    });
    let output = Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() };
    assert!(!killed, "{command:?} did not end within {limit:?}\n{}", both(&output));
    output
}

fn read_all(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// Waits for a child at most `limit`; `None` if it still runs then.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks again and again, at most ten seconds, until the answer is there.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a program wrote to stdout and stderr.
pub(crate) fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A new file that is one hole.
pub(crate) fn sparse_file(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

/// A file's contents.
pub(crate) fn file_bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Bytes that no compression or zero detection shortens; another seed, other bytes.
pub(crate) fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let bytes = usize::try_from(bytes).unwrap();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// `length` bytes from `offset` on.
pub(crate) fn part(bytes: &[u8], offset: u64, length: u64) -> &[u8] {
    &bytes[usize::try_from(offset).unwrap()..][..usize::try_from(length).unwrap()]
}

/// Appends a run of zeroes.
pub(crate) fn append_zeroes(bytes: &mut Vec<u8>, count: u64) {
    bytes.resize(bytes.len() + usize::try_from(count).unwrap(), 0);
}

/// Where two byte strings differ first, if they do: a whole disk in a message helps nobody.
pub(crate) fn first_difference(one: &[u8], other: &[u8]) -> Option<String> {
    if one.len() != other.len() {
        return Some(format!("{} and {} bytes", one.len(), other.len()));
    }
    // As a whole first: byte by byte takes a second for a disk.
    if one == other {
        return None;
    }
    let at = one.iter().zip(other).position(|(one, other)| one != other)?;
    let differ = one.iter().zip(other).filter(|(one, other)| one != other).count();
    Some(format!("the first of {differ} differing bytes is at {at}: {:#x} and {:#x}", one[at], other[at]))
}
