//! What is mounted, and what block devices are made of. Asks `/proc` and `/sys` only: nothing is opened that somebody
//! else serves, so nothing here can hang.

use std::fs;
use std::io::{ErrorKind as IoKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bowline_block::{Error, ErrorKind, Result};

use crate::mountinfo;
pub use crate::mountinfo::{DevId, Mount};

/// Most of mountinfo that is read.
const MOUNTINFO_MAX: u64 = 64 << 20;
/// Most of a sysfs file that is read.
const SYSFS_MAX: u64 = 4096;
/// Most devices below one mapping, or of one btrfs, that are looked at.
const PARTS_MAX: usize = 256;
/// The unit of sizes in sysfs, whatever the device's block size.
const SECTOR_BYTES: u64 = 512;

/// A block device, as sysfs describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its number.
    pub dev: DevId,
    /// Its node: `/dev/loop0`.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// The file behind it, if it is a loop device. With ` (deleted)` behind the name when it has none any more.
    pub loop_file: Option<PathBuf>,
    /// What it is a partition of, and the byte where it begins there.
    pub partition: Option<(DevId, u64)>,
    /// What it is mapped to (device-mapper, md).
    pub slaves: Vec<DevId>,
}

/// A mounted file system and one of the block devices it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedDevice {
    /// Where it is mounted; one place, if there are several.
    pub mount_point: PathBuf,
    /// Its kind.
    pub fs_type: String,
    /// The device.
    pub device: BlockDevice,
}

/// Everything that is mounted, as this process sees it.
///
/// # Errors
/// `/proc/self/mountinfo` cannot be read.
pub fn mounts() -> Result<Vec<Mount>> {
    let failed = |error| Error::from_io("cannot read /proc/self/mountinfo", error);
    let mut text = Vec::new();
    let file = fs::File::open("/proc/self/mountinfo").map_err(failed)?;
    file.take(MOUNTINFO_MAX).read_to_end(&mut text).map_err(failed)?;
    Ok(mountinfo::parse(&text))
}

/// Every mounted file system that is on a block device, once per device however often it is mounted.
///
/// # Errors
/// What is mounted cannot be learned.
pub fn mounted_block_devices() -> Result<Vec<MountedDevice>> {
    let table = mounts()?;
    let mut found: Vec<MountedDevice> = Vec::new();
    // The whole of a file system first, then what shows only a part of it.
    let whole = table.iter().filter(|mount| mount.root == Path::new("/"));
    let parts = table.iter().filter(|mount| mount.root != Path::new("/"));
    for mount in whole.chain(parts) {
        for device in devices_of(mount) {
            if found.iter().all(|one| one.device.dev != device.dev) {
                let (mount_point, fs_type) = (mount.mount_point.clone(), mount.fs_type.clone());
                found.push(MountedDevice { mount_point, fs_type, device });
            }
        }
    }
    Ok(found)
}

/// The block devices that a mounted file system is on; none for those that need none.
#[must_use]
pub fn devices_of(mount: &Mount) -> Vec<BlockDevice> {
    if !mount.dev.is_anonymous() {
        return block_device(mount.dev).into_iter().collect();
    }
    // btrfs: the number is made up, the source is one of its devices, and sysfs knows all of them.
    let Some(first) = device_number(&mount.source).filter(|_| mount.fs_type == "btrfs") else {
        return Vec::new();
    };
    let Some(first) = block_device(first) else { return Vec::new() };
    let mut all = btrfs_devices(&first);
    if all.is_empty() {
        all.push(first);
    }
    all
}

/// The number of a block device node.
#[must_use]
pub fn device_number(node: &Path) -> Option<DevId> {
    // Only below /dev, where no file system of somebody else answers.
    let meta = node.starts_with("/dev").then(|| fs::metadata(node).ok())??;
    meta.file_type().is_block_device().then(|| DevId::of(meta.rdev()))
}

/// All devices of the btrfs that one is a member of.
fn btrfs_devices(member: &BlockDevice) -> Vec<BlockDevice> {
    let Ok(systems) = fs::read_dir("/sys/fs/btrfs") else { return Vec::new() };
    for system in systems.flatten() {
        let Ok(devices) = fs::read_dir(system.path().join("devices")) else { continue };
        let all: Vec<BlockDevice> = devices
            .flatten()
            .take(PARTS_MAX)
            .filter_map(|entry| DevId::parse(&sysfs(&entry.path().join("dev"))?))
            .filter_map(block_device)
            .collect();
        if all.iter().any(|device| device.dev == member.dev) {
            return all;
        }
    }
    Vec::new()
}

/// A block device by its number; `None` when there is none.
#[must_use]
pub fn block_device(dev: DevId) -> Option<BlockDevice> {
    let folder = fs::canonicalize(format!("/sys/dev/block/{dev}")).ok()?;
    let size = sysfs(&folder.join("size"))?.trim().parse::<u64>().ok()?;
    let partition = partition(&folder);
    Some(BlockDevice {
        dev,
        path: node(&folder)?,
        size: size.checked_mul(SECTOR_BYTES)?,
        loop_file: sysfs_path(&folder.join("loop/backing_file")),
        partition,
        slaves: slaves(&folder),
    })
}

/// The node in /dev: as the kernel names it, which may have a folder in it.
fn node(folder: &Path) -> Option<PathBuf> {
    let events = sysfs(&folder.join("uevent"))?;
    let name = events.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name))
}

fn partition(folder: &Path) -> Option<(DevId, u64)> {
    if !folder.join("partition").exists() {
        return None;
    }
    let start: u64 = sysfs(&folder.join("start"))?.trim().parse().ok()?;
    let parent = DevId::parse(&sysfs(&folder.parent()?.join("dev"))?)?;
    Some((parent, start.checked_mul(SECTOR_BYTES)?))
}

fn slaves(folder: &Path) -> Vec<DevId> {
    let Ok(entries) = fs::read_dir(folder.join("slaves")) else { return Vec::new() };
    let number = |entry: fs::DirEntry| DevId::parse(&sysfs(&entry.path().join("dev"))?);
    entries.flatten().take(PARTS_MAX).filter_map(number).collect()
}

fn sysfs_bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(SYSFS_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn sysfs(path: &Path) -> Option<String> {
    String::from_utf8(sysfs_bytes(path)?).ok()
}

fn sysfs_path(path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = sysfs_bytes(path)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    (!bytes.is_empty()).then(|| std::ffi::OsString::from_vec(bytes).into())
}

/// The mount that a path is on: the deepest, and of those in one place the last, which hides the others. The path is
/// absolute and has no links in it.
#[must_use]
pub fn mount_of<'a>(table: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let on = table.iter().filter(|mount| path.starts_with(&mount.mount_point));
    on.max_by_key(|mount| mount.mount_point.components().count())
}

/// A path without links, also of a file that does not exist yet, or that somebody else serves and may never answer for.
pub(crate) fn resolve(path: &Path, limit: std::time::Duration) -> Result<PathBuf> {
    let asked = path.to_owned();
    let what = format!("looking up {}", path.display());
    crate::within::within(limit, &what, move || {
        let mut existing = std::path::absolute(&asked)
            .map_err(|error| Error::from_io(format!("{} is no path", asked.display()), error))?;
        let mut missing = Vec::new();
        loop {
            match fs::canonicalize(&existing) {
                Ok(found) => return Ok(missing.iter().rev().fold(found, |path, name| path.join(name))),
                Err(error) if error.kind() == IoKind::NotFound => {
                    let Some(name) = existing.file_name().map(ToOwned::to_owned) else {
                        return Err(Error::new(ErrorKind::NotFound, format!("no {}", asked.display())));
                    };
                    missing.push(name);
                    existing.pop();
                }
                Err(error) => {
                    return Err(Error::from_io(format!("cannot look up {}", asked.display()), error));
                }
            }
        }
    })
}
