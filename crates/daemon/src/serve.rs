//! `bowline serve`: the life of the daemon, from its options to its clean stop.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_api::{ApiError, DeviceAdd, ErrorKind, EventKind, ExportAdd, ExportKind};
use bowline_io::{EngineKind, Queues, QueuesConfig, probe};
use tokio::signal::unix::{SignalKind, signal};

use crate::daemon::{Daemon, NbdDefaults};
use crate::error::{failed, failed_io};
use crate::export::DRAIN;
use crate::options::{EngineChoice, ListenAddr, ServeOptions};
use crate::state::{StateFolder, Stored};

/// More queues than this have shown no gain.
const QUEUES_MAX: usize = 8;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// It could not be started, or not stopped cleanly: one line that says what, why and what to do.
pub fn serve(options: &ServeOptions) -> Result<(), ApiError> {
    let control = ControlSocket::bind(&options.socket)?;
    let daemon = start(options)?;
    let served = bring_up(&daemon, options).and_then(|()| answer(&daemon, &control));
    let stopped = stop(&daemon);
    served.and(stopped)
}

/// Makes the daemon's parts; nothing is served yet.
fn start(options: &ServeOptions) -> Result<Arc<Daemon>, ApiError> {
    let state = options.state.as_deref().map(StateFolder::open).transpose()?;
    let tls = options.tls.as_ref().map(crate::tls::load).transpose()?;
    let engine = choose_engine(options.engine)?;
    let count = match options.queues {
        Some(count) => count,
        None => std::thread::available_parallelism().map_or(1, usize::from).min(QUEUES_MAX),
    };
    let queues = Queues::start(QueuesConfig { count, engine })
        .map_err(|error| failed_io("start the queue threads", error))?;
    let beside = || options.socket.parent().unwrap_or(Path::new(".")).join("nbd.sock");
    let address = options.listen.clone().unwrap_or_else(|| ListenAddr::Unix(beside()));
    let nbd = NbdDefaults { address, tls, insecure: options.insecure };
    let daemon = Daemon::new(queues, nbd, state);
    tracing::info!(%engine, queues = count, "the queues run");
    Ok(daemon)
}

fn choose_engine(wanted: Option<EngineChoice>) -> Result<EngineKind, ApiError> {
    let (found, refusal) = probe();
    match (wanted, found) {
        (Some(EngineChoice::Sync), _) => Ok(EngineKind::Sync),
        (Some(EngineChoice::Uring), EngineKind::Sync) => {
            let why =
                refusal.map_or_else(String::new, |error| format!("the kernel refuses io_uring ({error})"));
            Err(ApiError::new(
                ErrorKind::Unsupported,
                "start engine uring",
                why,
                "leave out --engine, or use sync",
            ))
        }
        (None, EngineKind::Sync) => {
            tracing::warn!("the kernel refuses io_uring ({refusal:?}): using the sync engine");
            Ok(EngineKind::Sync)
        }
        (_, EngineKind::Uring) => Ok(EngineKind::Uring),
    }
}

/// Brings back what the state folder has, adds the disks, and says where they are.
fn bring_up(daemon: &Arc<Daemon>, options: &ServeOptions) -> Result<(), ApiError> {
    let _turn = daemon.change();
    daemon.listener_at(None)?;
    let stored = match &daemon.state {
        Some(folder) => folder.load()?,
        None => Stored::default(),
    };
    bring_back(daemon, stored);
    let mut lines = String::new();
    for disk in &options.disks {
        let (name, uri) = add_disk(daemon, disk)?;
        lines.push_str(&format!("{name}  {uri}\n"));
    }
    daemon.save();
    daemon.events.draft(EventKind::Started, "the daemon is up").post();
    // Whoever started us may not care to listen.
    let mut out = std::io::stdout();
    let _ = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    Ok(())
}

/// What cannot be brought back is told and kept for the next start: one missing disk must not keep the others down.
fn bring_back(daemon: &Daemon, stored: Stored) {
    for device in stored.devices {
        if let Err(error) = daemon.add_device(device.clone()) {
            let name = device.name.clone();
            daemon.events.draft(EventKind::DeviceFailed, error.to_string()).device(name).post();
            daemon.write().absent.push(device);
        }
    }
    for export in stored.exports {
        let name = export.device.clone();
        let mut tables = daemon.write();
        if tables.absent.iter().any(|absent| absent.name == name) {
            tables.absent_exports.push(export);
            continue;
        }
        drop(tables);
        if let Err(error) = daemon.add_export(export) {
            daemon.events.draft(EventKind::Notice, error.to_string()).device(name).post();
        }
    }
    for snapshot in stored.plain_snapshots {
        let message = format!("snapshot {snapshot} did not outlive the daemon: it was not persistent");
        daemon.events.draft(EventKind::SnapshotRemoved, message).snapshot(snapshot).post();
    }
}

/// Adds a disk of the command line and exports it; both may be there already, from the state folder.
fn add_disk(daemon: &Daemon, disk: &Path) -> Result<(String, String), ApiError> {
    let name = name_of(disk)?;
    let absolute = std::path::absolute(disk).unwrap_or_else(|_| disk.to_owned());
    let source = text_of(&absolute)?;
    let known = daemon.read().devices.get(&name).is_some_and(|entry| entry.source == source);
    if !known {
        let request = DeviceAdd {
            name: name.clone(),
            source,
            read_only: false,
            block_size: None,
            cache: None,
            size: None,
        };
        daemon.add_device(request)?;
    }
    let request = ExportAdd { device: name.clone(), kind: ExportKind::Nbd, address: None, read_only: false };
    let export = match daemon.add_export(request) {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            daemon.export_list().into_iter().find(|export| export.device == name)
        }
        other => Some(other?),
    };
    let uri =
        export.map(|export| export.uri).ok_or_else(|| ApiError::not_found("export of device", &name))?;
    Ok((name, uri))
}

/// The device name of a disk: its file name, with what no name may contain replaced.
fn name_of(disk: &Path) -> Result<String, ApiError> {
    let file = disk.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let name: String = file.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
    bowline_api::names::check_name("device", &name)?;
    Ok(name)
}

fn text_of(path: &Path) -> Result<String, ApiError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let what = format!("serve {}", path.display());
        ApiError::invalid(what, "its path is not UTF-8", "serve it through a link with a plain name")
    })
}

/// Answers the control API until a signal comes.
fn answer(daemon: &Arc<Daemon>, control: &ControlSocket) -> Result<(), ApiError> {
    let broken = |error| failed_io("answer the control socket", error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()
        .map_err(broken)?;
    let listener = control.listener.try_clone().map_err(broken)?;
    runtime.block_on(async {
        let (mut term, mut int) = (
            signal(SignalKind::terminate()).map_err(broken)?,
            signal(SignalKind::interrupt()).map_err(broken)?,
        );
        listener.set_nonblocking(true).map_err(broken)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(broken)?;
        let stop = async {
            tokio::select! {
                _ = term.recv() => {},
                _ = int.recv() => {},
            }
            tracing::info!("stopping");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        };
        bowline_api::server::serve(listener, daemon.clone(), stop).await;
        Ok(())
    })
}

/// Drains, flushes, and closes everything. All of it is tried, whatever fails; the first failure is told.
fn stop(daemon: &Arc<Daemon>) -> Result<(), ApiError> {
    let _turn = daemon.change();
    daemon.events.draft(EventKind::Stopping, "the daemon is stopping").post();
    let servers: Vec<_> =
        daemon.write().listeners.iter_mut().filter_map(|listener| listener.server.take()).collect();
    for server in servers {
        server.stop(DRAIN);
    }
    let mut result = Ok(());
    let snapshots: Vec<String> =
        daemon.read().snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
    for snapshot in snapshots {
        result = result.and(daemon.remove_snapshot(&snapshot));
    }
    let devices: Vec<(String, bool)> =
        daemon.read().devices.iter().map(|(name, entry)| (name.clone(), entry.read_only)).collect();
    for (name, read_only) in devices {
        let device = daemon.read().device(&name).map(|entry| entry.device.clone());
        if let (Ok(device), false) = (device, read_only) {
            result = result.and(daemon.flush(&device));
        }
        result = result.and(daemon.take_out_device(&name));
    }
    result
}

/// The control socket, removed again at the end if it is still ours.
struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    fn bind(path: &Path) -> Result<Self, ApiError> {
        let what = format!("open control socket {}", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|error| failed_io(&what, error))?;
        }
        match UnixStream::connect(path) {
            Ok(_) => {
                let why = "another daemon answers there";
                return Err(ApiError::new(
                    ErrorKind::Busy,
                    what,
                    why,
                    "stop that one, or name another with --socket",
                ));
            }
            // Left behind by a daemon that was killed. A file that is no socket refuses connections too, and is not ours.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused && is_socket(path) => {
                std::fs::remove_file(path).map_err(|error| failed_io(&what, error))?;
            }
            Err(_) if path.exists() && !is_socket(path) => {
                let why = "there is something else, and no socket";
                return Err(ApiError::new(ErrorKind::AlreadyExists, what, why, "name another with --socket"));
            }
            Err(_) => {}
        }
        // Nobody else may connect, not even between making the socket and changing its mode.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = listener.map_err(|error| {
            failed(&what, &bowline_block::Error::from_io("choose another with --socket", error))
        })?;
        let inode = std::fs::metadata(path).map_or(0, |metadata| metadata.ino());
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
