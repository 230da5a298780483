//! Accepting connections on the control socket.
//!
//! Limits: at most [`CONNECTIONS_MAX`] connections (more wait in the socket's backlog), a request head within ten
//! seconds and 64 KiB, an answer taken within thirty seconds. So a client that is silent, sends garbage or never reads costs
//! one connection for a bounded time.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::WriteDeadline;
use super::router_until;
use crate::control::Control;

/// Most connections to the control socket at once.
pub const CONNECTIONS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long running requests may go on after shutdown.
const GRACE: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors, for one) trying again at once would only burn the CPU.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long a client may keep the server waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// To send the head of a request, or to send another request on the same connection.
    pub(super) head: Duration,
    /// To take any of an answer.
    pub(super) write: Duration,
}

const PATIENCE: Patience = Patience { head: Duration::from_secs(10), write: Duration::from_secs(30) };

/// Answers the control API on `listener` until `shutdown` is done; then running requests get a few seconds to end and
/// streams of events end at once.
pub async fn serve(listener: UnixListener, control: Arc<dyn Control>, shutdown: impl Future<Output = ()>) {
    serve_with(PATIENCE, listener, control, shutdown).await;
}

pub(super) async fn serve_with(
    patience: Patience,
    listener: UnixListener,
    control: Arc<dyn Control>,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopping) = watch::channel(false);
    let service = TowerToHyperService::new(router_until(control, stopping.clone()));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (service, stopping) = (service.clone(), stopping.clone());
                connections.spawn(async move {
                    let _place = place;
                    answer(patience, stream, service, stopping).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection, trying again");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    let _ = stop.send(true);
    // What is still running after the grace is aborted with the set.
    let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn answer(
    patience: Patience,
    stream: UnixStream,
    service: TowerToHyperService<axum::Router>,
    mut stopping: watch::Receiver<bool>,
) {
    let stream = TokioIo::new(WriteDeadline::new(stream, patience.write));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.head)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(stream, service)
    );
    // A block of its own, so that the watch's lock is not held across the wait below.
    let stopped = async {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a control connection ended early");
    }
}
