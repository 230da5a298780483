//! The second thread: it writes numbered blocks over NBD, each acknowledged before the next is sent, until told to stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::image::BlockIndex;
use super::model::{WriteNumber, content};
use super::nbd::NbdConnection;
use super::tag::Noise;

/// Most writes that are remembered; far more than the tour has time for.
const WRITES_MAX: usize = 1 << 24;
/// So that the map has something to show, most writes go to a few hot zones, as those of a database would.
const HOT_ZONES: u64 = 6;
/// A hot zone is this part of all places that lie between it and the next.
const HOT_PART: u64 = 4;
/// One in so many writes goes anywhere.
const STRAY: u64 = 48;

/// When a write was sent and acknowledged, since the writer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timed {
    pub(super) sent: Duration,
    pub(super) acknowledged: Duration,
}

impl Timed {
    fn latency(self) -> Duration {
        self.acknowledged.saturating_sub(self.sent)
    }
}

/// All that was written: write n is at n - 1.
#[derive(Debug, Default)]
pub(super) struct WriteLog {
    pub(super) blocks: Vec<BlockIndex>,
    pub(super) times: Vec<Timed>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

/// The running writer. Dropped, it stops.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    began: Instant,
    thread: Option<JoinHandle<io::Result<WriteLog>>>,
}

impl Writer {
    /// Writes to `places` from now on.
    pub(super) fn start(connection: NbdConnection, places: Vec<BlockIndex>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let began = Instant::now();
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write_on(connection, &places, &theirs, began))?;
        Ok(Writer { shared, began, thread: Some(thread) })
    }

    /// The last write that was sent; it may not have arrived yet.
    pub(super) fn sent(&self) -> WriteNumber {
        WriteNumber(self.shared.sent.load(Ordering::SeqCst))
    }

    /// The last write that was acknowledged.
    pub(super) fn acknowledged(&self) -> WriteNumber {
        WriteNumber(self.shared.acknowledged.load(Ordering::SeqCst))
    }

    /// The time by the writer's watch.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether it still writes; it ends by itself only when a write fails.
    pub(super) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops after the write under way, and flushes.
    pub(super) fn stop(mut self) -> io::Result<WriteLog> {
        self.join()
    }

    fn join(&mut self) -> io::Result<WriteLog> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return Ok(WriteLog::default()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn write_on(
    mut connection: NbdConnection,
    places: &[BlockIndex],
    shared: &Shared,
    began: Instant,
) -> io::Result<WriteLog> {
    let mut log = WriteLog::default();
    let mut noise = Noise::new(1);
    for number in (1..).map(WriteNumber) {
        if shared.stop.load(Ordering::SeqCst) || log.blocks.len() >= WRITES_MAX {
            break;
        }
        let place =
            usize::try_from(choose(&mut noise, places.len())).ok().and_then(|place| places.get(place));
        let block = *place.ok_or_else(|| io::Error::other("there is no place to write to"))?;
        let bytes = content(number, block);
        let sent = began.elapsed();
        shared.sent.store(number.0, Ordering::SeqCst);
        connection.write(block.offset(), &bytes)?;
        shared.acknowledged.store(number.0, Ordering::SeqCst);
        log.blocks.push(block);
        log.times.push(Timed { sent, acknowledged: began.elapsed() });
    }
    connection.flush()?;
    connection.disconnect()?;
    Ok(log)
}

/// One of `places`.
fn choose(noise: &mut Noise, places: usize) -> u64 {
    let places = u64::try_from(places).unwrap_or(u64::MAX);
    let zone = places / HOT_ZONES;
    if noise.below(STRAY) == 0 || zone < HOT_PART {
        return noise.below(places);
    }
    noise.below(HOT_ZONES) * zone + noise.below(zone / HOT_PART)
}

impl WriteLog {
    /// Writes acknowledged per second between two times.
    pub(super) fn rate(&self, from: Duration, until: Duration) -> u64 {
        let count = self.times.iter().filter(|time| (from..until).contains(&time.acknowledged)).count();
        let nanos = until.saturating_sub(from).as_nanos().max(1);
        u64::try_from(count as u128 * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }

    /// The slowest of the writes under way at some time between two times; zero without any.
    pub(super) fn slowest(&self, from: Duration, until: Duration) -> Duration {
        let during = self.times.iter().filter(|time| time.acknowledged >= from && time.sent <= until);
        during.map(|time| time.latency()).max().unwrap_or_default()
    }

    /// The median latency of the writes up to `last`.
    pub(super) fn median(&self, last: WriteNumber) -> Duration {
        let last = usize::try_from(last.0).unwrap_or(usize::MAX);
        let mut latencies: Vec<Duration> = self.times.iter().take(last).map(|time| time.latency()).collect();
        latencies.sort_unstable();
        latencies.get(latencies.len() / 2).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
