//! What tests of mounted file systems begin with: a daemon, a device, a file system on it, mounted and under load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::filesystem::{Attached, Kind};
use super::load::{Journal, Load, Progress, check_database, check_files, database_in};
use super::{Daemon, Start, run, tool};

/// The longest such a test may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// A daemon with one device, on which a file system is mounted and under load.
pub(crate) struct Scene {
    pub(crate) kind: Kind,
    pub(crate) daemon: Daemon,
    pub(crate) origin: Attached,
    pub(crate) load: Load,
}

impl Scene {
    /// `None`, said aloud, where something is missing.
    pub(crate) fn set(kind: Kind) -> Option<Self> {
        if !kind.is_usable()
            || ["sqlite3", "nbdcopy", "nbdfuse", "cmp"].iter().any(|name| tool(name).is_none())
        {
            return None;
        }
        let start = Start::new();
        let state = start.path("state");
        let daemon = start.arg("--state").arg(state).start();
        daemon.add_file("disk", kind.bytes());
        let origin = Attached::make(&daemon.path("origin"), &daemon.uri("disk"), kind, "rw")?;
        let load = Load::start(origin.folder(), Progress::default(), Journal::WriteAhead);
        load.let_do(10);
        Some(Scene { kind, daemon, origin, load })
    }

    pub(crate) fn attach(&self, name: &str, options: &str) -> Attached {
        attach(&self.daemon, self.kind, name, options)
    }

    /// Detaches the image of a frozen file system, which must be clean. A frozen xfs leaves its log for open files that
    /// are deleted, and its checker wants that replayed.
    pub(crate) fn detach_unreplayed(&self, image: Attached, name: &str) {
        if self.kind == Kind::Xfs {
            image.detach(|_| ());
            self.attach(&format!("{name}/disk"), self.kind.image_options()).detach_clean();
        } else {
            image.detach_clean();
        }
    }

    /// Takes a snapshot, and what was known before and after.
    pub(crate) fn take(&self, arguments: &[&str]) -> (Progress, Progress) {
        let before = self.load.progress();
        self.daemon.ok(&[&["snapshot", "take", "disk"], arguments].concat());
        (before, self.load.progress())
    }

    pub(crate) fn finish(self) {
        let done = self.load.finish();
        assert_eq!(check(self.origin.folder(), done, done), Ok(done.commits_done), "{:?}", self.kind);
        self.origin.detach_clean();
    }
}

pub(crate) fn attach(daemon: &Daemon, kind: Kind, name: &str, options: &str) -> Attached {
    let folder = daemon.path(if name == "disk" { "origin" } else { "image" });
    Attached::new(&folder, &daemon.uri(name), kind, options).expect("the origin was attached before")
}

pub(crate) fn check(folder: &Path, before: Progress, after: Progress) -> Result<u64, String> {
    check_files(folder, before, after)?;
    check_database(&database_in(folder), before, after)
}

/// All bytes of an image.
pub(crate) fn copied(daemon: &Daemon, name: &str, copy: &str) -> PathBuf {
    let path = daemon.path(copy);
    run(&tool("nbdcopy").unwrap(), [&daemon.uri(name), path.to_str().unwrap()]);
    path
}

/// Each as a test for each file system, in a cage of its own.
#[allow(unused_macros, reason = "each test program uses a part of this")]
macro_rules! for_each_kind {
    ($($name:ident),*) => { $(
        mod $name {
            #[test]
            fn ext4() {
                $crate::common::cage::caged(concat!(stringify!($name), "::ext4"), $crate::common::scene::LIMIT, || super::$name($crate::common::filesystem::Kind::Ext4));
            }

            #[test]
            fn xfs() {
                $crate::common::cage::caged(concat!(stringify!($name), "::xfs"), $crate::common::scene::LIMIT, || super::$name($crate::common::filesystem::Kind::Xfs));
            }

            #[test]
            fn btrfs() {
                $crate::common::cage::caged(concat!(stringify!($name), "::btrfs"), $crate::common::scene::LIMIT, || super::$name($crate::common::filesystem::Kind::Btrfs));
            }
        }
    )* };
}

pub(crate) use for_each_kind;
