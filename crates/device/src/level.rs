//! One level of a stack: a filter with all that is below it, or the store at the bottom.

use std::sync::Arc;

use bowline_block::{
    Altitude, Buf, ByteRange, Done, Error, ErrorKind, ExtentKind, ExtentList, ExtentsFuture, Filter, Flags,
    Geometry, Io, IoFuture, Loss, Now, Op, Request, Result, Store, Verdict,
};

use crate::device::FilterId;

/// A stack is its top level. Levels are immutable: a changed stack is a new one over the same store.
pub(crate) enum Level {
    Bottom(Arc<dyn Store>),
    Filter(FilterLevel),
}

pub(crate) struct FilterLevel {
    pub(crate) id: FilterId,
    pub(crate) filter: Arc<dyn Filter>,
    pub(crate) altitude: Altitude,
    /// The bytes it sees; `None` is the whole device, whatever its size.
    pub(crate) range: Option<ByteRange>,
    pub(crate) below: Arc<Level>,
}

/// How a request meets a filter's range.
enum Meets {
    Outside,
    Inside,
    Across,
}

impl FilterLevel {
    #[inline]
    fn meets(&self, request: &Request) -> Meets {
        match self.range {
            None => Meets::Inside,
            // A flush has no range and concerns every filter.
            Some(_) if request.op == Op::Flush => Meets::Inside,
            Some(own) if own.contains(request.range) => Meets::Inside,
            Some(own) if own.overlaps(request.range) => Meets::Across,
            Some(_) => Meets::Outside,
        }
    }

    /// Asks the filter and does what it says, until the request has ended.
    async fn resolve(&self, io: Io) -> Done {
        let Io { request, data } = io;
        loop {
            match self.filter.ask(&request, &*self.below) {
                Verdict::Pass => return self.below.submit(Io { request, data }).await,
                Verdict::Complete(result) => return Done { result, data },
                Verdict::Redirect { to, offset } => {
                    let request = request.on(request.range.moved_to(offset));
                    return to.submit(Io { request, data }).await;
                }
                Verdict::Hold(hold) => hold.await,
            }
        }
    }

    /// Cuts a request at the borders of the filter's range; it ends once, when all parts have.
    async fn split(&self, io: Io, own: ByteRange) -> Done {
        let Io { request, mut data } = io;
        let whole = request.range;
        let (before, rest) = whole.split_at(own.start());
        let (inside, after) = rest.split_at(own.end());
        let mut result = Ok(());
        for part in [before, inside, after].into_iter().filter(|part| !part.is_empty()) {
            let from = usize::try_from(part.start() - whole.start()).unwrap_or(usize::MAX);
            let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
            let window = from..from.saturating_add(len);
            let part_data = match request.op {
                Op::Write => Buf::copy_of(data.get(window.clone()).unwrap_or_default()),
                Op::Read => Buf::zeroed(len),
                _ => Buf::empty(),
            };
            let io = Io { request: request.on(part), data: part_data };
            let done = if own.contains(part) { self.resolve(io).await } else { self.below.submit(io).await };
            result = result.and(done.result);
            if request.op == Op::Read && result.is_ok() {
                match data.get_mut(window) {
                    Some(room) if room.len() == done.data.len() => room.copy_from_slice(&done.data),
                    _ => result = Err(Error::new(ErrorKind::Io, "there is no memory for the request")),
                }
            }
        }
        Done { result, data }
    }

    #[inline]
    fn now(&self, request: &Request, pass: impl FnOnce(&dyn Store, ByteRange) -> Now) -> Now {
        match self.meets(request) {
            Meets::Outside => return pass(&*self.below, request.range),
            Meets::Across => return Now::NotNow,
            Meets::Inside => {}
        }
        match self.filter.ask(request, &*self.below) {
            Verdict::Pass => pass(&*self.below, request.range),
            Verdict::Complete(result) => Now::Done(result),
            Verdict::Redirect { to, offset } => pass(&*to, request.range.moved_to(offset)),
            Verdict::Hold(_) => Now::NotNow,
        }
    }
}

impl Level {
    /// The levels from this one down that are filters.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &FilterLevel> {
        let mut at = self;
        std::iter::from_fn(move || match at {
            Self::Bottom(_) => None,
            Self::Filter(level) => {
                at = &level.below;
                Some(level)
            }
        })
    }

    /// The store at the bottom.
    pub(crate) fn bottom(&self) -> &Arc<dyn Store> {
        let mut at = self;
        loop {
            match at {
                Self::Bottom(store) => return store,
                Self::Filter(level) => at = &level.below,
            }
        }
    }

    /// The stack with one more filter, below those of its own altitude that are there already.
    pub(crate) fn with(self: &Arc<Self>, new: &NewFilter) -> Arc<Self> {
        match &**self {
            Self::Filter(level) if level.altitude >= new.altitude => {
                Arc::new(Self::Filter(level.over(level.below.with(new))))
            }
            _ => Arc::new(Self::Filter(FilterLevel {
                id: new.id,
                filter: new.filter.clone(),
                altitude: new.altitude,
                range: new.range,
                below: self.clone(),
            })),
        }
    }

    /// The stack without the filter.
    pub(crate) fn without(self: &Arc<Self>, id: FilterId) -> Arc<Self> {
        match &**self {
            Self::Bottom(_) => self.clone(),
            Self::Filter(level) if level.id == id => level.below.clone(),
            Self::Filter(level) => Arc::new(Self::Filter(level.over(level.below.without(id)))),
        }
    }
}

/// A filter that is to be put into a stack.
pub(crate) struct NewFilter {
    pub(crate) id: FilterId,
    pub(crate) filter: Arc<dyn Filter>,
    pub(crate) altitude: Altitude,
    pub(crate) range: Option<ByteRange>,
}

impl FilterLevel {
    fn over(&self, below: Arc<Level>) -> Self {
        Self { id: self.id, filter: self.filter.clone(), altitude: self.altitude, range: self.range, below }
    }
}

impl Store for Level {
    fn geometry(&self) -> Geometry {
        self.bottom().geometry()
    }

    fn location(&self) -> String {
        self.bottom().location()
    }

    #[inline]
    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        match self {
            Self::Bottom(store) => store.read_now(range, data),
            Self::Filter(level) => {
                level.now(&Request::new(Op::Read, range), |to, range| to.read_now(range, data))
            }
        }
    }

    #[inline]
    fn write_now(&self, range: ByteRange, data: &[u8], flags: Flags) -> Now {
        match self {
            Self::Bottom(store) => store.write_now(range, data, flags),
            Self::Filter(level) => level
                .now(&Request::new(Op::Write, range).with_flags(flags), |to, range| {
                    to.write_now(range, data, flags)
                }),
        }
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        match self {
            Self::Bottom(store) => store.submit(io),
            Self::Filter(level) => match (level.meets(&io.request), level.range) {
                (Meets::Outside, _) => level.below.submit(io),
                (Meets::Across, Some(own)) => Box::pin(level.split(io, own)),
                _ => Box::pin(level.resolve(io)),
            },
        }
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        if self.filters().any(|level| level.filter.hides(range)) {
            found.push(range, ExtentKind::Data);
            return Now::Done(Ok(()));
        }
        self.bottom().extents_now(range, found)
    }

    fn extents(&self, range: ByteRange, max: usize) -> ExtentsFuture<'_> {
        if self.filters().any(|level| level.filter.hides(range)) {
            let mut found = ExtentList::with_max(max);
            found.push(range, ExtentKind::Data);
            return Box::pin(std::future::ready(Ok(found)));
        }
        self.bottom().extents(range, max)
    }

    fn resize(&self, size: u64) -> Result<()> {
        self.bottom().resize(size)
    }

    fn take_loss(&self) -> Option<Loss> {
        self.bottom().take_loss()
    }
}
