//! Where the file system of a device is mounted, and where on the device it begins.

use std::path::{Path, PathBuf};

use bowline_api::changes::ChangesParams;
use bowline_api::{ErrorKind, Mount};
use bowline_client::{Client, Error};
use bowline_kernel::mounts::{self, BlockDevice};

use crate::cli::{Failure, Result};

/// What to do where the mount point is not clear.
pub(super) const HINT: &str = "name the mount point of its file system with --mount PATH";

/// A mount point.
#[derive(Debug)]
pub(in super::super) struct Place {
    pub(super) path: PathBuf,
    begins: Begins,
}

/// Where the file system begins on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Begins {
    /// The daemon has found out.
    At(u64),
    /// It is told by this block device, once the size of ours is known.
    With(Box<Backing>),
}

/// A block device that is said to be ours or a partition of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backing {
    node: PathBuf,
    size: u64,
    /// What it is a partition of: the size of that, and where it begins there.
    whole: Option<(u64, u64)>,
}

impl Backing {
    fn of(device: &BlockDevice) -> Self {
        let whole = device.partition.and_then(|(parent, start)| {
            let parent = mounts::block_device(parent)?;
            Some((parent.size, start))
        });
        Backing { node: device.path.clone(), size: device.size, whole }
    }

    /// Where it begins on a device of `size` bytes.
    fn offset_in(&self, size: u64) -> std::result::Result<u64, String> {
        let node = self.node.display();
        match self.whole {
            Some((whole, start)) if whole == size => Ok(start),
            _ if self.size == size => Ok(0),
            Some((whole, _)) => Err(format!(
                "{node} has {} bytes, in a disk of {whole}, and the device has {size}: it is no partition of it",
                self.size
            )),
            None => Err(format!("{node} has {} bytes, and the device has {size}: it is another", self.size)),
        }
    }
}

fn failed(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{what}: {why}: {HINT}"))
}

impl Place {
    /// A mount point somebody named: on one block device at least.
    pub(super) fn given(path: &Path) -> Result<Self> {
        let what = format!("explain changes by the file system at {}", path.display());
        let path = std::fs::canonicalize(path).map_err(|error| failed(&what, error))?;
        let table = mounts::mounts().map_err(|error| failed(&what, error))?;
        // Of several in one place the last is seen.
        let mount = table.iter().rev().find(|mount| mount.mount_point == path);
        let mount = mount.ok_or_else(|| failed(&what, "nothing is mounted there"))?;
        let device = match mounts::devices_of(mount).as_slice() {
            [device] => Backing::of(device),
            [] => {
                let why = format!("its {} is on no block device", mount.fs_type);
                return Err(failed(&what, why));
            }
            several => {
                let why = format!("its {} is on {} block devices", mount.fs_type, several.len());
                return Err(failed(&what, why));
            }
        };
        Ok(Place { path, begins: Begins::With(Box::new(device)) })
    }

    /// The only one of those that the daemon found.
    fn only(name: &str, found: &[Mount]) -> Result<Self> {
        let what = format!("explain changes of {name}");
        match found {
            [mount] => {
                let begins = mount.offset.map(Begins::At);
                let begins = begins.ok_or_else(|| {
                    let why = format!("where {} begins on the device is not known", mount.source);
                    let hint = "mount it from the device itself, or from a partition of it";
                    Failure::Failed(format!("{what}: {why}: {hint}"))
                })?;
                Ok(Place { path: PathBuf::from(&mount.path), begins })
            }
            [] => Err(failed(&what, "no file system is found mounted from its exports or its images")),
            several => {
                let paths: Vec<&str> = several.iter().map(|mount| mount.path.as_str()).collect();
                let why = format!("it is mounted at {}", paths.join(" and "));
                Err(failed(&what, why))
            }
        }
    }

    /// Where the file system begins on the device, which has `size` bytes.
    pub(super) fn offset_in(&self, size: u64) -> std::result::Result<u64, String> {
        match &self.begins {
            Begins::At(offset) => Ok(*offset),
            Begins::With(backing) => backing.offset_in(size),
        }
    }
}

/// Asks the daemon: of the device first, then of its images at the ends of the interval, for a device that is in use by a
/// virtual machine is not mounted here, and its images can be.
pub(super) fn find(client: &Client, device: &str, params: &ChangesParams) -> Result<Place> {
    let ends = [&params.until, &params.since].into_iter().flatten();
    let images = ends.filter(|_| !device.contains('/')).map(|snapshot| format!("{snapshot}/{device}"));
    for name in std::iter::once(device.to_owned()).chain(images) {
        let found = match client.device_mounts(&name) {
            // An epoch, or a snapshot that is gone: it has no image.
            Err(Error::Refused(error)) if name != device && error.kind == ErrorKind::NotFound => continue,
            found => found?,
        };
        if !found.is_empty() {
            return Place::only(&name, &found);
        }
    }
    Place::only(device, &[])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn mount(path: &str, offset: Option<u64>) -> Mount {
        Mount { path: path.into(), file_system: "ext4".into(), source: "/dev/nbd0".into(), offset }
    }

    #[test]
    fn only_one_mount_is_taken() {
        let place = Place::only("disk", &[mount("/mnt", Some(4096))]).unwrap();
        assert_eq!((place.path.as_path(), place.offset_in(1 << 30)), (Path::new("/mnt"), Ok(4096)));
        for (found, part) in [
            (vec![], "no file system is found"),
            (vec![mount("/a", Some(0)), mount("/b", Some(1))], "mounted at /a and /b"),
            (vec![mount("/a", None)], "begins on the device is not known"),
        ] {
            let text = Place::only("disk", &found).unwrap_err().to_string();
            assert!(text.contains(part) && text.matches(": ").count() >= 2, "{text}");
        }
    }

    /// A wrong place would name the wrong files.
    #[test]
    fn a_block_device_of_another_size_is_refused() {
        let whole = Backing { node: "/dev/loop0".into(), size: 1 << 20, whole: None };
        assert_eq!(whole.offset_in(1 << 20), Ok(0));
        assert!(whole.offset_in(1 << 21).unwrap_err().contains("/dev/loop0 has 1048576 bytes"));
        let part = Backing { whole: Some((1 << 21, 4096)), ..whole };
        assert_eq!(part.offset_in(1 << 21), Ok(4096));
        assert_eq!(part.offset_in(1 << 20), Ok(0), "the device is the partition itself");
        assert!(part.offset_in(1 << 22).unwrap_err().contains("no partition of it"));
    }
}
