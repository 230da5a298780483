//! Loop devices and file systems on them, taken down again whatever happens.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // helpers of tests

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Whether this machine lets a test have what it needs; without it the test is skipped, and fails where all must run.
pub fn can(tools: &[&str]) -> bool {
    let missing = if rustix::process::geteuid().is_root() {
        let found = |tool: &&str| {
            ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
                .iter()
                .any(|folder| Path::new(folder).join(tool).exists())
        };
        let loops = Path::new("/dev/loop-control").exists();
        let tool = tools.iter().chain(&["losetup", "mount", "umount"]).find(|tool| !found(tool));
        tool.map(|tool| format!("{tool} is not installed")).or((!loops).then(|| "no loop devices".to_owned()))
    } else {
        Some("root is needed for loop devices and mounts".to_owned())
    };
    if let Some(why) = missing {
        assert!(std::env::var_os("BOWLINE_CI").is_none_or(|value| value.is_empty()), "{why}");
        println!("skipped: {why}");
        return false;
    }
    true
}

pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new("timeout").arg("60").arg(program).args(arguments).output().unwrap()
}

/// What a program printed; it must have succeeded.
pub fn said(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {err}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device over a file.
pub struct Loop {
    pub node: PathBuf,
    pub file: PathBuf,
}

impl Loop {
    pub fn new(file: &Path, size: u64) -> Self {
        // What is there already may not let itself be resized.
        if std::fs::metadata(file).map_or(0, |meta| meta.len()) != size {
            let options = File::options().write(true).create(true).truncate(false).open(file);
            options.unwrap().set_len(size).unwrap();
        }
        let node = said("losetup", &["--find", "--show", file.to_str().unwrap()]);
        Self { node: node.into(), file: file.to_owned() }
    }

    /// Adds a partition from `start` on, as if there were a table that says so: not every kernel reads tables.
    pub fn partition(&self, start: u64, length: u64) -> PathBuf {
        let sectors = |bytes: u64| (bytes / 512).to_string();
        // One that somebody who was killed has left on this number would be in the way.
        let _ = run("delpart", &[self.node(), "1"]);
        said("addpart", &[self.node(), "1", &sectors(start), &sectors(length)]);
        format!("{}p1", self.node()).into()
    }

    pub fn node(&self) -> &str {
        self.node.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("delpart", &[self.node(), "1"]);
        let _ = run("losetup", &["--detach", self.node()]);
    }
}

/// A mounted file system.
pub struct Mounted {
    pub at: PathBuf,
}

impl Mounted {
    /// Makes a file system on a device and mounts it.
    pub fn make(kind: &str, node: &str, at: &Path) -> Self {
        let force = if kind == "ext4" { "-F" } else { "-f" };
        said(&format!("mkfs.{kind}"), &["-q", force, node]);
        Self::mount(kind, node, at)
    }

    pub fn mount(kind: &str, node: &str, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        said("mount", &["-t", kind, node, at.to_str().unwrap()]);
        Self { at: at.to_owned() }
    }

    pub fn sync(&self) {
        rustix::fs::syncfs(File::open(&self.at).unwrap()).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..50 {
            if run("umount", &[self.at.to_str().unwrap()]).status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = run("umount", &["--lazy", self.at.to_str().unwrap()]);
    }
}
