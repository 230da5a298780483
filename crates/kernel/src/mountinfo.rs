//! `/proc/self/mountinfo`: what is mounted where. Untrusted text: mount points and sources are anybody's names.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Mounts that are looked at; a machine with more has them for containers.
const MOUNTS_MAX: usize = 65_536;

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevId {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl DevId {
    /// From what `stat` gives.
    #[must_use]
    pub fn of(raw: u64) -> Self {
        Self { major: rustix::fs::major(raw), minor: rustix::fs::minor(raw) }
    }

    /// Whether no block device has it: a file system that has none, or several (btrfs).
    #[must_use]
    pub const fn is_anonymous(self) -> bool {
        self.major == 0
    }

    /// From `M:m`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// As the kernel puts it into 32 bits.
    pub(crate) const fn packed(self) -> u32 {
        (self.minor & 0xff) | (self.major << 8) | ((self.minor & !0xff) << 12)
    }
}

impl fmt::Display for DevId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The number of the mount itself.
    pub id: u64,
    /// The `st_dev` of its files.
    pub dev: DevId,
    /// Which folder of the file system is seen there; `/` unless it is a bind mount or a subvolume.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// The kind of file system.
    pub fs_type: String,
    /// What was mounted, as told by whoever mounted it: often a device, sometimes any word.
    pub source: PathBuf,
    /// Options of the file system, as one string.
    pub options: OsString,
}

/// The mounts of a mountinfo text, in the order they were made. Lines that are none are left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(line).take(MOUNTS_MAX).collect()
}

/// `id parent major:minor root mount-point options [optional]... - type source super-options`
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let dev = DevId::parse(std::str::from_utf8(fields.nth(1)?).ok()?)?;
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(tail.next()?).into_owned();
    // An empty source leaves two spaces, and then the options stand in its place: no harm, nothing is found by it.
    let source = path(tail.next().unwrap_or_default());
    let options = OsString::from_vec(unescape(tail.next().unwrap_or_default()));
    Some(Mount { id, dev, root, mount_point, fs_type, source, options })
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

/// Undoes `\040` and its like: what the kernel escapes are space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let Some((digits, after)) = tail.split_first_chunk::<3>()
            && let Some(byte) = octal(*digits)
        {
            bytes.push(byte);
            rest = after;
            continue;
        }
        bytes.push(first);
        rest = tail;
    }
    bytes
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let value = digits.iter().try_fold(0_u32, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        Some(value * 8 + u32::from(digit))
    })?;
    u8::try_from(value).ok()
}
