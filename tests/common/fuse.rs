//! nbdfuse and loop devices: an export as a file, and the file as a disk of the kernel.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::tools::{self, eventually, tool, wait};

/// An export mounted as a file, until this is dropped.
pub(crate) struct Fuse {
    child: Child,
    folder: PathBuf,
    fusermount: PathBuf,
    mounted: bool,
    pub(crate) file: PathBuf,
}

impl Fuse {
    /// `None`, said aloud, where there is no FUSE here.
    pub(crate) fn mount(folder: PathBuf, uri: &str) -> Option<Self> {
        let (nbdfuse, fusermount) = (tool("nbdfuse")?, tool("fusermount3")?);
        if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
            tools::skip("/dev/fuse is not usable here");
            return None;
        }
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("disk");
        let child = Command::new(nbdfuse)
            .arg(&file)
            .arg(uri)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let fuse = Fuse { child, folder, fusermount, mounted: true, file };
        eventually("nbdfuse shows its file", || fuse.file.exists().then_some(()));
        Some(fuse)
    }

    /// Stops (`STOP`) or continues (`CONT`) the program that serves the file: a disk that does not answer for a while.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Unmounts it; what was written is with the daemon then.
    pub(crate) fn unmount(mut self) {
        tools::run(&self.fusermount, ["-u".as_ref(), self.folder.as_os_str()]);
        self.mounted = false;
        let status = wait(&mut self.child, Duration::from_secs(20)).expect("nbdfuse ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.mounted {
            // Also where it ended by itself: the mount of a server that is gone stays.
            let _ = Command::new(&self.fusermount).args(["-u", "-z", "-q"]).arg(&self.folder).status();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A loop device with a file system of it mounted, until this is dropped. Root only.
pub(crate) struct Mounted {
    device: Option<PathBuf>,
    pub(crate) folder: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// Makes ext4 on the file through a loop device and mounts it; `None`, said aloud, where the machine has no loops.
    pub(crate) fn mkfs_ext4(file: &Path, folder: PathBuf) -> Option<Self> {
        let (losetup, mkfs, mount) = (tool("losetup")?, tool("mkfs.ext4")?, tool("mount")?);
        let output = tools::finish(Command::new(losetup).args(["--find", "--show"]).arg(file));
        if !output.status.success() {
            tools::skip(&format!("there is no loop device: {}", tools::both(&output).trim()));
            return None;
        }
        let device = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        let mut mounted = Mounted { device: Some(device.clone()), folder, mounted: false };
        std::fs::create_dir(&mounted.folder).unwrap();
        let ext4 = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        tools::run(&mkfs, ext4.iter().map(AsRef::as_ref).chain([device.as_os_str()]));
        tools::run(&mount, [device.as_os_str(), mounted.folder.as_os_str()]);
        mounted.mounted = true;
        Some(mounted)
    }

    /// Unmounts it and gives the loop device back.
    pub(crate) fn unmount(mut self) {
        tools::run(&tool("umount").unwrap(), [&self.folder]);
        self.mounted = false;
        let device = self.device.take().unwrap();
        tools::run(&tool("losetup").unwrap(), ["--detach".as_ref(), device.as_os_str()]);
        // The kernel lets go a little later; the file below must be free before FUSE is unmounted.
        let name = device.file_name().unwrap().to_owned();
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        eventually("the loop device is free", || (!backing.exists()).then_some(()));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        }
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").arg("--detach").arg(device).status();
        }
    }
}
