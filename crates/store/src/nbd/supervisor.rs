//! The task that owns the store's connection, and connects again when it is lost.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bowline_block::{Error, ErrorKind, Result};

use super::connection::Connection;
use super::dial::{Dialed, dial};
use super::durability::Durability;
use super::limits::Limits;
use super::shared::Shared;

const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Serves the store's calls until it is closed.
pub(super) async fn supervise(shared: Arc<Shared>, first: Dialed) {
    let mut durability = Durability::default();
    let mut backoff = BACKOFF_MIN;
    let mut next = Some(first);
    while let Some(dialed) = next.take() {
        let lost = match Connection::open(dialed) {
            Ok(mut connection) => {
                let ended = connection.serve(&shared, &mut durability).await;
                // A server that takes connections only to drop them is not to be asked in a tight circle.
                backoff = if connection.useful { BACKOFF_MIN } else { grown(backoff, &shared) };
                ended
            }
            Err(error) => Err(error),
        };
        let Err(lost) = lost else { break };
        tracing::warn!(source = shared.location, reason = %lost, "the connection was lost");
        shared.set_trouble(Some(lost.to_string()));
        durability.connection_lost();
        next = connect_again(&shared, &mut backoff).await;
    }
    shared.end_all();
}

fn grown(backoff: Duration, shared: &Shared) -> Duration {
    (backoff * 2).min(shared.options.backoff_max)
}

/// A new connection to the same export, or `None` when the source was closed. Calls that wait meanwhile end in time.
async fn connect_again(shared: &Arc<Shared>, backoff: &mut Duration) -> Option<Dialed> {
    let limit = shared.options.reconnect_wait.min(shared.options.request_timeout);
    let not_connected = || {
        let trouble = shared.trouble().unwrap_or_default();
        Error::new(ErrorKind::Io, format!("not connected for {limit:?}: {trouble}"))
    };
    loop {
        let mut dialing = start_dialing(shared, *backoff);
        *backoff = grown(*backoff, shared);
        loop {
            shared.expire(limit, not_connected);
            let pause = if dialing.is_ok() { Duration::from_millis(50) } else { *backoff };
            if shared.is_closed() {
                return None;
            }
            if let Some(dialed) = wait_for_dialed(shared, pause).await {
                shared.set_trouble(None);
                tracing::info!(source = shared.location, "connected again");
                return Some(dialed);
            }
            match &mut dialing {
                Ok(thread) if !thread.is_finished() => {}
                // Ended with an error, which is noted, or with a connection, which is there by now.
                _ => break,
            }
        }
        if let Some(dialed) = shared.take_dialed() {
            shared.set_trouble(None);
            return Some(dialed);
        }
    }
}

/// What the dial thread hands over within `pause`.
async fn wait_for_dialed(shared: &Shared, pause: Duration) -> Option<Dialed> {
    let arrival = poll_fn(|cx| {
        shared.set_task(cx);
        match shared.take_dialed() {
            Some(dialed) => Poll::Ready(Some(dialed)),
            None if shared.is_closed() => Poll::Ready(None),
            None => Poll::Pending,
        }
    });
    bowline_io::timeout(pause, arrival).await.flatten()
}

/// Resolving, connecting and negotiating block, so they have a thread; it lives no longer than its one attempt.
fn start_dialing(shared: &Arc<Shared>, pause: Duration) -> std::io::Result<std::thread::JoinHandle<()>> {
    let shared = shared.clone();
    std::thread::Builder::new().name("nbd-dial".to_owned()).spawn(move || {
        let due = Instant::now() + pause;
        while Instant::now() < due {
            if shared.is_closed() {
                return;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        }
        match dial_same(&shared) {
            Ok(dialed) => shared.put_dialed(dialed),
            Err(error) => {
                tracing::debug!(source = shared.location, reason = %error, "cannot connect again yet");
                shared.set_trouble(Some(error.to_string()));
            }
        }
    })
}

fn dial_same(shared: &Shared) -> Result<Dialed> {
    let dialed = dial(&shared.uri, shared.options.connect_timeout)?;
    shared.limits.accept(&Limits::of(&dialed.export)?)?;
    Ok(dialed)
}
