//! One connection in transmission: a state machine that its task polls.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bowline_block::{Error, ErrorKind, Result};
use bowline_io::Readiness;
use bowline_nbd::{Command, CommandFlags, ContextId, ReplyForm};

use super::dial::Dialed;
use super::durability::Durability;
use super::flight::Flights;
use super::limits::allocation;
use super::receive::Inbound;
use super::send::Outbound;
use super::shared::Shared;
use super::wire::Wire;

/// Rounds of sending and receiving before other tasks of the thread have their turn.
const ROUNDS_MAX: u32 = 16;

/// A connection in transmission.
pub(super) struct Connection {
    pub(super) wire: Wire,
    pub(super) ready: Readiness,
    pub(super) form: ReplyForm,
    pub(super) allocation: Option<ContextId>,
    pub(super) flights: Flights,
    pub(super) outbound: Outbound,
    pub(super) inbound: Inbound,
    /// When the server last said anything.
    pub(super) heard: Instant,
    /// Whether it has answered anything.
    pub(super) useful: bool,
    tick: Option<Tick>,
}

struct Tick {
    due: Instant,
    sleep: Pin<Box<dyn Future<Output = ()>>>,
}

impl Connection {
    /// Takes over a connection, on the queue thread that will own it.
    pub(super) fn open(dialed: Dialed) -> Result<Self> {
        let Dialed { wire, export, input } = dialed;
        let ready = Readiness::register(&wire)
            .map_err(|error| Error::from_io("cannot watch the connection", error))?;
        Ok(Self {
            wire,
            ready,
            form: export.options.form,
            allocation: allocation(&export),
            flights: Flights::new(),
            outbound: Outbound::default(),
            inbound: Inbound::new(&input),
            heard: Instant::now(),
            useful: false,
            tick: None,
        })
    }

    /// Serves calls until the source is closed, which is `Ok`, or the connection is lost.
    pub(super) async fn serve(&mut self, shared: &Shared, durability: &mut Durability) -> Result<()> {
        let ended = std::future::poll_fn(|cx| match self.turn(shared, durability, cx) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(lost) => Poll::Ready(Err(lost)),
        })
        .await;
        self.end_flights(shared.options.request_timeout, &ended);
        ended
    }

    /// `true` when the source is closed.
    fn turn(&mut self, shared: &Shared, durability: &mut Durability, cx: &Context<'_>) -> Result<bool> {
        shared.set_task(cx);
        self.ready.set_waker(cx);
        if shared.is_closed() {
            self.disconnect();
            return Ok(true);
        }
        for round in 0.. {
            self.take_calls(shared, durability)?;
            self.send(durability)?;
            let received = self.receive(durability)?;
            let can_take = self.outbound.is_empty() && !self.flights.is_full() && shared.has_calls();
            if !received && !can_take {
                break;
            }
            if round == ROUNDS_MAX {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.look_at_clock(shared, cx)?;
        Ok(false)
    }

    fn take_calls(&mut self, shared: &Shared, durability: &mut Durability) -> Result<()> {
        while self.outbound.has_room() && !self.flights.is_full() {
            let Some(call) = shared.next_call() else { break };
            if call.command == Command::Flush && durability.take_lost() {
                let why = "the connection was lost with writes that had not been flushed";
                call.end(Err(Error::new(ErrorKind::Io, why)));
                continue;
            }
            let Some(slot) = self.flights.put(call, durability.covered_now()) else { break };
            if let Some(flight) = self.flights.get_mut(slot) {
                self.outbound.put(slot, flight, self.form)?;
            }
        }
        Ok(())
    }

    /// A call's reply is complete, and all of its payload sent.
    pub(super) fn finish(&mut self, slot: usize, result: Result<()>, durability: &mut Durability) {
        if self.outbound.is_sending(slot) {
            if let Some(flight) = self.flights.get_mut(slot) {
                flight.early = Some(result);
            }
            return;
        }
        let Some(flight) = self.flights.remove(slot) else { return };
        let fua = flight.call.as_ref().is_some_and(|call| call.flags.contains(CommandFlags::FUA));
        match (flight.command, &result) {
            (Command::Flush, Ok(())) => durability.flushed(flight.covers),
            (Command::Write | Command::Trim | Command::WriteZeroes, Ok(())) if !fua => {
                durability.change_acknowledged();
            }
            _ => {}
        }
        if let Some(call) = flight.call {
            call.end(result);
        }
    }

    /// Looks for calls that have taken too long, now and then while there are any.
    fn look_at_clock(&mut self, shared: &Shared, cx: &Context<'_>) -> Result<()> {
        if self.flights.is_empty() && !shared.has_calls() {
            return Ok(());
        }
        let now = Instant::now();
        if self.tick.as_ref().is_some_and(|tick| now >= tick.due) {
            self.tick = None;
            self.expire(now, shared.options.request_timeout)?;
            shared.expire(shared.options.request_timeout, || {
                Error::new(ErrorKind::Timeout, "the server answers too slowly: not even sent in time")
            });
        }
        if self.tick.is_none() {
            let pause = tick_length(shared.options.request_timeout);
            let mut tick = Tick { due: now + pause, sleep: Box::pin(bowline_io::sleep(pause)) };
            // Polled once: the timer keeps this task's waker, which stays the same.
            let _ = tick.sleep.as_mut().poll(&mut Context::from_waker(cx.waker()));
            self.tick = Some(tick);
        }
        Ok(())
    }

    fn expire(&mut self, now: Instant, limit: Duration) -> Result<()> {
        let mut alive = 0;
        for (slot, flight) in self.flights.iter_mut() {
            let late = |asked| now.saturating_duration_since(asked) >= limit;
            if !flight.call.as_ref().is_some_and(|call| late(call.asked)) {
                alive += usize::from(flight.call.is_some());
                continue;
            }
            // Half a payload cannot be taken back; and a server that is silent altogether will not come back.
            if self.outbound.is_sending(slot) || self.heard < flight.sent {
                let why = format!("the server has been silent for {limit:?}");
                return Err(Error::new(ErrorKind::Timeout, why));
            }
            if let Some(call) = flight.call.take() {
                call.end(Err(Error::new(ErrorKind::Timeout, format!("no answer within {limit:?}"))));
            }
        }
        if alive == 0 && self.flights.is_full() {
            let why = format!("nothing that was asked has been answered within {limit:?}");
            return Err(Error::new(ErrorKind::Timeout, why));
        }
        Ok(())
    }

    fn end_flights(&mut self, limit: Duration, ended: &Result<()>) {
        let why = match ended {
            Ok(()) => "the source was closed".to_owned(),
            Err(lost) => format!("the connection was lost: {lost}"),
        };
        for call in self.flights.take_calls() {
            let late = call.asked.elapsed() >= limit;
            let kind = if late { ErrorKind::Timeout } else { ErrorKind::Io };
            call.end(Err(Error::new(kind, why.clone())));
        }
    }
}

fn tick_length(limit: Duration) -> Duration {
    (limit / 8).clamp(Duration::from_millis(5), Duration::from_millis(500))
}
