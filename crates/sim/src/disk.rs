//! The simulated disk.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bowline_block::{
    BlockSize, Buf, ByteRange, Capabilities, Done, Error, ErrorKind, Flags, Geometry, Io, IoFuture, Now, Op,
    Request, Result, Store,
};

use crate::cache::{Cache, Crash, Written};
use crate::faults::{Discards, Faults, FlushFailure, Stall};
use crate::image::Image;
use crate::log::{Entry, Mark, Replay};
use crate::power::PowerSwitch;
use crate::rng::Rng;

struct State {
    start: Image,
    cache: Cache,
    log: Vec<(u64, Entry)>,
    faults: Faults,
    rng: Rng,
    writes: u64,
    power: PowerSwitch,
    stalled: Vec<Waker>,
}

/// A disk in memory with a volatile cache, a log, and faults on request. One seed and one order of requests give one
/// run.
pub struct SimDisk {
    geometry: Geometry,
    /// Whether `read_now` and `write_now` answer.
    answers_now: bool,
    state: Mutex<State>,
}

impl SimDisk {
    /// A disk of zeroes, 512-byte blocks. `size` is a multiple of 512.
    #[must_use]
    pub fn new(size: u64, seed: u64) -> Self {
        Self::with_image(Image::zeroed(size), seed)
    }

    /// A disk that holds what a power cut left.
    #[must_use]
    pub fn with_image(image: Image, seed: u64) -> Self {
        let geometry = Geometry {
            size: image.size(),
            block_size: BlockSize::B512,
            read_only: false,
            can: Capabilities::DISCARD | Capabilities::DISCARD_READS_ZERO | Capabilities::WRITE_ZEROES,
        };
        let state = State {
            start: image.clone(),
            cache: Cache::new(image),
            log: Vec::new(),
            faults: Faults::default(),
            rng: Rng::new(seed),
            writes: 0,
            power: PowerSwitch::new(),
            stalled: Vec::new(),
        };
        Self { geometry, answers_now: false, state: Mutex::new(state) }
    }

    /// The same disk with faults.
    #[must_use]
    pub fn faulty(mut self, faults: Faults) -> Self {
        use Capabilities as C;
        self.geometry.can = match faults.discards {
            Discards::ReadZeroes => C::DISCARD | C::DISCARD_READS_ZERO | C::WRITE_ZEROES,
            Discards::Keep | Discards::Scramble => C::DISCARD | C::WRITE_ZEROES,
            Discards::Unsupported => C::WRITE_ZEROES,
        };
        self.set_faults(faults);
        self
    }

    /// The same disk with blocks of that size.
    #[must_use]
    pub fn with_block_size(mut self, block_size: BlockSize) -> Self {
        self.geometry.block_size = block_size;
        self
    }

    /// The same disk, answering reads and writes at once where no fault says otherwise.
    #[must_use]
    pub fn answering_now(mut self) -> Self {
        self.answers_now = true;
        self
    }

    /// The same disk with its power from that switch.
    #[must_use]
    pub fn powered_by(mut self, power: &PowerSwitch) -> Self {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).power = power.clone();
        self
    }

    /// Changes what goes wrong from now on. What discards do is part of the disk's shape and stays.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.lock();
        state.faults = faults;
        // What is stalled looks again, and stalls again if that is what the new faults say.
        let stalled = std::mem::take(&mut state.stalled);
        drop(state);
        stalled.into_iter().for_each(Waker::wake);
    }

    /// Lets operations go on that were stalled.
    pub fn release(&self) {
        let mut state = self.lock();
        if state.faults.stall == Stall::UntilReleased {
            state.faults.stall = Stall::None;
        }
        let stalled = std::mem::take(&mut state.stalled);
        drop(state);
        stalled.into_iter().for_each(Waker::wake);
    }

    /// How many operations are stalled until released.
    #[must_use]
    pub fn stalled(&self) -> usize {
        self.lock().stalled.len()
    }

    /// Puts a note into the log.
    pub fn mark(&self, mark: Mark) {
        // Without power nothing is noted either.
        let _ = self.lock().record(Entry::Marked(mark));
    }

    /// Everything since the disk was made, again.
    #[must_use]
    pub fn replay(&self) -> Replay {
        let state = self.lock();
        Replay::new(state.start.clone(), state.log.iter().map(|(_, entry)| entry.clone()).collect())
    }

    /// Moments at which the power may be cut: the start, and behind every event of the log.
    #[must_use]
    pub fn cut_points(&self) -> usize {
        self.lock().log.len() + 1
    }

    /// The image that a power cut at that moment of its switch may have left. What happened later does not count.
    #[must_use]
    pub fn cut_at(&self, moment: u64, crash: Crash) -> Image {
        let state = self.lock();
        let past = state.log.iter().take_while(|(at, _)| *at <= moment).map(|(_, entry)| entry.clone());
        let mut replay = Replay::new(state.start.clone(), past.collect());
        drop(state);
        while replay.step().is_some() {}
        replay.power_cut(crash)
    }

    /// Turns the power off: the image that is left. The disk answers *gone* from now on.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> Image {
        self.cut(Crash::Seeded(seed))
    }

    /// Turns the power off in that way.
    #[must_use]
    pub fn cut(&self, crash: Crash) -> Image {
        let state = self.lock();
        state.power.off();
        let image = state.cache.power_cut(crash);
        drop(state);
        self.release();
        image
    }

    /// What a read finds.
    #[must_use]
    pub fn contents(&self) -> Image {
        self.lock().cache.visible().clone()
    }

    /// What survives any power cut.
    #[must_use]
    pub fn durable(&self) -> Image {
        self.lock().cache.durable().clone()
    }

    /// How many writes a power cut may lose.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.lock().cache.unflushed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, io: Io) -> Done {
        let Io { request, mut data } = io;
        if let Err(error) = self.admit(&request, data.len()) {
            return Done { result: Err(error), data };
        }
        let begun = self.lock().begin(&request, &data, self.geometry.can);
        let mut polls = None;
        poll_fn(|cx| self.lock().stall(&mut polls, cx)).await;
        let mut state = self.lock();
        let result = begun.and_then(|begun| state.end(&request, begun, &mut data));
        Done { result: result.map_err(|error| error.op(request.op.name()).range(request.range)), data }
    }

    fn admit(&self, request: &Request, len: usize) -> Result<()> {
        self.geometry.check(request)?;
        let carries = matches!(request.op, Op::Read | Op::Write);
        if carries && request.range.len() != len as u64 {
            return Err(Error::new(ErrorKind::Invalid, format!("{len} bytes of data")).op(request.op.name()));
        }
        Ok(())
    }

    /// Does an operation at once, where nothing stalls.
    fn now(&self, request: &Request, len: usize, act: impl FnOnce(&mut State) -> Result<()>) -> Now {
        let mut state = self.lock();
        if !self.answers_now || state.faults.stall != Stall::None {
            return Now::NotNow;
        }
        if let Err(error) = self.admit(request, len) {
            return Now::Done(Err(error));
        }
        Now::Done(act(&mut state))
    }
}

/// What a request has become between its arrival and its end.
#[derive(Clone, Copy)]
struct Begun {
    failure: Option<ErrorKind>,
    write: Option<u64>,
    flush_turn: u64,
}

impl State {
    fn begin(&mut self, request: &Request, data: &[u8], can: Capabilities) -> Result<Begun> {
        self.check_power()?;
        let mut failure = self.faults.strike(request.op);
        let flush_turn = self.cache.turn();
        let unsupported = request.op == Op::Discard && !can.contains(Capabilities::DISCARD);
        if unsupported {
            failure = Some(ErrorKind::Unsupported);
        }
        if request.op == Op::Write
            && let Some(limit) = self.faults.space_bytes
            && self.cache.visible().allocated_bytes() + request.range.widened_to(4096).len() > limit
        {
            failure = Some(ErrorKind::NoSpace);
        }
        let new_data = match request.op {
            Op::Write => Some(Some(data.to_vec())),
            Op::WriteZeroes => Some(None),
            Op::Discard if !unsupported => self.discarded(request.range),
            _ => None,
        };
        let mut write = None;
        if let Some(data) = new_data {
            let durable = request.flags.contains(Flags::FUA);
            self.writes += 1;
            let shared = Arc::new(Written { number: self.writes, range: request.range, data, durable });
            self.record(Entry::Begun(shared.clone()))?;
            self.cache.begin(&shared);
            write = Some(self.writes);
        }
        if request.op == Op::Flush {
            self.record(Entry::FlushBegun)?;
        }
        Ok(Begun { failure, write, flush_turn })
    }

    fn discarded(&mut self, range: ByteRange) -> Option<Option<Vec<u8>>> {
        match self.faults.discards {
            Discards::ReadZeroes => Some(None),
            Discards::Scramble => {
                let byte = u8::try_from(self.rng.below(255)).unwrap_or(0) + 1;
                Some(Some(vec![byte; usize::try_from(range.len()).unwrap_or(0)]))
            }
            Discards::Keep | Discards::Unsupported => None,
        }
    }

    fn stall(&mut self, polls: &mut Option<u64>, cx: &Context<'_>) -> Poll<()> {
        if !self.power.is_on() {
            return Poll::Ready(());
        }
        match self.faults.stall {
            Stall::None => Poll::Ready(()),
            Stall::UntilReleased => {
                if !self.stalled.iter().any(|waker| waker.will_wake(cx.waker())) {
                    self.stalled.push(cx.waker().clone());
                }
                Poll::Pending
            }
            Stall::Polls(most) => {
                let left = polls.get_or_insert_with(|| self.rng.below(most + 1));
                if *left == 0 {
                    return Poll::Ready(());
                }
                *left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn end(&mut self, request: &Request, begun: Begun, data: &mut Buf) -> Result<()> {
        self.check_power()?;
        if let Some(kind) = begun.failure {
            if let Some(write) = begun.write {
                let seed = self.rng.next_u64();
                self.record(Entry::Failed { write, seed })?;
                self.cache.apply_failed(write, seed);
            }
            if request.op == Op::Flush && self.faults.flush_failure == FlushFailure::Forgets {
                self.record(Entry::Forgotten { turn: begun.flush_turn })?;
                self.cache.forget(begun.flush_turn);
            }
            return Err(Error::new(kind, "the simulated disk was told to fail"));
        }
        match (request.op, begun.write) {
            (Op::Read, _) => self.cache.visible().read(request.range.start(), data),
            (Op::Flush, _) => {
                self.record(Entry::Flushed { turn: begun.flush_turn })?;
                self.cache.flush(begun.flush_turn);
            }
            (_, Some(write)) => {
                self.record(Entry::Applied(write))?;
                self.cache.apply(write);
            }
            (_, None) => {}
        }
        Ok(())
    }

    fn check_power(&self) -> Result<()> {
        if self.power.is_on() { Ok(()) } else { Err(no_power()) }
    }

    /// It happens, unless the power is off.
    fn record(&mut self, entry: Entry) -> Result<()> {
        let moment = self.power.tick().ok_or_else(no_power)?;
        self.log.push((moment, entry));
        Ok(())
    }
}

fn no_power() -> Error {
    Error::new(ErrorKind::Gone, "the power is off")
}

impl Store for SimDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn location(&self) -> String {
        "simulated".to_owned()
    }

    fn read_now(&self, range: ByteRange, data: &mut [u8]) -> Now {
        let request = Request::new(Op::Read, range);
        self.now(&request, data.len(), |state| {
            state.check_power()?;
            if let Some(kind) = state.faults.strike(Op::Read) {
                return Err(Error::new(kind, "the simulated disk was told to fail").op("read").range(range));
            }
            state.cache.visible().read(range.start(), data);
            Ok(())
        })
    }

    fn write_now(&self, range: ByteRange, data: &[u8], flags: Flags) -> Now {
        let request = Request::new(Op::Write, range).with_flags(flags);
        let can = self.geometry.can;
        self.now(&request, data.len(), |state| {
            let begun = state.begin(&request, data, can)?;
            state.end(&request, begun, &mut Buf::empty())
        })
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        Box::pin(self.run(io))
    }
}
