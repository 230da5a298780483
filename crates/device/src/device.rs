//! A device: what exports serve and snapshots are taken of.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bowline_block::{
    Altitude, ByteRange, Done, Error, ErrorKind, ExtentList, ExtentsFuture, Flags, Geometry, Io, IoFuture,
    Loss, Now, Op, Request, Result, Store,
};

use crate::gate::{Entry, Gate};
use crate::level::Level;
use crate::stats::IoStats;
use crate::sync::Mutex;

/// Names an attached filter, once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub u64);

impl FilterId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for FilterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A filter as it sits in a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its number.
    pub id: FilterId,
    /// Its kind.
    pub kind: &'static str,
    /// Its altitude.
    pub altitude: Altitude,
    /// The bytes it sees; `None` is all of the device.
    pub range: Option<ByteRange>,
}

/// A named stack behind a gate.
pub struct Device {
    name: String,
    /// Fixed order of freezing.
    pub(crate) order: u64,
    pub(crate) gate: Gate,
    pub(crate) top: ArcSwap<Level>,
    /// Held by who froze the device.
    pub(crate) freezer: Mutex<bool>,
    gone: AtomicBool,
    on_trouble: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Device {
    /// A device without filters.
    #[must_use]
    pub fn new(name: impl Into<String>, store: Arc<dyn Store>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            name: name.into(),
            order: NEXT.fetch_add(1, Ordering::Relaxed),
            gate: Gate::new(),
            top: ArcSwap::from_pointee(Level::Bottom(store)),
            freezer: Mutex::new(false),
            gone: AtomicBool::new(false),
            on_trouble: OnceLock::new(),
        })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The filters, highest first.
    #[must_use]
    pub fn filters(&self) -> Vec<Attachment> {
        let describe = |level: &crate::level::FilterLevel| Attachment {
            id: level.id,
            kind: level.filter.kind(),
            altitude: level.altitude,
            range: level.range,
        };
        self.top.load().filters().map(describe).collect()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> IoStats {
        let mut sum = IoStats { in_flight: self.gate.in_flight(), ..IoStats::default() };
        self.gate.slots().for_each(|slot| slot.counters.add_to(&mut sum));
        sum
    }

    /// Has somebody told of each request that fails with an I/O error, or because the device is not there. Once and for
    /// all. It is called on queue threads: it must be quick and must not block.
    pub fn on_trouble(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_trouble.set(Box::new(tell));
    }

    /// Ends the device: requests from now on answer *gone*. Freeze first, so that none is inside.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    /// Whether the device was removed.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    #[inline]
    fn admit(&self, top: &Level, request: &Request) -> Result<()> {
        if self.is_gone() {
            return Err(Error::new(ErrorKind::Gone, "the device was removed").device(&self.name));
        }
        top.geometry().check(request).map_err(|error| error.device(&self.name))
    }

    #[inline]
    fn now(&self, request: &Request, act: impl FnOnce(&Level) -> Now) -> Now {
        let Some(entry) = self.gate.try_enter() else { return Now::NotNow };
        let top = self.top.load();
        let now = match self.admit(&top, request) {
            Ok(()) => act(&top),
            Err(error) => Now::Done(Err(error)),
        };
        match now {
            Now::Done(result) => {
                entry.counters().count(request, result.is_err());
                Now::Done(result.map_err(|error| self.blame(error, request)))
            }
            Now::NotNow => Now::NotNow,
        }
    }

    #[cold]
    fn blame(&self, error: Error, request: &Request) -> Error {
        if matches!(error.kind(), ErrorKind::Io | ErrorKind::Gone)
            && let Some(tell) = self.on_trouble.get()
        {
            tell();
        }
        error.device(&self.name).op(request.op.name()).range(request.range)
    }

    async fn run(&self, io: Io) -> Done {
        let entry = self.gate.enter().await;
        let top = self.top.load_full();
        let request = io.request;
        let Done { result, data } = match self.admit(&top, &request) {
            Ok(()) => top.submit(io).await,
            Err(error) => Done { result: Err(error), data: io.data },
        };
        entry.counters().count(&request, result.is_err());
        Done { result: result.map_err(|error| self.blame(error, &request)), data }
    }

    /// Goes inside the gate without a request, if the device is not frozen: for an image of this device, which reads
    /// beneath the filter that took it. Who is inside must not submit to this device: a freeze would wait for both.
    #[inline]
    #[must_use]
    pub fn enter_now(&self) -> Option<Inside<'_>> {
        let entry = self.gate.try_enter()?;
        Some(Inside { _entry: entry, top: self.top.load_full() })
    }

    /// What lies below `altitude`, for a store to which a filter redirects: the request that it got is inside the gate.
    /// Nobody else may use it.
    #[must_use]
    pub fn below_inside(&self, altitude: Altitude) -> Arc<dyn Store> {
        let mut at = self.top.load_full();
        loop {
            let next = match &*at {
                Level::Filter(level) if level.altitude >= altitude => level.below.clone(),
                _ => return at,
            };
            at = next;
        }
    }

    /// Goes inside the gate as soon as the device is not frozen.
    pub async fn enter(&self) -> Inside<'_> {
        let entry = self.gate.enter().await;
        Inside { _entry: entry, top: self.top.load_full() }
    }
}

/// Being inside a device's gate: its stack does not change meanwhile.
pub struct Inside<'a> {
    _entry: Entry<'a>,
    top: Arc<Level>,
}

impl Inside<'_> {
    /// What lies below `altitude`.
    #[must_use]
    pub fn below(&self, altitude: Altitude) -> &dyn Store {
        below(&self.top, altitude)
    }
}

/// The part of a stack that lies below `altitude`.
fn below(top: &Level, altitude: Altitude) -> &Level {
    let mut at = top;
    while let Level::Filter(level) = at {
        if level.altitude < altitude {
            break;
        }
        at = &level.below;
    }
    at
}

impl Store for Device {
    fn geometry(&self) -> Geometry {
        self.top.load().geometry()
    }

    fn location(&self) -> String {
        self.top.load().location()
    }

    #[inline]
    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        self.now(&Request::new(Op::Read, range), |top| top.read_now(range, data))
    }

    #[inline]
    fn write_now(&self, range: ByteRange, data: &[u8], flags: Flags) -> Now {
        let request = Request::new(Op::Write, range).with_flags(flags);
        self.now(&request, |top| top.write_now(range, data, flags))
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Box::pin(self.run(io))
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        let Some(_entry) = self.gate.try_enter() else { return Now::NotNow };
        let top = self.top.load();
        match self.admit(&top, &Request::new(Op::Read, range)) {
            Ok(()) => top.extents_now(range, found),
            Err(error) => Now::Done(Err(error)),
        }
    }

    fn extents(&self, range: ByteRange, max: usize) -> ExtentsFuture<'_> {
        Box::pin(async move {
            let _entry = self.gate.enter().await;
            let top = self.top.load_full();
            self.admit(&top, &Request::new(Op::Read, range))?;
            top.extents(range, max).await
        })
    }

    fn take_loss(&self) -> Option<Loss> {
        self.top.load().take_loss()
    }
}
