//! Answering until a signal comes, and the clean stop after it.
//!
//! SIGTERM, SIGINT and SIGHUP stop the daemon: it drains, flushes, and closes everything. A second one cuts the drain
//! short; what was acknowledged is flushed all the same (I7).

use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_api::server::FOLLOWERS_MAX;
use bowline_api::{ApiError, EventKind};
use bowline_nbd::{NbdUri, Transport};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::daemon::{Daemon, Kept};
use crate::error::failed_io;
use crate::export::DRAIN;
use crate::state::Stored;
use crate::tables::Tables;

/// Verbs that run or wait for their turn at once. Followers of events wait on threads of their own.
const VERBS_MAX: usize = 16;

/// What answers the control API, and hears signals.
pub(crate) struct Service {
    runtime: Runtime,
    signals: Signals,
}

/// The signals that stop the daemon.
struct Signals {
    term: Signal,
    int: Signal,
    /// None where whoever started the daemon wants it to outlive the terminal, as `nohup` does.
    hangup: Option<Signal>,
}

impl Service {
    pub(crate) fn new() -> Result<Self, ApiError> {
        let broken = |error| failed_io("prepare the control socket", error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(VERBS_MAX + FOLLOWERS_MAX)
            .build()
            .map_err(broken)?;
        let entered = runtime.enter();
        let hangup = if hangup_is_ignored() { None } else { Some(SignalKind::hangup()) };
        let signals = Signals {
            term: signal(SignalKind::terminate()).map_err(broken)?,
            int: signal(SignalKind::interrupt()).map_err(broken)?,
            hangup: hangup.map(signal).transpose().map_err(broken)?,
        };
        drop(entered);
        Ok(Self { runtime, signals })
    }

    /// Answers the control API until a signal comes.
    pub(crate) fn answer(&mut self, daemon: &Arc<Daemon>, listener: &UnixListener) -> Result<(), ApiError> {
        let Self { runtime, signals } = self;
        let broken = |error| failed_io("answer the control socket", error);
        let listener = listener.try_clone().map_err(broken)?;
        listener.set_nonblocking(true).map_err(broken)?;
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener).map_err(broken)?;
            let stop = async {
                signals.next().await;
                tracing::info!("stopping");
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            };
            bowline_api::server::serve(listener, daemon.clone(), stop).await;
            Ok(())
        })
    }

    /// Stops; a further signal hurries it.
    pub(crate) fn stop(self, daemon: &Daemon) -> Result<(), ApiError> {
        let Self { runtime, mut signals } = self;
        let hurry = AtomicBool::new(false);
        let (done, mut ended) = oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                runtime.block_on(async {
                    tokio::select! {
                        () = signals.next() => {
                            tracing::warn!("told to stop again: clients are cut off");
                            hurry.store(true, Ordering::SeqCst);
                        }
                        _ = &mut ended => {}
                    }
                });
                // A verb that still waits for a device must not be waited for.
                runtime.shutdown_background();
            });
            let stopped = stop(daemon, &hurry);
            let _ = done.send(());
            stopped
        })
    }
}

impl Signals {
    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.term.recv() => {},
            _ = self.int.recv() => {},
            _ = hangup => {},
        }
    }
}

fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signal 1 is the lowest bit.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Drains, flushes, and closes everything. All of it is tried, whatever fails; the first failure is told.
fn stop(daemon: &Daemon, hurry: &AtomicBool) -> Result<(), ApiError> {
    let _turn = daemon.change();
    daemon.events.draft(EventKind::Stopping, "the daemon is stopping").post();
    // The change that could not be kept, once more, while there still is what it is about.
    let mut result = if daemon.unsaved() { daemon.save("what was changed last is done") } else { Ok(()) };
    let mut kept = match std::mem::replace(&mut *daemon.kept(), Kept::Tables) {
        Kept::Unread => None,
        Kept::Loaded(stored) => Some(stored),
        Kept::Tables => Some(daemon.stored()),
    };
    daemon.end_changes();
    for name in over_own_exports(daemon) {
        daemon.disconnect(&name);
        result = result.and(end(daemon, &name, &mut kept));
    }
    let servers: Vec<_> =
        daemon.write().listeners.iter_mut().filter_map(|listener| listener.server.take()).collect();
    for server in servers {
        server.stop_or_hurry(DRAIN, &|| hurry.load(Ordering::SeqCst));
    }
    result = result.and(daemon.end_rollbacks(&|| hurry.load(Ordering::SeqCst)));
    let plain = |tables: &Tables| -> Vec<String> {
        let plain = tables.snapshots.iter().filter(|snapshot| !snapshot.is_persistent());
        plain.map(|snapshot| snapshot.name.clone()).collect()
    };
    let snapshots = plain(&daemon.read());
    for snapshot in snapshots {
        result = result.and(daemon.remove_snapshot(&snapshot));
    }
    // Images end with their devices.
    let devices: Vec<String> =
        daemon.read().devices.keys().filter(|name| !name.contains('/')).cloned().collect();
    for name in devices {
        result = result.and(end(daemon, &name, &mut kept));
    }
    let (Some(folder), Some(mut kept)) = (&daemon.state, kept) else { return result };
    // The sessions of the trackers are others now, and so are the numbers of events.
    kept.events_reserved = daemon.events.last();
    result.and(folder.save(&kept))
}

/// Flushes a device and closes it, whether or not it could be flushed. What its tracker knows is saved if it was: else the
/// next start takes it for a crash.
fn end(daemon: &Daemon, name: &str, kept: &mut Option<Stored>) -> Result<(), ApiError> {
    let entry = daemon.read().device(name)?.clone();
    let images = daemon.end_images_of(name);
    let flushed = if entry.read_only { Ok(()) } else { daemon.flush(&entry.device) };
    let flushed = images.and(flushed);
    let flushed = flushed.and_then(|()| daemon.suspend_snapshots(&entry));
    if flushed.is_ok()
        && let Some((name, session)) = daemon.save_tracker(&entry)
        && let Some(kept) = kept
    {
        kept.tracker_sessions.insert(name, session);
    }
    flushed.and(daemon.end_device(name))
}

/// Devices whose source is an export of this very daemon: they must be flushed while that is still served. Those that
/// others stand on come last.
fn over_own_exports(daemon: &Daemon) -> Vec<String> {
    let tables = daemon.read();
    let own: Vec<NbdUri> = tables
        .listeners
        .iter()
        .filter_map(|listener| listener.server.as_ref())
        .map(|server| server.uri(""))
        .collect();
    let mut left: Vec<(String, String)> = tables
        .devices
        .iter()
        .filter_map(|(name, entry)| {
            let uri: NbdUri = entry.source.strip_prefix("nbd:").unwrap_or(&entry.source).parse().ok()?;
            own.iter().any(|own| same_server(own, &uri)).then(|| (name.clone(), uri.export.clone()))
        })
        .collect();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let below: BTreeSet<String> = left.iter().map(|(_, export)| export.clone()).collect();
        let at = left.iter().position(|(name, _)| !below.contains(name)).unwrap_or(0);
        ordered.push(left.swap_remove(at).0);
    }
    ordered
}

/// A port is enough for TCP: this machine has many names, and to be wrong costs a device its drain only.
fn same_server(own: &NbdUri, other: &NbdUri) -> bool {
    match (&own.transport, &other.transport) {
        (Transport::Tcp { port, .. }, Transport::Tcp { port: other, .. }) => port == other,
        (own, other) => own == other,
    }
}
