//! The worker: puts back what nobody overwrites, in order, and ends the rollback.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bowline_block::{Error, Result};
use bowline_device::freeze_all;
use bowline_io::QueueHandle;

use super::core::{Core, Stage};
use crate::cow::{Granules, ZONE_GRANULES, wait};

/// Granules put back at once: 1 MiB.
const BATCH_MAX: u16 = 256;
/// Batches in flight.
const IN_FLIGHT: usize = 4;
/// How long the device is given to become quiet for the end, and how long until that is tried again.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
const FREEZE_AGAIN: Duration = Duration::from_secs(1);

/// Starts the worker's thread; the I/O is done on the queue, if there is one.
/// It waits to be told to go.
pub(super) fn start(core: &Arc<Core>, queue: Option<QueueHandle>) -> Result<mpsc::Sender<()>> {
    let core = core.clone();
    let (go, told) = mpsc::channel();
    let work = move || {
        if told.recv().is_err() {
            return;
        }
        while !core.run(queue.as_ref()) {
            if !core.await_retry() {
                break;
            }
        }
    };
    std::thread::Builder::new()
        .name("rollback".to_owned())
        .spawn(work)
        .map(|_| go)
        .map_err(|error| Error::from_io("cannot start the thread of a rollback", error))
}

impl Core {
    /// Puts back what is left and ends the rollback; `false` when it failed.
    fn run(self: &Arc<Self>, queue: Option<&QueueHandle>) -> bool {
        let next = Arc::new(AtomicUsize::new(0));
        self.on_queue(queue, IN_FLIGHT, move |core| {
            let next = next.clone();
            async move { core.put_back_zones(&next).await }
        });
        if self.is_ending() {
            return false;
        }
        if !self.pending().is_empty() {
            self.fail("the queue that puts blocks back has ended");
            return false;
        }
        self.on_queue(queue, 1, |core| async move {
            let committed = async {
                let _inside = core.device.enter().await;
                core.commit(&*core.below()).await
            };
            if let Err(error) = committed.await {
                core.fail(&format!("the origin cannot be flushed: {error}"));
            }
        });
        if self.is_ending() {
            return false;
        }
        if let Some(log) = self.log()
            && let Err(error) = log.finish()
        {
            self.fail(&format!("all is put back, but the log cannot be removed: {error}"));
            return false;
        }
        self.detach();
        self.life().done = true;
        self.changed.notify_all();
        true
    }

    fn is_ending(&self) -> bool {
        let life = self.life();
        life.failed.is_some() || life.stopping
    }

    /// Runs tasks to their end, on the queue or here.
    pub(super) fn on_queue<F: Future<Output = ()> + 'static>(
        self: &Arc<Self>,
        queue: Option<&QueueHandle>,
        count: usize,
        make: impl Fn(Arc<Self>) -> F + Clone + Send + 'static,
    ) {
        let Some(queue) = queue else { return wait::here(make(self.clone())) };
        let (ended, end) = mpsc::channel::<()>();
        for _ in 0..count {
            let (core, make, ended) = (self.clone(), make.clone(), ended.clone());
            queue.spawn(move || {
                let task = make(core);
                async move {
                    task.await;
                    drop(ended);
                }
            });
        }
        drop(ended);
        // Ends when every task has, or was dropped with its queue.
        let _ = end.recv();
    }

    async fn put_back_zones(&self, next: &AtomicUsize) {
        let zones: Vec<u64> = self.pending().zones().collect();
        while let Some(&zone) = zones.get(next.fetch_add(1, Ordering::SeqCst)) {
            let first = zone * ZONE_GRANULES;
            let granules = Granules { first, end: first + ZONE_GRANULES };
            loop {
                match self.put_back_some(granules).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return self.fail(&format!("blocks cannot be put back: {error}")),
                }
                if self.is_ending() {
                    return;
                }
                wait::step_aside().await;
            }
        }
    }

    /// Puts back one batch; whether there was one.
    async fn put_back_some(&self, granules: Granules) -> Result<bool> {
        // First inside, then the claim: whoever waits for a claim inside must find its holder inside.
        let _inside = self.device.enter().await;
        let Some(claimed) = self.claim(granules, BATCH_MAX).await? else { return Ok(false) };
        self.put_back(&*self.below(), claimed).await?;
        Ok(true)
    }

    /// Takes the filter off. A device that cannot be frozen keeps it for now: it passes everything.
    pub(super) fn detach(&self) {
        self.enter(Stage::Over);
        loop {
            let attached = *self.filter.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(id) = attached else { return };
            match freeze_all(std::slice::from_ref(&self.device), FREEZE_LIMIT) {
                Ok(frozen) => {
                    let detached = frozen.first().map(|frozen| frozen.detach(id));
                    if let Some(Err(error)) = detached {
                        tracing::debug!(device = self.device.name(), %error, "a rollback is off already");
                    }
                    *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Err(_) if self.device.is_gone() || self.life().stopping => return,
                Err(_) => std::thread::sleep(FREEZE_AGAIN),
            }
        }
    }

    /// Waits until it is asked to go on after a failure; `false` when it is to end.
    fn await_retry(&self) -> bool {
        let mut life = self.life();
        loop {
            if life.stopping {
                return false;
            }
            if std::mem::take(&mut life.retry) {
                life.failed = None;
                return true;
            }
            life = self.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
