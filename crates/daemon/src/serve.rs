//! `bowline serve`: the life of the daemon, from its options to its clean stop.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bowline_api::{ApiError, DeviceAdd, ErrorKind, EventKind, ExportAdd, ExportKind, Source};
use bowline_io::{EngineKind, Queues, QueuesConfig, probe};

use crate::daemon::{Daemon, Kept, NbdDefaults};
use crate::error::failed_io;
use crate::options::{EngineChoice, ListenAddr, ServeOptions};
use crate::socket::ControlSocket;
use crate::state::{StateFolder, Stored};
use crate::stop::Service;
use crate::tables::{AbsentDevice, DeviceEntry};

/// More queues than this have shown no gain.
const QUEUES_MAX: usize = 8;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// It could not be started, or not stopped cleanly: one line that says what, why and what to do.
pub fn serve(options: &ServeOptions) -> Result<(), ApiError> {
    let control = ControlSocket::bind(&options.socket)?;
    let daemon = start(options)?;
    let up = bring_up(&daemon, options);
    let mut service = Service::new()?;
    let served = up.and_then(|()| service.answer(&daemon, control.listener()));
    let stopped = service.stop(&daemon);
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

/// Brings back what the state folder has, adds the disks, and says where they are. Listeners come after the devices: who
/// can connect finds all of them.
fn bring_up(daemon: &Arc<Daemon>, options: &ServeOptions) -> Result<(), ApiError> {
    let _turn = daemon.change();
    *daemon.kept() = Kept::Unread;
    let stored = match &daemon.state {
        Some(folder) => folder.load()?,
        None => Stored::default(),
    };
    reserve_events(daemon, &stored)?;
    *daemon.kept() = Kept::Loaded(stored.clone());
    let Stored { devices, exports, hidden, plain_snapshots, persistent_snapshots, tracker_sessions, .. } =
        stored;
    daemon.write().sessions = tracker_sessions;
    forget_trackers(daemon, &devices);
    bring_back_devices(daemon, devices);
    let disks: Vec<String> =
        options.disks.iter().map(|disk| add_disk(daemon, disk)).collect::<Result<_, _>>()?;
    daemon.bring_back_snapshots(persistent_snapshots)?;
    take_out_mixed(daemon);
    daemon.write().hidden_later = hidden;
    daemon.listener_at(None)?;
    bring_back_exports(daemon, exports);
    for snapshot in plain_snapshots {
        let message = format!("snapshot {snapshot} did not outlive the daemon: it was not persistent");
        daemon.events.draft(EventKind::SnapshotRemoved, message).snapshot(snapshot).post();
    }
    let mut lines = String::new();
    for name in disks {
        let uri = export_disk(daemon, &name)?;
        if options.json {
            lines.push_str(&format!("{}\n", serde_json::json!({ "name": name, "uri": uri })));
        } else {
            lines.push_str(&format!("{name}  {uri}\n"));
        }
    }
    *daemon.kept() = Kept::Tables;
    // What it cannot keep is told, and tried again at the stop: the disks are served either way.
    let _ = daemon.save("the daemon is up");
    daemon.events.draft(EventKind::Started, "the daemon is up").post();
    // Whoever started us may not care to listen.
    let mut out = std::io::stdout();
    let _ = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    Ok(())
}

/// Goes on with the numbers of events where the last daemon ended. That some are set aside is noted before any is used.
fn reserve_events(daemon: &Daemon, stored: &Stored) -> Result<(), ApiError> {
    let Some(folder) = &daemon.state else { return Ok(()) };
    daemon.events.begin_after(stored.events_reserved);
    folder.save(&Stored { events_reserved: daemon.events.reserve(), ..stored.clone() })
}

/// What cannot be brought back is told and kept for the next start: one missing disk must not keep the others down.
fn bring_back_devices(daemon: &Daemon, devices: Vec<DeviceAdd>) {
    for asked in devices {
        if let Err(error) = daemon.add_device(asked.clone()) {
            daemon.events.draft(EventKind::DeviceFailed, error.to_string()).device(&asked.name).post();
            daemon.write().absent.push(AbsentDevice { asked, reason: error.message });
        }
    }
}

/// A crash may come between the first files of a tracker and the document that says so, or between the document and their
/// removal.
fn forget_trackers(daemon: &Daemon, devices: &[DeviceAdd]) {
    let not_tracked = devices.iter().filter(|device| !device.track);
    // A name that was edited by hand must not lead elsewhere.
    let named = not_tracked.filter(|device| bowline_api::names::check_name("device", &device.name).is_ok());
    named.for_each(|device| daemon.forget_tracker(&device.name));
}

/// Goes on with rollbacks; a device of which that cannot be done holds a part of before and a part of after, and must not be
/// used.
fn take_out_mixed(daemon: &Daemon) {
    for (name, reason) in daemon.resume_rollbacks() {
        let asked = daemon.read().devices.get(&name).and_then(|entry| entry.asked.clone());
        if let Err(error) = daemon.end_device(&name) {
            tracing::error!("{error}");
        }
        daemon.events.draft(EventKind::DeviceFailed, reason.clone()).device(&name).post();
        if let Some(asked) = asked {
            daemon.write().absent.push(AbsentDevice { asked, reason });
        }
    }
}

fn bring_back_exports(daemon: &Daemon, exports: Vec<ExportAdd>) {
    for export in exports {
        let name = export.device.clone();
        let mut tables = daemon.write();
        if tables.absent.iter().any(|absent| absent.asked.name == name) {
            tables.absent_exports.push(export);
            continue;
        }
        drop(tables);
        if let Err(error) = daemon.add_export(export) {
            daemon.events.draft(EventKind::Notice, error.to_string()).device(name).post();
        }
    }
}

/// Adds a disk of the command line, unless the state folder had it already; its name.
fn add_disk(daemon: &Daemon, disk: &Path) -> Result<String, ApiError> {
    let name = name_of(disk)?;
    let absolute = std::path::absolute(disk).unwrap_or_else(|_| disk.to_owned());
    let source = text_of(&absolute)?;
    if let Some(entry) = daemon.read().devices.get(&name) {
        if is_at(entry, &absolute) {
            return Ok(name);
        }
        let why = format!("there is a device {name} already, over {}", entry.source);
        let hint = format!("serve it under another name: `bowline device add NAME {source}`");
        return Err(ApiError::new(ErrorKind::AlreadyExists, format!("serve {source}"), why, hint));
    }
    let request = DeviceAdd {
        name: name.clone(),
        source,
        read_only: false,
        block_size: None,
        cache: None,
        size: None,
        track: false,
    };
    daemon.add_device(request)?;
    Ok(name)
}

/// Whether the device is over that very file, by whatever path.
fn is_at(entry: &DeviceEntry, disk: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    match entry.asked.as_ref().and_then(|asked| asked.check().ok()) {
        Some(Source::Path(path)) => identity(disk).is_some_and(|file| identity(&path) == Some(file)),
        _ => false,
    }
}

/// Exports a disk of the command line, unless the state folder had that already; its URI.
fn export_disk(daemon: &Daemon, name: &str) -> Result<String, ApiError> {
    let request =
        ExportAdd { device: name.to_owned(), kind: ExportKind::Nbd, address: None, read_only: false };
    let export = match daemon.add_export(request) {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            daemon.export_list().into_iter().find(|export| export.device == name)
        }
        other => Some(other?),
    };
    export.map(|export| export.uri).ok_or_else(|| ApiError::not_found("export of device", name))
}

/// The device name of a disk: its file name, with what no name may contain replaced.
fn name_of(disk: &Path) -> Result<String, ApiError> {
    let file = disk.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let name: String = file.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
    if bowline_api::names::check_name("device", &name).is_err() {
        let what = format!("serve {}", disk.display());
        let why = "no device can be named after it";
        return Err(ApiError::invalid(what, why, "name it yourself: `bowline device add NAME PATH`"));
    }
    Ok(name)
}

fn text_of(path: &Path) -> Result<String, ApiError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let what = format!("serve {}", path.display());
        ApiError::invalid(what, "its path is not UTF-8", "serve it through a link with a plain name")
    })
}
