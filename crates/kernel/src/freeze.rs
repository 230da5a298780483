//! A mounted file system held for an instant, so that what is on its device is what it would be after a clean sync.
//!
//! Design notes: `FIFREEZE` waits, uninterruptibly, for writes under way, and those may wait for anything. So each freeze
//! has a thread of its own, which does the ioctl, waits for the guard to let go, and thaws. When the caller's limit
//! passes first, the thread thaws as soon as the ioctl returns; when the guard is held longer than it may, the thread
//! thaws by itself (a dead man's switch): a daemon that hangs leaves nothing frozen. A daemon that is killed outright
//! leaves it frozen; then the device below is gone too, and `fsfreeze -u` or an unmount ends it.
//!
//! | state | leaves to | when |
//! |-------|-----------|------|
//! | Freezing | Frozen, Failed | the ioctl returned |
//! | Freezing | Abandoned | the caller's limit passed |
//! | Abandoned | Thawed | the ioctl returned, and the file system was thawed at once |
//! | Frozen | Release | the guard lets go |
//! | Frozen | Thawed | held too long: thawed without being asked |
//! | Release | Thawed | the thread thawed |

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bowline_block::{Error, ErrorKind, Result};

use crate::{ancestors, mounts, sys, within};

/// What a thaw is waited for.
const THAW_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum State {
    Freezing,
    Abandoned,
    Failed(Option<Error>),
    Frozen,
    Release,
    Thawed { late: bool, result: Result<()> },
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }
}

/// A frozen file system. Thawed when dropped, or when held for too long.
pub struct FrozenFs {
    mount_point: PathBuf,
    shared: Arc<Shared>,
    hold: Duration,
}

impl std::fmt::Debug for FrozenFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenFs").field("mount_point", &self.mount_point).finish_non_exhaustive()
    }
}

impl FrozenFs {
    /// Freezes within `limit`, to be held for as long again at most.
    ///
    /// # Errors
    /// *Timeout* when writers did not come to rest in time: then it is thawed as soon as it freezes. *Busy* when it is
    /// frozen already, *unsupported* when its kind cannot be, *denied* without `CAP_SYS_ADMIN`.
    pub fn freeze(mount_point: &Path, limit: Duration) -> Result<Self> {
        Self::freeze_and_hold(mount_point, limit, limit)
    }

    /// Freezes within `limit`, to be held for at most `hold`.
    ///
    /// # Errors
    /// As [`FrozenFs::freeze`].
    pub fn freeze_and_hold(mount_point: &Path, limit: Duration, hold: Duration) -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::Freezing), changed: Condvar::new() });
        let (inner, path) = (shared.clone(), mount_point.to_owned());
        within::spawn("freeze", move || keep_frozen(&path, &inner, hold))?;
        let deadline = Instant::now() + limit;
        let mut state = shared.state();
        loop {
            match &mut *state {
                State::Freezing => {}
                State::Failed(error) => {
                    return Err(error.take().unwrap_or_else(|| ErrorKind::Io.into()));
                }
                _ => break,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *state = State::Abandoned;
                let why =
                    format!("writers on {} did not come to rest within {limit:?}", mount_point.display());
                return Err(Error::new(ErrorKind::Timeout, why).op("freeze"));
            }
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        Ok(Self { mount_point: mount_point.to_owned(), shared, hold })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Whether it is still frozen: it is not when it was held for too long.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        matches!(*self.shared.state(), State::Frozen)
    }

    /// Lets writers go on. Good only if it was frozen until now: what was to be done while it was frozen was.
    ///
    /// # Errors
    /// *Timeout* when it was thawed before, having been held for too long, or does not thaw in time; or what the kernel
    /// says.
    pub fn thaw(self) -> Result<()> {
        self.release()
    }

    fn release(&self) -> Result<()> {
        let deadline = Instant::now() + THAW_WAIT;
        let mut state = self.shared.state();
        if matches!(*state, State::Frozen) {
            *state = State::Release;
            self.shared.changed.notify_all();
        }
        loop {
            if let State::Thawed { late, result } = &mut *state {
                if *late {
                    let why =
                        format!("{} was held for {:?}, and thawed", self.mount_point.display(), self.hold);
                    return Err(Error::new(ErrorKind::Timeout, why).op("freeze"));
                }
                return std::mem::replace(result, Ok(()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("{} does not thaw", self.mount_point.display());
                return Err(Error::new(ErrorKind::Timeout, why).op("thaw"));
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for FrozenFs {
    fn drop(&mut self) {
        let is_over = matches!(*self.shared.state(), State::Thawed { .. });
        if !is_over && let Err(error) = self.release() {
            tracing::error!(mount_point = %self.mount_point.display(), %error, "not thawed as it should");
        }
    }
}

/// The thread of one freeze, from the ioctl to the thaw.
fn keep_frozen(mount_point: &Path, shared: &Shared, hold: Duration) {
    let directory = match open(mount_point).and_then(|directory| {
        sys::freeze(&directory).map_err(|error| refused(mount_point, error))?;
        Ok(directory)
    }) {
        Ok(directory) => directory,
        Err(error) => return shared.set(State::Failed(Some(error))),
    };
    let deadline = Instant::now() + hold;
    let mut state = shared.state();
    let abandoned = matches!(*state, State::Abandoned);
    if !abandoned {
        *state = State::Frozen;
        shared.changed.notify_all();
    }
    let mut late = false;
    while matches!(*state, State::Frozen) && !late {
        let left = deadline.saturating_duration_since(Instant::now());
        late = left.is_zero();
        if !late {
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    // Not under the lock: a thaw may wait for the device.
    if late {
        *state = State::Release;
    }
    drop(state);
    let result = sys::thaw(&directory).map_err(|error| {
        Error::from_io(format!("cannot thaw {}", mount_point.display()), error)
            .hint(format!("fsfreeze -u {}", mount_point.display()))
    });
    shared.set(State::Thawed { late, result });
    // Only now: the log may be on the file system that was frozen.
    if late || abandoned {
        tracing::warn!(mount_point = %mount_point.display(), ?hold, late, abandoned, "thawed without being asked");
    }
}

/// Opens the folder where it is mounted. What was unmounted meanwhile is another file system's folder, which must not be
/// frozen instead: the number of the mount tells.
fn open(mount_point: &Path) -> Result<File> {
    let failed = |error| Error::from_io(format!("cannot open {}", mount_point.display()), error).op("freeze");
    let directory = File::open(mount_point).map_err(failed)?;
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    let opened = rustix::fs::statx(&directory, "", flags, rustix::fs::StatxFlags::MNT_ID)
        .map_err(|error| failed(error.into()))?;
    let is_mounted =
        |mount: &mounts::Mount| mount.id == opened.stx_mnt_id && mount.mount_point == mount_point;
    if !mounts::mounts()?.iter().any(is_mounted) {
        let why = format!("nothing is mounted at {}", mount_point.display());
        return Err(Error::new(ErrorKind::NotFound, why).op("freeze"));
    }
    Ok(directory)
}

/// The error of a freeze that the kernel refused.
fn refused(mount_point: &Path, error: std::io::Error) -> Error {
    let place = mount_point.display();
    let why = match error.raw_os_error() {
        Some(libc::EBUSY) => format!("{place} is frozen already"),
        Some(libc::EOPNOTSUPP | libc::ENOTTY) => {
            format!("the kind of file system at {place} cannot be frozen")
        }
        Some(libc::EPERM) => format!("freezing {place} needs CAP_SYS_ADMIN"),
        _ => format!("cannot freeze {place}"),
    };
    Error::from_io(why, error).op("freeze")
}

/// Freezes several within `limit`, to be held for as long again: one that stands on another before the other, each file
/// system once however often it is mounted. All or none.
///
/// # Errors
/// As [`FrozenFs::freeze`], of the first that could not be frozen; those that were are thawed.
pub fn freeze_all(mount_points: &[PathBuf], limit: Duration) -> Result<Vec<FrozenFs>> {
    let deadline = Instant::now() + limit;
    let mut frozen: Vec<FrozenFs> = Vec::new();
    for mount_point in uppermost_first(mount_points)? {
        let left = deadline.saturating_duration_since(Instant::now());
        match FrozenFs::freeze_and_hold(&mount_point, left, limit) {
            Ok(one) => frozen.push(one),
            Err(error) => {
                thaw_all(frozen);
                return Err(error);
            }
        }
    }
    Ok(frozen)
}

/// Thaws what [`freeze_all`] froze, the lowest first; the first error, after all were thawed.
///
/// # Errors
/// As [`FrozenFs::thaw`].
pub fn try_thaw_all(mut frozen: Vec<FrozenFs>) -> Result<()> {
    let mut result = Ok(());
    // A thaw writes to what it stands on, which must not be frozen then.
    while let Some(one) = frozen.pop() {
        result = result.and(one.thaw());
    }
    result
}

fn thaw_all(frozen: Vec<FrozenFs>) {
    if let Err(error) = try_thaw_all(frozen) {
        tracing::error!(%error, "a frozen file system was not thawed as it should");
    }
}

/// The mount points in the order to freeze them: freezing syncs, and so writes to whatever a file system stands on.
fn uppermost_first(mount_points: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let table = mounts::mounts()?;
    let mut found: Vec<(usize, PathBuf)> = Vec::new();
    let mut seen = Vec::new();
    for path in mount_points {
        let device = table.iter().rev().find(|mount| mount.mount_point == *path).map(|mount| mount.dev);
        if let Some(device) = device {
            if seen.contains(&device) {
                continue;
            }
            seen.push(device);
        }
        let depth = ancestors::of_path_in(&table, path).len();
        found.push((depth, path.clone()));
    }
    // Whoever stands on another has all of the other's ancestors, and more.
    found.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
