//! The whole tour, as a user runs it: the first command of the README must do what it says.
#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn tour(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.arg("tour").args(args).env("TMPDIR", folder).stdin(Stdio::null());
    command
}

/// Runs it to its end; nothing may be left.
fn run(args: &[&str]) -> (String, Output) {
    let folder = tempfile::tempdir().unwrap();
    let output = tour(folder.path(), args).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something is left behind");
    (text, output)
}

/// The lines of a step.
fn step<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text.lines().find(|line| line.starts_with(&format!("{name:<9} ")));
    found.unwrap_or_else(|| panic!("no step {name} in:\n{text}"))
}

#[test]
fn the_tour_proves_what_it_says() {
    let (text, output) = run(&[]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "bars and logs are for terminals");
    for (name, words) in [
        ("serve", "disk.img  nbd+unix:///disk.img?socket="),
        ("write", "numbered writes of 4K"),
        ("snapshot", "the disk was frozen for"),
        ("read", "the image tour/disk.img over NBD, 256M at"),
        ("writer", "writes/s before the take"),
        ("prove", "exactly the writes 1.."),
        ("flip", "one byte flipped in memory is noticed: byte "),
        ("changes", "none is missing"),
        ("stop", "SIGTERM, exit 0; disk.img holds exactly the writes 1.."),
    ] {
        assert!(step(&text, name).contains(words), "{name}:\n{text}");
    }
    if step(&text, "disk").contains("ext4 with") {
        assert!(step(&text, "fsck").contains("e2fsck -f -n finds the image clean"), "{text}");
    }
    assert!(text.contains("one character is") && text.contains("unchanged"), "no map:\n{text}");
    assert!(text.contains("bowline snapshot take disk.img"), "nothing to try next:\n{text}");
}

#[test]
fn without_a_file_system_it_says_so_and_as_json_it_is_one_document() {
    let (text, _) = run(&["--patterned", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let steps = document["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert!(names.starts_with(&["disk", "serve", "write", "snapshot"]), "{names:?}");
    assert_eq!(names.last(), Some(&"stop"));
    for (name, words) in [("disk", "no file system"), ("fsck", "skipped"), ("stop", "SIGTERM, exit 0")] {
        let step = steps.iter().find(|step| step["name"] == name).unwrap();
        assert!(step["text"].as_str().unwrap().contains(words), "{step}");
    }
}

/// Waits until `met`; the daemon is a process of another parent, so it can only be looked at.
fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that were started with this text in an argument.
fn processes_with(text: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}

#[test]
fn a_signal_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().to_str().unwrap();
    let mut command = tour(folder.path(), &["--patterned"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the daemon does not start", || {
        assert_eq!(child.try_wait().unwrap(), None, "the tour ended");
        processes_with(mark) == 1
            && std::fs::read_dir(folder.path())
                .unwrap()
                .flatten()
                .any(|entry| entry.path().join("nbd.sock").exists())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    let mut told = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut told).unwrap();
    assert_eq!((status.code(), told.lines().count()), (Some(130), 1), "{told}");
    assert!(told.contains("nothing is left behind"), "{told}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the folder is left");
    assert_eq!(processes_with(mark), 0, "the daemon still runs");
}
