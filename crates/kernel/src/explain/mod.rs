//! Which files own given bytes of a device: what an increment of a backup is made of.
//!
//! Design notes: the tree of the file system is walked once, and every file claims the bytes that are its own; of what
//! is left the file system itself tells what it is for (`GETFSMAP`). A byte is claimed once, by whoever comes first: hard
//! links and shared extents do not count twice, and the shares always sum up to what was asked, also when the file
//! system changes meanwhile. Nothing is written, no link followed, no other file system entered.
//!
//! Left as *unknown*: files that are deleted and still open, files under another mount, and on ext4 and on xfs without
//! reverse mapping what belongs to a file and is no data of it (extended attributes, trees of extents; on xfs all
//! metadata but the journal).

mod claims;
mod journal;
mod walk;

use std::collections::HashSet;
use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bowline_block::{ByteRange, Error, ErrorKind, Result};

use crate::fiemap::{Which, for_each_extent};
use crate::fsmap::{self, for_each_mapping};
use crate::mountinfo::{DevId, Mount};
use crate::mounts;
use claims::Claims;
use walk::{Entry, Walk};

/// Files told apart; the least of more are put together.
const FILES_MAX: usize = 65_536;
/// Extents that can be explained at once.
pub const EXTENTS_MAX: usize = 2_000_000;
/// Folders remembered, to tell their bytes from those of deleted files.
const FOLDERS_MAX: usize = 1_000_000;

/// What owns bytes of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ByteOwner {
    /// A file, or a folder, by its path.
    File(PathBuf),
    /// Files of which there are too many to name.
    OtherFiles,
    /// The file system itself: which part of it.
    Metadata(&'static str),
    /// Nothing: what was there was deleted.
    Free,
    /// In use, and what for cannot be told.
    Unknown,
    /// Not of this file system: another partition, for one.
    Outside,
}

impl fmt::Display for ByteOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::OtherFiles => f.write_str("other files"),
            Self::Metadata(part) => write!(f, "metadata ({part})"),
            Self::Free => f.write_str("free"),
            Self::Unknown => f.write_str("unknown"),
            Self::Outside => f.write_str("outside the file system"),
        }
    }
}

/// What one owner has of the bytes asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Who.
    pub owner: ByteOwner,
    /// How many bytes.
    pub bytes: u64,
    /// In how many pieces.
    pub extents: u64,
}

/// The answer: shares, the largest first, whose bytes sum up to `bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Who owns how much.
    pub shares: Vec<Share>,
    /// Bytes asked about.
    pub bytes: u64,
    /// Why not every file was looked at, if so: bytes of others are *unknown* then.
    pub incomplete: Option<String>,
}

/// How much work an explanation may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files looked at.
    pub files: u64,
    /// How long.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 20_000_000, time: Duration::from_secs(600) }
    }
}

/// Explains `extents` of a device, on which the file system mounted at `mount_point` begins at byte `offset` (0, or where
/// its partition begins).
///
/// # Errors
/// *Unsupported* for other file systems than ext2, ext3, ext4 and xfs, with the reason; *not found* when nothing is mounted
/// there; *invalid* when there are too many extents; *denied* without the privilege to open every file; or what the
/// operating system says.
pub fn explain(
    mount_point: &Path,
    offset: u64,
    extents: &[ByteRange],
    limits: Limits,
) -> Result<Explanation> {
    if extents.len() > EXTENTS_MAX {
        let why = format!("{} extents are too many to explain, {EXTENTS_MAX} can be", extents.len());
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    let table = mounts::mounts()?;
    let mount = table.iter().rev().find(|mount| mount.mount_point == mount_point).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("nothing is mounted at {}", mount_point.display()))
    })?;
    check_kind(mount)?;
    let device = mounts::block_device(mount.dev).ok_or_else(|| {
        let why = format!("{} is on no block device that is known", mount_point.display());
        Error::new(ErrorKind::NotFound, why)
    })?;
    let (claims, outside) = Claims::new(extents, offset, device.size);
    let mut work = Work::new(mount, claims, limits);
    work.share(ByteOwner::Outside, outside);
    let walk = Walk::open(mount_point, mount.dev)?;
    work.journal(&device.path, &mount.fs_type);
    work.files(&walk);
    work.file_system(walk.root(), mount.dev)?;
    Ok(work.finish(mount))
}

fn check_kind(mount: &Mount) -> Result<()> {
    let refuse = |why: &str| {
        let place = mount.mount_point.display();
        Err(Error::new(ErrorKind::Unsupported, format!("the {} at {place} {why}", mount.fs_type)))
    };
    match mount.fs_type.as_str() {
        "xfs" if mount.options.to_string_lossy().contains("rtdev=") => {
            refuse("has a realtime volume: which of its devices an extent is on is not told")
        }
        "ext2" | "ext3" | "ext4" | "xfs" => Ok(()),
        "btrfs" => refuse("tells logical addresses of its own, not bytes of its device"),
        _ => refuse("cannot be explained: only ext2, ext3, ext4 and xfs can"),
    }
}

/// An explanation in the making.
struct Work {
    mount_point: PathBuf,
    claims: Claims,
    named: Vec<Share>,
    others: Vec<Share>,
    folders: HashSet<u64>,
    limits: Limits,
    deadline: Instant,
    files_seen: u64,
    incomplete: Option<String>,
}

impl Work {
    fn new(mount: &Mount, claims: Claims, limits: Limits) -> Self {
        Self {
            mount_point: mount.mount_point.clone(),
            claims,
            named: Vec::new(),
            others: Vec::new(),
            folders: HashSet::new(),
            limits,
            deadline: Instant::now() + limits.time,
            files_seen: 0,
            incomplete: None,
        }
    }

    /// Adds to one of the owners that are not files.
    fn share(&mut self, owner: ByteOwner, (bytes, extents): (u64, u64)) {
        if bytes == 0 {
            return;
        }
        match self.others.iter_mut().find(|share| share.owner == owner) {
            Some(share) => {
                share.bytes += bytes;
                share.extents += extents;
            }
            None => self.others.push(Share { owner, bytes, extents }),
        }
    }

    /// The journal first: a file system that does not say where it is counts it as in use, for what it does not say.
    fn journal(&mut self, device: &Path, fs_type: &str) {
        match journal::places(device, fs_type) {
            Ok(places) => {
                for place in places {
                    let claimed = self.claims.take(place);
                    self.share(ByteOwner::Metadata("journal"), claimed);
                }
            }
            // It is unknown then, and that is no reason not to name files.
            Err(error) => tracing::warn!(device = %device.display(), %error, "no journal found"),
        }
    }

    /// Lets every file claim what is its own.
    fn files(&mut self, walk: &Walk) {
        let result = walk.run(|entry| self.file(&entry));
        if let Err(why) = result {
            self.incomplete.get_or_insert(why);
        }
    }

    fn file(&mut self, entry: &Entry<'_>) -> ControlFlow<()> {
        if self.claims.is_empty() {
            return ControlFlow::Break(());
        }
        self.files_seen += 1;
        if self.files_seen > self.limits.files || Instant::now() > self.deadline {
            let why = format!("{} files were looked at, within {:?}", self.files_seen - 1, self.limits.time);
            self.incomplete = Some(why);
            return ControlFlow::Break(());
        }
        if entry.is_folder && self.folders.len() < FOLDERS_MAX {
            self.folders.insert(entry.inode);
        }
        let (mut bytes, mut pieces) = (0, 0);
        let claims = &mut self.claims;
        // A file that cannot tell (a folder of xfs, for one) claims nothing.
        let _ = for_each_extent(entry.file, Which::Written, |extent| {
            let claimed = claims.take(extent.physical);
            bytes += claimed.0;
            pieces += claimed.1;
            ControlFlow::Continue(())
        });
        if bytes > 0 {
            // By its parts: the root has no name, and joining none would leave a slash behind.
            let path = self.mount_point.join(entry.path()).components().collect();
            self.named.push(Share { owner: ByteOwner::File(path), bytes, extents: pieces });
            if self.named.len() >= 2 * FILES_MAX {
                self.put_least_together();
            }
        }
        if self.claims.pieces() > 4 * EXTENTS_MAX {
            self.incomplete = Some("what is left is in too many pieces".to_owned());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn put_least_together(&mut self) {
        self.named.sort_by(|one, other| other.bytes.cmp(&one.bytes).then(one.owner.cmp(&other.owner)));
        let least = self.named.split_off(FILES_MAX.min(self.named.len()));
        let sum = least.iter().fold((0, 0), |sum, share| (sum.0 + share.bytes, sum.1 + share.extents));
        self.share(ByteOwner::OtherFiles, sum);
    }

    /// Asks the file system about what is left.
    fn file_system(&mut self, root: &OwnedFd, dev: DevId) -> Result<()> {
        if let Some(span) = self.claims.span() {
            let mut found: Vec<(ByteOwner, (u64, u64))> = Vec::new();
            let (claims, folders) = (&mut self.claims, &self.folders);
            let told = for_each_mapping(root, dev, span, |mapping| {
                let owner = match mapping.owner {
                    fsmap::Owner::Free => ByteOwner::Free,
                    fsmap::Owner::Journal => ByteOwner::Metadata("journal"),
                    fsmap::Owner::Inodes => ByteOwner::Metadata("inodes"),
                    fsmap::Owner::Metadata => ByteOwner::Metadata("tables and trees"),
                    fsmap::Owner::InodeMetadata(_) => ByteOwner::Metadata("attributes and extent trees"),
                    fsmap::Owner::Inode(inode) if folders.contains(&inode) => ByteOwner::Metadata("folders"),
                    fsmap::Owner::Inode(_) | fsmap::Owner::Unknown => return ControlFlow::Continue(()),
                };
                let claimed = claims.take(mapping.physical);
                if claimed.0 > 0 {
                    match found.iter_mut().find(|(known, _)| *known == owner) {
                        Some((_, sum)) => *sum = (sum.0 + claimed.0, sum.1 + claimed.1),
                        None => found.push((owner, claimed)),
                    }
                }
                if claims.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            for (owner, sum) in found {
                self.share(owner, sum);
            }
            match told {
                // An old kernel, or a file system made without what it takes: the rest is unknown.
                Err(error) if error.kind() == ErrorKind::Denied => return Err(error),
                Err(error) => {
                    self.incomplete.get_or_insert(error.to_string());
                }
                Ok(()) => {}
            }
        }
        let left = self.claims.take_all();
        self.share(ByteOwner::Unknown, left);
        Ok(())
    }

    fn finish(mut self, mount: &Mount) -> Explanation {
        self.put_least_together();
        let mut shares = self.named;
        shares.append(&mut self.others);
        shares.sort_by(|one, other| other.bytes.cmp(&one.bytes).then(one.owner.cmp(&other.owner)));
        let bytes = shares.iter().map(|share| share.bytes).sum();
        let partial = (mount.root != Path::new("/")).then(|| {
            format!("{} shows only {} of its file system", mount.mount_point.display(), mount.root.display())
        });
        Explanation { shares, bytes, incomplete: self.incomplete.or(partial) }
    }
}
