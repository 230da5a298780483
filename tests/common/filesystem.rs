//! File systems of the kernel on loop devices: made, mounted, unmounted and checked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::MIB;
use super::fuse::Fuse;
use super::tools::{self, both, eventually, finish, tool};

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    /// What its mkfs accepts, and little more.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Kind::Ext4 => 96 * MIB,
            Kind::Xfs => 320 * MIB,
            Kind::Btrfs => 192 * MIB,
        }
    }

    /// Whether its programs are here and an image of it can be mounted beside its origin; why not is said aloud.
    pub(crate) fn is_usable(self) -> bool {
        let checker = match self {
            Kind::Ext4 => "e2fsck",
            Kind::Xfs => "xfs_repair",
            Kind::Btrfs => "btrfs",
        };
        let mkfs = format!("mkfs.{}", self.name());
        if [&mkfs, checker, "mount", "umount", "losetup"].iter().any(|name| tool(name).is_none()) {
            return false;
        }
        // Two btrfs of one fsid: a kernel that cannot give the second a temporary one confuses their devices.
        let can = self != Kind::Btrfs || Path::new("/sys/fs/btrfs/features/temp_fsid").exists();
        if !can {
            tools::skip("this kernel's btrfs has no temp_fsid (6.7)");
        }
        can
    }

    /// Makes one on a device or file.
    pub(crate) fn make(self, device: &Path) {
        let args: &[&str] = match self {
            Kind::Ext4 => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Kind::Xfs | Kind::Btrfs => &["-q", "-f"],
        };
        let mkfs = tool(&format!("mkfs.{}", self.name())).unwrap();
        tools::run(&mkfs, args.iter().map(AsRef::as_ref).chain([device.as_os_str()]));
    }

    /// How an image is mounted beside its origin: xfs refuses a second one of the same UUID unless told, and btrfs
    /// gives it a temporary fsid by itself.
    pub(crate) fn image_options(self) -> &'static str {
        match self {
            Kind::Ext4 | Kind::Btrfs => "rw",
            Kind::Xfs => "nouuid",
        }
    }

    /// How a sound one is mounted without a write, its journal unread.
    pub(crate) fn unreplayed_options(self) -> &'static str {
        match self {
            Kind::Ext4 => "ro,noload",
            Kind::Xfs => "ro,norecovery,nouuid",
            Kind::Btrfs => "ro,rescue=nologreplay",
        }
    }

    /// What its checker says of an unmounted one, when that is not "clean".
    pub(crate) fn check(self, device: &Path) -> Result<(), String> {
        let (program, args): (&str, &[&str]) = match self {
            Kind::Ext4 => ("e2fsck", &["-f", "-n"]),
            Kind::Xfs => ("xfs_repair", &["-n"]),
            Kind::Btrfs => ("btrfs", &["check", "--readonly"]),
        };
        let checked = finish(Command::new(tool(program).unwrap()).args(args).arg(device));
        if checked.status.code() == Some(0) { Ok(()) } else { Err(both(&checked)) }
    }
}

/// A loop device, without a page cache of its own, that the kernel frees once nobody uses it.
pub(crate) struct Loop {
    pub(crate) device: PathBuf,
    /// Keeps it while nothing is mounted from it.
    held: File,
}

impl Loop {
    /// `None`, said aloud, where the machine has no loop devices.
    pub(crate) fn attach(file: &Path) -> Option<Self> {
        let losetup = tool("losetup")?;
        let output = finish(Command::new(&losetup).args(["--direct-io=on", "--find", "--show"]).arg(file));
        if !output.status.success() {
            tools::skip(&format!("there is no loop device: {}", both(&output).trim()));
            return None;
        }
        let device = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        let held = File::open(&device).unwrap();
        // It is in use, so this only marks it: it goes with its last user, which may be a killed test.
        tools::run(&losetup, ["--detach".as_ref(), device.as_os_str()]);
        Some(Loop { device, held })
    }

    /// Gives it back; the file below is nobody's then.
    pub(crate) fn free(self) {
        drop(self.held);
        let name = self.device.file_name().unwrap();
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        eventually("the loop device is free", || (!backing.exists()).then_some(()));
    }
}

/// A mounted loop device, unmounted when this is dropped.
pub(crate) struct Mount {
    disk: Option<Loop>,
    pub(crate) folder: PathBuf,
}

impl Mount {
    pub(crate) fn new(disk: Loop, kind: Kind, options: &str, folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        if kind == Kind::Btrfs {
            // The kernel remembers what was on a loop device of that number before, and takes a second file system of
            // an fsid for that. It may know nothing of it: no failure.
            let forget = ["device", "scan", "--forget"].map(AsRef::as_ref);
            let mut command = Command::new(tool("btrfs").unwrap());
            finish(command.args(forget.into_iter().chain([disk.device.as_os_str()])));
        }
        let arguments = ["-t", kind.name(), "-o", options].map(AsRef::as_ref);
        let places = [disk.device.as_os_str(), folder.as_os_str()];
        tools::run(&tool("mount").unwrap(), arguments.into_iter().chain(places));
        Mount { disk: Some(disk), folder }
    }

    /// Unmounts it; the loop device stays.
    pub(crate) fn unmount(mut self) -> Loop {
        tools::run(&tool("umount").unwrap(), [&self.folder]);
        self.disk.take().unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.disk.is_some() {
            let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
        }
    }
}

/// An export as a file, and that as a loop device with a file system that is mounted.
pub(crate) struct Attached {
    mount: Mount,
    fuse: Fuse,
    kind: Kind,
}

impl Attached {
    /// Makes a file system on an export, and then as [`Attached::new`].
    pub(crate) fn make(folder: &Path, uri: &str, kind: Kind, options: &str) -> Option<Self> {
        let (fuse, disk) = Attached::disk(folder, uri)?;
        kind.make(&disk.device);
        disk.free();
        fuse.unmount();
        Attached::new(folder, uri, kind, options)
    }

    /// Mounts it below a folder; `None`, said aloud, where there is neither FUSE nor loop.
    pub(crate) fn new(folder: &Path, uri: &str, kind: Kind, options: &str) -> Option<Self> {
        let (fuse, disk) = Attached::disk(folder, uri)?;
        let mount = Mount::new(disk, kind, options, folder.join("mnt"));
        Some(Attached { mount, fuse, kind })
    }

    fn disk(folder: &Path, uri: &str) -> Option<(Fuse, Loop)> {
        let fuse = Fuse::mount(folder.join("fuse"), uri)?;
        let disk = Loop::attach(&fuse.file)?;
        Some((fuse, disk))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.mount.folder
    }

    /// From now on nothing answers, until [`Attached::go_on_serving`].
    pub(crate) fn stop_serving(&self) {
        self.fuse.signal(Signal::STOP);
    }

    pub(crate) fn go_on_serving(&self) {
        self.fuse.signal(Signal::CONT);
    }

    /// Unmounts and detaches it; the file system must be clean.
    pub(crate) fn detach_clean(self) {
        let kind = self.kind;
        assert_eq!(self.detach(|disk| kind.check(disk)), Ok(()), "{kind:?}");
    }

    /// Unmounts and detaches it, having asked something of the device between.
    pub(crate) fn detach<T>(self, ask: impl FnOnce(&Path) -> T) -> T {
        let disk = self.mount.unmount();
        let answer = ask(&disk.device);
        disk.free();
        self.fuse.unmount();
        answer
    }

    /// Unmounts and detaches what has no server any more.
    pub(crate) fn abandon(self) {
        self.mount.unmount().free();
        drop(self.fuse);
    }
}
