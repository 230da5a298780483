//! What submitters and the connection task share: calls that wait to be sent, and tickets to hear of their end.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bowline_block::{Buf, ByteRange, Error, ErrorKind, ExtentList, Result};
use bowline_nbd::{Command, CommandFlags, NbdUri};

use super::NbdOptions;
use super::dial::Dialed;
use super::limits::Limits;

/// Calls that may wait to be sent; who comes beyond waits outside.
const PENDING_MAX: usize = 1024;

/// How a call ended. The data comes back in every case.
pub(super) struct Answer {
    pub(super) result: Result<()>,
    pub(super) data: Buf,
    pub(super) extents: ExtentList,
}

#[derive(Default)]
struct TicketState {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

/// Waits for the end of one call, on any thread.
pub(super) struct Ticket(Arc<Mutex<TicketState>>);

impl Future for Ticket {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = lock(&self.0);
        if let Some(answer) = state.answer.take() {
            return Poll::Ready(answer);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// One request of the wire on its way.
pub(super) struct Call {
    pub(super) command: Command,
    pub(super) flags: CommandFlags,
    pub(super) range: ByteRange,
    pub(super) data: Buf,
    pub(super) extents: ExtentList,
    pub(super) asked: Instant,
    ticket: Arc<Mutex<TicketState>>,
    ended: bool,
}

impl Call {
    pub(super) fn new(
        command: Command,
        flags: CommandFlags,
        range: ByteRange,
        data: Buf,
        extents_max: usize,
    ) -> Self {
        Self {
            command,
            flags,
            range,
            data,
            extents: ExtentList::with_max(extents_max),
            asked: Instant::now(),
            ticket: Arc::default(),
            ended: false,
        }
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.ticket.clone())
    }

    /// Ends the call.
    pub(super) fn end(mut self, result: Result<()>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<()>) {
        self.ended = true;
        let data = std::mem::replace(&mut self.data, Buf::empty());
        let extents = std::mem::take(&mut self.extents);
        let mut state = lock(&self.ticket);
        state.answer = Some(Answer { result, data, extents });
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Whatever way a call is lost, who waits for it hears of it.
        if !self.ended {
            self.answer(Err(closed()));
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Gone, "the source was closed")
}

struct State {
    pending: VecDeque<Call>,
    outside: Vec<Waker>,
    task: Option<Waker>,
    dialed: Option<Dialed>,
    trouble: Option<String>,
    closed: bool,
}

/// The store's half and the task's half meet here.
pub(super) struct Shared {
    pub(super) uri: NbdUri,
    pub(super) location: String,
    pub(super) options: NbdOptions,
    pub(super) limits: Limits,
    state: Mutex<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(uri: NbdUri, location: String, options: NbdOptions, limits: Limits) -> Arc<Self> {
        let state = State {
            pending: VecDeque::new(),
            outside: Vec::new(),
            task: None,
            dialed: None,
            trouble: None,
            closed: false,
        };
        Arc::new(Self { uri, location, options, limits, state: Mutex::new(state) })
    }

    /// Puts a call where the connection task finds it, as soon as there is room.
    pub(super) async fn enqueue(&self, call: Call) {
        let mut call = Some(call);
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.closed {
                drop(state);
                if let Some(call) = call.take() {
                    call.end(Err(closed()));
                }
                return Poll::Ready(());
            }
            if state.pending.len() >= PENDING_MAX {
                if !state.outside.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.outside.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            if let Some(mut call) = call.take() {
                call.asked = Instant::now();
                state.pending.push_back(call);
            }
            let task = state.task.take();
            drop(state);
            if let Some(task) = task {
                task.wake();
            }
            Poll::Ready(())
        })
        .await;
    }

    /// The next call to send.
    pub(super) fn next_call(&self) -> Option<Call> {
        let mut state = lock(&self.state);
        let call = state.pending.pop_front();
        let outside = match state.pending.len() {
            len if len <= PENDING_MAX / 2 => std::mem::take(&mut state.outside),
            _ => Vec::new(),
        };
        drop(state);
        outside.into_iter().for_each(Waker::wake);
        call
    }

    pub(super) fn has_calls(&self) -> bool {
        !lock(&self.state).pending.is_empty()
    }

    /// Has the task woken by the next call, connection or close.
    pub(super) fn set_task(&self, cx: &Context<'_>) {
        let mut state = lock(&self.state);
        match &mut state.task {
            Some(task) => task.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Ends the calls that have waited for `limit`.
    pub(super) fn expire(&self, limit: Duration, make: impl Fn() -> Error) {
        let now = Instant::now();
        let late = |call: &Call| now.saturating_duration_since(call.asked) >= limit;
        let mut expired = Vec::new();
        let mut state = lock(&self.state);
        // In the order of asking, so the late ones are in front.
        while state.pending.front().is_some_and(late) {
            expired.extend(state.pending.pop_front());
        }
        let outside = if expired.is_empty() { Vec::new() } else { std::mem::take(&mut state.outside) };
        drop(state);
        expired.into_iter().for_each(|call| call.end(Err(make())));
        outside.into_iter().for_each(Waker::wake);
    }

    /// Hands over a connection made by the dial thread.
    pub(super) fn put_dialed(&self, dialed: Dialed) {
        let mut state = lock(&self.state);
        state.dialed = Some(dialed);
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }

    pub(super) fn take_dialed(&self) -> Option<Dialed> {
        lock(&self.state).dialed.take()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        lock(&self.state).trouble = trouble;
    }

    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.state).trouble.clone()
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let (task, outside) = (state.task.take(), std::mem::take(&mut state.outside));
        drop(state);
        task.into_iter().chain(outside).for_each(Waker::wake);
    }

    /// Ends every call that waits; the source is closed.
    pub(super) fn end_all(&self) {
        let pending = std::mem::take(&mut lock(&self.state).pending);
        pending.into_iter().for_each(|call| call.end(Err(closed())));
    }
}
