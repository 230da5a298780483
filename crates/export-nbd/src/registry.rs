//! The connections of a server: who they are, and what they are told from other threads.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::Instant;

use futures_util::task::AtomicWaker;

/// What a connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// Take no more requests, answer what was taken, close.
    Drain,
    /// Close.
    Kill,
}

impl Order {
    const ALL: [Self; 3] = [Self::Serve, Self::Drain, Self::Kill];
}

#[derive(Default)]
struct Control {
    order: AtomicU8,
    waker: AtomicWaker,
    waker_set: AtomicBool,
    export: OnceLock<String>,
    idle: AtomicBool,
}

impl Control {
    fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::SeqCst);
        self.waker.wake();
    }
}

#[derive(Default)]
struct State {
    connections: HashMap<u64, Arc<Control>>,
    next_id: u64,
    closed: bool,
}

/// All connections.
pub(crate) struct Registry {
    state: Mutex<State>,
    emptied: Condvar,
    per_queue: Vec<AtomicUsize>,
    max: usize,
}

impl Registry {
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn new(queues: usize, max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            emptied: Condvar::new(),
            per_queue: (0..queues).map(|_| AtomicUsize::new(0)).collect(),
            max,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection on the queue that has the fewest; `None` when the server is full or stopping.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Ticket> {
        let mut state = self.lock();
        if state.closed || state.connections.len() >= self.max {
            return None;
        }
        let load = |queue: &AtomicUsize| queue.load(Ordering::Relaxed);
        let (queue, count) = self.per_queue.iter().enumerate().min_by_key(|(_, queue)| load(queue))?;
        count.fetch_add(1, Ordering::Relaxed);
        let id = state.next_id;
        state.next_id += 1;
        let control = Arc::new(Control::default());
        state.connections.insert(id, control.clone());
        Some(Ticket { id, queue, control, registry: self.clone() })
    }

    /// How many clients each export has.
    pub(crate) fn clients(&self) -> BTreeMap<String, usize> {
        let mut clients = BTreeMap::new();
        for control in self.lock().connections.values() {
            if let Some(export) = control.export.get() {
                *clients.entry(export.clone()).or_insert(0) += 1;
            }
        }
        clients
    }

    /// Connections in all, those in their handshake too.
    pub(crate) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Connections that hold no buffers.
    pub(crate) fn idle(&self) -> usize {
        self.lock().connections.values().filter(|control| control.idle.load(Ordering::Relaxed)).count()
    }

    /// Tells all connections of an export.
    pub(crate) fn tell_export(&self, name: &str, order: Order) {
        for control in self.lock().connections.values() {
            if control.export.get().is_some_and(|export| export == name) {
                control.tell(order);
            }
        }
    }

    /// Admits no more, and tells all.
    pub(crate) fn close(&self, order: Order) {
        let mut state = self.lock();
        state.closed = true;
        for control in state.connections.values() {
            control.tell(order);
        }
    }

    /// Waits until there is no connection; `false` when that takes until `deadline`.
    pub(crate) fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.connections.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = match self.emptied.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

/// A connection's place; giving it up takes the connection off the list.
pub(crate) struct Ticket {
    id: u64,
    queue: usize,
    control: Arc<Control>,
    registry: Arc<Registry>,
}

impl Ticket {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The queue that serves it.
    pub(crate) fn queue(&self) -> usize {
        self.queue
    }

    /// The export it has chosen, if it has.
    pub(crate) fn export(&self) -> &str {
        self.control.export.get().map_or("", String::as_str)
    }

    pub(crate) fn set_export(&self, name: &str) {
        let _ = self.control.export.set(name.to_owned());
    }

    /// Whether it holds no buffers.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.control.idle.store(idle, Ordering::Relaxed);
    }

    /// What to do now. A change wakes the task that asks.
    #[inline]
    pub(crate) fn order(&self, cx: &Context<'_>) -> Order {
        let control = &*self.control;
        // A task's wakers are all alike, so one is enough until it was used.
        if control.order.load(Ordering::SeqCst) != 0 || !control.waker_set.load(Ordering::Relaxed) {
            control.waker.register(cx.waker());
            control.waker_set.store(true, Ordering::Relaxed);
        }
        let order = control.order.load(Ordering::SeqCst);
        Order::ALL.get(usize::from(order)).copied().unwrap_or(Order::Kill)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.connections.remove(&self.id);
        if let Some(queue) = self.registry.per_queue.get(self.queue) {
            queue.fetch_sub(1, Ordering::Relaxed);
        }
        if state.connections.is_empty() {
            self.registry.emptied.notify_all();
        }
    }
}
