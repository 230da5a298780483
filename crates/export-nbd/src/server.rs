//! The server: accepts clients on queue 0, hands each to the queue with the fewest, and ends them when told.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bowline_block::{Error, ErrorKind, Result};
use bowline_io::{QueueHandle, Readiness};
use bowline_nbd::NbdUri;
use futures_util::task::AtomicWaker;

use crate::address::ListenAddr;
use crate::conn;
use crate::exports::Exports;
use crate::listener::{Listener, accept};
use crate::registry::{Order, Registry};

/// After a failed accept (no file descriptors, for one) trying again at once would only burn the CPU.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Connections that were told to close do so at their next turn.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// How often a stop looks whether it is to hurry.
const HURRY_CHECK: Duration = Duration::from_millis(50);

/// Certificates and how clients are checked.
#[derive(Clone)]
pub struct TlsConfig(pub Arc<rustls::ServerConfig>);

/// How a server is to be.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where it listens.
    pub address: ListenAddr,
    /// Offer TLS.
    pub tls: Option<TlsConfig>,
    /// Refuse clients that do not use it.
    pub tls_required: bool,
    /// Most connections at once; more are turned away.
    pub max_connections: usize,
    /// How long a client may take to get to its export.
    pub handshake_timeout: Duration,
}

impl ServerConfig {
    /// A server without TLS, with the usual bounds.
    #[must_use]
    pub fn new(address: ListenAddr) -> Self {
        Self {
            address,
            tls: None,
            tls_required: false,
            max_connections: 256,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) exports: Arc<dyn Exports>,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) tls_required: bool,
    pub(crate) handshake_timeout: Duration,
}

#[derive(Default)]
struct Acceptor {
    stop: AtomicBool,
    waker: AtomicWaker,
}

/// A running server. Dropping it ends it at once; [`NbdServer::stop`] does so gently.
pub struct NbdServer {
    listener: Listener,
    registry: Arc<Registry>,
    acceptor: Arc<Acceptor>,
    tls: bool,
}

impl NbdServer {
    /// Listens, and serves on the queues.
    ///
    /// # Errors
    /// The address cannot be used: *busy* when another server answers there, *exists* when it is a file of another
    /// kind, or what the operating system says. *Invalid* without queues, or when TLS is required and not configured.
    pub fn start(config: ServerConfig, exports: Arc<dyn Exports>, queues: &[QueueHandle]) -> Result<Self> {
        let Some(first) = queues.first() else {
            return Err(Error::new(ErrorKind::Invalid, "an NBD server needs a queue"));
        };
        if config.tls_required && config.tls.is_none() {
            return Err(Error::new(ErrorKind::Invalid, "TLS is required and no certificate is configured"));
        }
        let listener = Listener::bind(&config.address)?;
        let socket = listener
            .socket
            .try_clone()
            .map_err(|error| Error::from_io("cannot share the listening socket", error))?;
        let registry = Registry::new(queues.len(), config.max_connections);
        let acceptor = Arc::new(Acceptor::default());
        let tls = config.tls.is_some();
        let shared = Arc::new(Shared {
            exports,
            tls: config.tls,
            tls_required: config.tls_required,
            handshake_timeout: config.handshake_timeout,
        });
        tracing::info!(address = %listener.address, tls, "NBD server listens");
        let (queues, inner, list) = (queues.to_vec(), acceptor.clone(), registry.clone());
        first.spawn(move || accept_all(socket, shared, inner, list, queues));
        Ok(Self { listener, registry, acceptor, tls })
    }

    /// Where it listens; with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> &ListenAddr {
        &self.listener.address
    }

    /// The URI of an export.
    #[must_use]
    pub fn uri(&self, export: &str) -> NbdUri {
        self.listener.address.uri(export, self.tls)
    }

    /// How many clients each export has.
    #[must_use]
    pub fn connections(&self) -> BTreeMap<String, usize> {
        self.registry.clients()
    }

    /// How many connections there are, those in their handshake too.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.registry.len()
    }

    /// How many connections there can be.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        self.registry.max()
    }

    /// How many of them have been idle for so long that they hold no buffers.
    #[must_use]
    pub fn idle_connections(&self) -> usize {
        self.registry.idle()
    }

    /// Ends the connections of an export, after what they have sent was answered.
    pub fn disconnect_device(&self, export: &str) {
        self.registry.tell_export(export, Order::Drain);
    }

    /// Stops accepting, lets requests that have arrived end and be answered, closes; after `drain`, whatever is left is
    /// cut off. `false` when something was. Must not be called on a queue thread.
    pub fn stop(self, drain: Duration) -> bool {
        self.stop_or_hurry(drain, &|| false)
    }

    /// As [`NbdServer::stop`], but cuts off what is left as soon as `hurry` says so.
    pub fn stop_or_hurry(mut self, drain: Duration, hurry: &dyn Fn() -> bool) -> bool {
        self.acceptor.stop.store(true, Ordering::SeqCst);
        self.acceptor.waker.wake();
        self.listener.remove_file();
        if !drain.is_zero() {
            self.registry.close(Order::Drain);
            let deadline = Instant::now() + drain;
            while !hurry() && Instant::now() < deadline {
                if self.registry.wait_until_empty(deadline.min(Instant::now() + HURRY_CHECK)) {
                    return true;
                }
            }
        }
        self.registry.close(Order::Kill);
        let left = self.registry.len();
        if left > 0 {
            tracing::warn!(connections = left, "connections cut off: they did not end in time");
        }
        self.registry.wait_until_empty(Instant::now() + KILL_WAIT);
        left == 0
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.acceptor.stop.store(true, Ordering::SeqCst);
        self.acceptor.waker.wake();
        self.listener.remove_file();
        self.registry.close(Order::Kill);
        if !bowline_io::on_queue() {
            self.registry.wait_until_empty(Instant::now() + KILL_WAIT);
        }
    }
}

/// The task that accepts clients.
async fn accept_all(
    socket: OwnedFd,
    shared: Arc<Shared>,
    acceptor: Arc<Acceptor>,
    registry: Arc<Registry>,
    queues: Vec<QueueHandle>,
) {
    let ready = match Readiness::register(socket.as_fd()) {
        Ok(ready) => ready,
        Err(error) => {
            tracing::error!(%error, "the NBD server cannot accept clients");
            return;
        }
    };
    while wait(&ready, &acceptor).await {
        match accept(&socket) {
            Ok(Some(client)) => hand_over(client, &shared, &registry, &queues),
            Ok(None) => ready.clear_readable(),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client, trying again");
                bowline_io::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Waits for a client; `false` when the server stops.
async fn wait(ready: &Readiness, acceptor: &Acceptor) -> bool {
    poll_fn(|cx| {
        acceptor.waker.register(cx.waker());
        if acceptor.stop.load(Ordering::SeqCst) {
            return Poll::Ready(false);
        }
        ready.poll_readable(cx).map(|()| true)
    })
    .await
}

fn hand_over(client: OwnedFd, shared: &Arc<Shared>, registry: &Arc<Registry>, queues: &[QueueHandle]) {
    let Some(ticket) = registry.admit() else {
        tracing::warn!(connections = registry.len(), "client turned away: no place for another connection");
        return;
    };
    if let Some(queue) = queues.get(ticket.queue()) {
        let shared = shared.clone();
        queue.spawn(move || conn::serve(client, shared, ticket));
    }
}
