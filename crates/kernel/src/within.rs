//! Work that may never return, on a thread that is given up after a limit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use bowline_block::{Error, ErrorKind, Result};

/// Threads at once, those that hang included. A system on which so many hang is not asked any further.
const THREADS_MAX: usize = 64;

static THREADS: AtomicUsize = AtomicUsize::new(0);

struct Place;

impl Drop for Place {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Starts a thread, if not too many hang already.
pub(crate) fn spawn(what: &str, job: impl FnOnce() + Send + 'static) -> Result<()> {
    if THREADS.fetch_add(1, Ordering::SeqCst) >= THREADS_MAX {
        THREADS.fetch_sub(1, Ordering::SeqCst);
        let why = format!("{what}: {THREADS_MAX} threads wait for file systems that do not answer");
        return Err(Error::new(ErrorKind::Busy, why));
    }
    let place = Place;
    let run = move || {
        let _place = place;
        job();
    };
    match thread::Builder::new().name("bowline-kernel".to_owned()).spawn(run) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::from_io(format!("{what}: cannot start a thread"), error)),
    }
}

/// Does `job` on a thread of its own; *timeout* when it does not end within the limit, and then nobody waits for it.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = sync_channel(1);
    spawn(what, move || {
        // Nobody receives when the limit has passed.
        let _ = sender.send(job());
    })?;
    match receiver.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            Err(Error::new(ErrorKind::Timeout, format!("{what}: no answer within {limit:?}")))
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err(Error::new(ErrorKind::Io, format!("{what}: it ended without an answer")))
        }
    }
}
