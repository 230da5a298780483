//! How each peer is started on the backing file. All serve buffered, writable, over a Unix socket.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::backing::Bench;
use crate::server;

const PID_FILE: &str = "peer.pid";

/// An NBD server that we compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `nbdkit file`.
    Nbdkit,
    /// `nbd-server`.
    NbdServer,
    /// `qemu-nbd`, writeback cache and threads.
    QemuNbd,
    /// `qemu-storage-daemon` with io_uring.
    QemuStorageDaemon,
    /// The same with its copy-before-write filter and a raw target: a held snapshot.
    CopyBeforeWrite,
    /// `nbdkit file` below its cow filter, blocks of 64 KiB (its default). What is written goes to an overlay: an aligned
    /// write copies nothing, and the disk itself never changes.
    NbdkitCow,
    /// The same with blocks of 4 KiB.
    NbdkitCow4k,
}

impl Peer {
    /// Those that serve the plain file.
    pub const PLAIN: [Self; 4] = [Self::Nbdkit, Self::NbdServer, Self::QemuNbd, Self::QemuStorageDaemon];

    /// Those that do what a held snapshot does, in their way.
    pub const HELD: [Self; 3] = [Self::CopyBeforeWrite, Self::NbdkitCow, Self::NbdkitCow4k];

    /// Name in tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Nbdkit => "nbdkit",
            Self::NbdServer => "nbd-server",
            Self::QemuNbd => "qemu-nbd",
            Self::QemuStorageDaemon => "qemu-sd",
            Self::CopyBeforeWrite => "qemu-sd cbw",
            Self::NbdkitCow => "nbdkit cow 64K",
            Self::NbdkitCow4k => "nbdkit cow 4K",
        }
    }

    /// Its version, or why it cannot take part.
    pub fn version(self) -> Result<String, String> {
        match self {
            Self::Nbdkit => server::version("nbdkit", "--version"),
            Self::NbdkitCow | Self::NbdkitCow4k => cow_filter_version(),
            Self::NbdServer => server::version("nbd-server", "-V"),
            Self::QemuNbd => server::version("qemu-nbd", "--version"),
            Self::QemuStorageDaemon | Self::CopyBeforeWrite => {
                server::version("qemu-storage-daemon", "--version")
            }
        }
    }

    /// Its export's name.
    #[must_use]
    pub fn export(self) -> &'static str {
        if self == Self::NbdServer { "disk" } else { "" }
    }

    /// Where it tells its PID, if it goes into the background.
    #[must_use]
    pub fn pid_file(self, bench: &Bench) -> Option<PathBuf> {
        (self == Self::NbdServer).then(|| bench.path(PID_FILE))
    }

    /// The command that serves the disk on `socket`.
    pub fn command(self, bench: &Bench, socket: &str) -> Result<Command> {
        let disk = bench.disk.to_str().context("the disk's path is not UTF-8")?;
        let (program, arguments): (&str, Vec<String>) = match self {
            Self::Nbdkit => ("nbdkit", words(&["-f", "-U", socket, "file", disk])),
            Self::NbdkitCow | Self::NbdkitCow4k => {
                let block = if self == Self::NbdkitCow { "cow-block-size=64K" } else { "cow-block-size=4K" };
                ("nbdkit", words(&["-f", "-U", socket, "--filter=cow", "file", disk, block]))
            }
            Self::NbdServer => {
                let config = bench.path("nbd-server.conf");
                let text = format!(
                    "[generic]\n unixsock = {socket}\n max_threads = 4\n[disk]\n exportname = {disk}\n"
                );
                fs::write(&config, text).context("cannot write nbd-server's configuration")?;
                let config = config.to_str().context("the folder's path is not UTF-8")?;
                // In the foreground (-d) it serves one connection and ends.
                let pid_file = bench.path(PID_FILE);
                let pid_file = pid_file.to_str().context("the folder's path is not UTF-8")?;
                ("nbd-server", words(&["-p", pid_file, "-C", config]))
            }
            Self::QemuNbd => {
                let fixed =
                    ["-t", "-e", "0", "-f", "raw", "-x", "", "--cache=writeback", "--aio=threads", "-k"];
                ("qemu-nbd", words(&[&fixed[..], &[socket, disk]].concat()))
            }
            Self::QemuStorageDaemon => ("qemu-storage-daemon", storage_daemon(disk, socket, None)),
            Self::CopyBeforeWrite => {
                let target = bench.path("cbw-target");
                File::create(&target)
                    .and_then(|file| file.set_len(bench.size_bytes))
                    .context("cannot create the copy-before-write target")?;
                let target = target.to_str().context("the folder's path is not UTF-8")?;
                ("qemu-storage-daemon", storage_daemon(disk, socket, Some(target)))
            }
        };
        let mut command = Command::new(program);
        command.args(arguments);
        // Where nbdkit's overlay goes: to where the disk is, as everybody's.
        command.env("TMPDIR", bench.path(""));
        Ok(command)
    }
}

/// nbdkit comes with and without its filters.
fn cow_filter_version() -> Result<String, String> {
    let version = server::version("nbdkit", "--version")?;
    let output = Command::new("nbdkit").args(["--filter=cow", "--dump-plugin", "null"]).output();
    let output = output.map_err(|error| format!("nbdkit: {error}"))?;
    if output.status.success() {
        Ok(version)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

fn storage_daemon(disk: &str, socket: &str, cbw_target: Option<&str>) -> Vec<String> {
    let blockdev = |node: String| ["--blockdev".to_owned(), node];
    let mut arguments = Vec::new();
    let file = |node: &str, path: &str| {
        format!("driver=file,node-name={node},filename={path},aio=io_uring,locking=off")
    };
    arguments.extend(blockdev(file("f", disk)));
    arguments.extend(blockdev("driver=raw,node-name=d,file=f".to_owned()));
    if let Some(target) = cbw_target {
        arguments.extend(blockdev(file("tf", target)));
        arguments.extend(blockdev("driver=raw,node-name=t,file=tf".to_owned()));
        arguments.extend(blockdev("driver=copy-before-write,node-name=cbw,file=d,target=t".to_owned()));
    }
    let node = if cbw_target.is_some() { "cbw" } else { "d" };
    arguments
        .extend(["--nbd-server".to_owned(), format!("addr.type=unix,addr.path={socket},max-connections=0")]);
    arguments.extend(["--export".to_owned(), format!("type=nbd,id=e,node-name={node},name=,writable=on")]);
    arguments
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}
