//! What a file or a device stands on, all the way down: so that nobody puts the copies of a snapshot into a file system
//! that lives on the snapshot's own origin, where the copy of a block would need a copy of its own, without end.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_block::Result;

use crate::mountinfo::{DevId, Mount};
use crate::mounts::{self, BlockDevice};
use crate::within::within;

/// Things that one stands on, at most.
const ANCESTORS_MAX: usize = 256;
/// How long a path may take to look up.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// Something that a file or device stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ancestor {
    /// A file: the one asked about, or one behind a loop device.
    File(PathBuf),
    /// A mounted file system that a file is in.
    FileSystem {
        /// Where it is mounted.
        mount_point: PathBuf,
        /// Its kind.
        fs_type: String,
        /// The `st_dev` of its files.
        dev: DevId,
    },
    /// A block device.
    Device(BlockDevice),
}

impl fmt::Display for Ancestor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::FileSystem { mount_point, fs_type, .. } => {
                write!(f, "the {fs_type} file system at {}", mount_point.display())
            }
            Self::Device(device) => write!(f, "{}", device.path.display()),
        }
    }
}

/// What `path` stands on, itself first: a file (which need not exist yet) or a block device.
///
/// # Errors
/// *Timeout* when the path is on a file system that does not answer; or what the operating system says.
pub fn ancestors(path: &Path) -> Result<Vec<Ancestor>> {
    let path = mounts::resolve(path, LOOKUP_LIMIT)?;
    Ok(of_path_in(&mounts::mounts()?, &path))
}

/// What a block device stands on, itself first.
///
/// # Errors
/// What is mounted cannot be learned.
pub fn ancestors_of_device(dev: DevId) -> Result<Vec<Ancestor>> {
    Ok(walk(&mounts::mounts()?, Step::Device(dev)))
}

/// As [`ancestors`], of a path without links and with the mounts given.
pub(crate) fn of_path_in(table: &[Mount], path: &Path) -> Vec<Ancestor> {
    let start = match mounts::device_number(path) {
        Some(dev) => Step::Device(dev),
        None => Step::File(path.to_owned()),
    };
    walk(table, start)
}

enum Step {
    File(PathBuf),
    Device(DevId),
}

fn walk(table: &[Mount], start: Step) -> Vec<Ancestor> {
    let mut found: Vec<Ancestor> = Vec::new();
    let mut steps = VecDeque::from([start]);
    while let Some(step) = steps.pop_front() {
        if found.len() >= ANCESTORS_MAX {
            break;
        }
        match step {
            Step::File(path) => {
                let file = Ancestor::File(path.clone());
                if found.contains(&file) {
                    continue;
                }
                found.push(file);
                if let Some(mount) = mounts::mount_of(table, &path) {
                    below_mount(mount, &mut found, &mut steps);
                }
            }
            Step::Device(dev) => {
                let Some(device) = mounts::block_device(dev) else { continue };
                let below = device.partition.map(|(parent, _)| parent);
                steps.extend(below.into_iter().chain(device.slaves.iter().copied()).map(Step::Device));
                steps.extend(device.loop_file.clone().map(Step::File));
                let device = Ancestor::Device(device);
                if !found.contains(&device) {
                    found.push(device);
                }
            }
        }
    }
    found
}

fn below_mount(mount: &Mount, found: &mut Vec<Ancestor>, steps: &mut VecDeque<Step>) {
    let (mount_point, fs_type) = (mount.mount_point.clone(), mount.fs_type.clone());
    let system = Ancestor::FileSystem { mount_point, fs_type, dev: mount.dev };
    if found.contains(&system) {
        return;
    }
    found.push(system);
    steps.extend(mounts::devices_of(mount).into_iter().map(|device| Step::Device(device.dev)));
    if mount.fs_type == "overlay" {
        // What is written goes to the upper folder, in another file system.
        let upper = mount.options.as_bytes().split(|&byte| byte == b',').find_map(|option| {
            option.strip_prefix(b"upperdir=").map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
        });
        steps.extend(upper.filter(|path| path.is_absolute()).map(Step::File));
    }
}

/// Whether `path` stands on `origin`, a file or a block device, and if so how: `the file /mnt/a/diff, on the ext4 file
/// system at /mnt/a, on /dev/loop0, on the file /srv/disk.img`. `None` when it does not. The origin itself counts.
///
/// # Errors
/// As [`ancestors`].
pub fn stands_on(path: &Path, origin: &Path) -> Result<Option<String>> {
    let chain = ancestors(path)?;
    let origin = Identity::of(origin)?;
    for (index, ancestor) in chain.iter().enumerate() {
        let same = match ancestor {
            Ancestor::File(file) => Identity::of(file).is_ok_and(|file| file == origin),
            Ancestor::Device(device) => origin == Identity::Device(device.dev),
            Ancestor::FileSystem { .. } => false,
        };
        if same {
            let names: Vec<String> = chain.iter().take(index + 1).map(ToString::to_string).collect();
            return Ok(Some(names.join(", on ")));
        }
    }
    Ok(None)
}

/// What makes two names one thing.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    Device(DevId),
    File {
        dev: u64,
        inode: u64,
    },
    /// A file that does not exist.
    Path(PathBuf),
}

impl Identity {
    fn of(path: &Path) -> Result<Self> {
        let path = mounts::resolve(path, LOOKUP_LIMIT)?;
        within(LOOKUP_LIMIT, &format!("looking at {}", path.display()), move || {
            Ok(match fs::metadata(&path) {
                Ok(meta) if meta.file_type().is_block_device() => Self::Device(DevId::of(meta.rdev())),
                Ok(meta) => Self::File { dev: meta.dev(), inode: meta.ino() },
                Err(_) => Self::Path(path),
            })
        })
    }
}
