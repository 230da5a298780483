//! A thread that keeps the state document up where no verb does: what must be noted is sometimes learned on threads that
//! must not wait for a disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::daemon::Daemon;

/// A wish that the state be saved, and who hears it.
pub(crate) fn wishes() -> (SyncSender<()>, Receiver<()>) {
    // One that is not heard yet stands for all that come meanwhile.
    sync_channel(1)
}

/// Saves the state whenever that is wished, as long as the daemon lives.
pub(crate) fn start(daemon: &Arc<Daemon>, wishes: Receiver<()>) {
    let daemon = Arc::downgrade(daemon);
    let started = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
        while wishes.recv().is_ok() {
            let Some(daemon) = daemon.upgrade() else { return };
            // A snapshot that fails may be the first to notice.
            daemon.note_losses();
            let _turn = daemon.change();
            // What it cannot keep is told, and tried again with the next change.
            let _ = daemon.save("what the state folder keeps was brought up to date");
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to save the state with: verbs save it");
    }
}
