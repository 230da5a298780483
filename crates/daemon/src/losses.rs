//! What is lost beneath a device while it is in use: a file is cut and made whole again, or a disk goes away. Nobody wrote,
//! so no list of changes has it: the tracker begins a new generation (I4), and snapshots fail (I2).
//!
//! A store notes what it sees; a thread of its own looks soon after a request failed, for queue threads must not wait for
//! a disk. Whoever asks what changed looks first.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bowline_block::{Loss, Store};
use bowline_device::Device;

use crate::daemon::Daemon;
use crate::tables::DeviceEntry;

/// The least time between two looks that nobody asked for: a disk that fails does so often.
const PAUSE: Duration = Duration::from_millis(200);

/// How trouble of devices gets to who looks.
pub(crate) struct Losses {
    troubles: SyncSender<()>,
    /// Held from the look on until all is told: who looks behind that knows all.
    noting: Mutex<()>,
}

impl Losses {
    pub(crate) fn new() -> (Self, Receiver<()>) {
        // One that is not heard yet stands for all that come meanwhile.
        let (troubles, heard) = sync_channel(1);
        (Self { troubles, noting: Mutex::new(()) }, heard)
    }

    /// Looks after each request of the device that fails.
    pub(crate) fn watch(&self, device: &Device) {
        let troubles = self.troubles.clone();
        device.on_trouble(move || {
            let _ = troubles.try_send(());
        });
    }
}

/// Looks whenever a device had trouble, as long as the daemon lives.
pub(crate) fn start(daemon: &Arc<Daemon>, troubles: Receiver<()>) {
    let daemon = Arc::downgrade(daemon);
    let started = std::thread::Builder::new().name("losses".to_owned()).spawn(move || {
        while troubles.recv().is_ok() {
            let Some(daemon) = daemon.upgrade() else { return };
            daemon.note_losses();
            drop(daemon);
            std::thread::sleep(PAUSE);
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to look for losses with: questions about changes look");
    }
}

impl Daemon {
    /// Looks at all devices.
    pub(crate) fn note_losses(&self) {
        let entries: Vec<_> =
            self.read().devices.values().filter(|entry| entry.asked.is_some()).cloned().collect();
        entries.iter().for_each(|entry| self.note_loss_of(entry));
    }

    /// Looks at one device, and gives up what can no longer be proven of it. Not to be called on a queue thread.
    pub(crate) fn note_loss_of(&self, entry: &DeviceEntry) {
        let _noting = self.losses.noting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(loss) = entry.device.take_loss() else { return };
        let size = entry.device.geometry().size;
        let reason = match loss {
            Loss::Shorter(end) => {
                format!("what is beneath it was seen to end at {end} of {size} bytes while in use")
            }
            Loss::Vanished => "what is beneath it was not there for a time".to_owned(),
        };
        tracing::warn!(device = entry.device.name(), "{reason}");
        // What has gone away does not come back under the same open file: images fail by themselves as long.
        if let (Loss::Shorter(_), Some(history)) = (loss, entry.origin.history()) {
            history.fail(&format!("{}: {reason}", entry.device.name()));
        }
        // As long as no epoch was closed there is nothing that could be asked for.
        if let Some(tracker) = entry.origin.tracker().filter(|tracker| tracker.epoch() > 1) {
            tracker.renew(&reason);
        }
    }
}
