//! One connection: one task on the queue thread it was given to, from the handshake to its end.
//!
//! ```text
//!            ┌────────── once a cycle ──────────┐
//!   recv ──► input ──► session ──► output ──► send
//!                      │     ▲
//!                      ▼     │ what could not be answered at once
//!                      device futures
//! ```
//!
//! The cost of a server is the socket and the wake-up. A cycle takes all requests that have arrived in one receive,
//! answers those that the device can answer at once in place, and sends all answers in one send; then it looks
//! again, and sleeps only when nothing moved.
//!
//! Everything is bounded (I9): the input and output buffers are fixed, requests under way are bounded in number and
//! bytes ([`slow`]), and when a bound is reached the connection stops receiving, so that the client is who waits.

mod answer;
mod contexts;
mod finish;
mod fit;
mod handshake;
mod idle;
mod input;
mod long_read;
mod long_write;
mod output;
mod session;
pub(crate) mod slow;
mod status;
mod wire;

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::registry::{Order, Ticket};
use crate::server::Shared;
use handshake::Agreed;
use idle::IdleTimer;
use input::Input;
use session::{Ending, Session};
use wire::{Received, Wire};

/// Bytes moved before other tasks of the thread get their turn.
const TURN_BYTES: usize = 1 << 20;
/// What a client that has hung up is given to take its last answers.
const LINGER: Duration = Duration::from_secs(30);

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("handshake: {0}")]
    Negotiation(#[from] bowline_nbd::NegotiationError),
    #[error("the handshake took longer than {0:?}")]
    TooSlow(Duration),
    #[error("the client hung up during the handshake")]
    HungUp,
    #[error("the export {0:?} went away during the handshake")]
    ExportGone(String),
    #[error("{0}")]
    Session(String),
    #[error("ended by the server")]
    Killed,
}

/// Serves one client.
pub(crate) async fn serve(socket: OwnedFd, shared: Arc<Shared>, ticket: Ticket) {
    match serve_until_end(socket, &shared, &ticket).await {
        Ok(()) => tracing::debug!(connection = ticket.id(), "connection closed"),
        Err(why) => {
            tracing::info!(connection = ticket.id(), export = ticket.export(), %why, "connection ended");
        }
    }
}

async fn serve_until_end(socket: OwnedFd, shared: &Shared, ticket: &Ticket) -> Result<(), End> {
    let mut wire = Wire::new(socket)?;
    let agreed = match handshake::run(&mut wire, shared, ticket).await {
        Ok(Some(agreed)) => agreed,
        Ok(None) => {
            wire.close();
            return Ok(());
        }
        Err(end) => {
            wire.close();
            return Err(end);
        }
    };
    tracing::debug!(connection = ticket.id(), export = ticket.export(), form = ?agreed.limits.form, "serving");
    let mut connection = Connection::new(wire, agreed);
    let end = poll_fn(|cx| connection.poll(cx, ticket)).await;
    let Connection { wire, session, .. } = connection;
    wire.close();
    // What the client has begun goes on to its end, and holds the connection's place until then: a device that hangs is
    // not given more and more requests of clients that come and go.
    session.slow.run_out().await;
    end
}

struct Connection {
    wire: Wire,
    input: Input,
    session: Session,
    idle: IdleTimer,
    ending_since: Option<Instant>,
    /// It was idle, and its buffers are given back.
    resting: bool,
}

impl Connection {
    fn new(wire: Wire, agreed: Agreed) -> Self {
        let Agreed { device, limits, contexts, left_over } = agreed;
        Self {
            wire,
            input: Input::with(&left_over),
            session: Session::new(device, limits, contexts),
            idle: IdleTimer::default(),
            ending_since: None,
            resting: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, ticket: &Ticket) -> Poll<Result<(), End>> {
        if let Some(end) = self.obey(cx, ticket) {
            return Poll::Ready(Err(end));
        }
        let mut moved = 0;
        loop {
            let mut progress = self.session.complete(cx);
            if self.session.wants_input() && self.wire.readable() {
                let count = self.receive(ticket)?;
                moved += count;
                progress |= count > 0;
            }
            let wanted = self.session.wants_input();
            let used = self.session.consume(self.input.bytes());
            self.input.consume(used);
            // The socket was not looked at when it was not known yet that more is needed.
            progress |= !wanted && self.session.wants_input() && self.wire.readable();
            let sent = self.wire.send(&mut self.session.output)?;
            moved += sent;
            progress |= self.session.stepped || sent > 0;
            if self.session.ending.is_some() && self.session.is_over() && self.wire.is_flushed() {
                return Poll::Ready(self.farewell());
            }
            if !progress {
                if self.idle.poll(cx)
                    && let Some(end) = self.grow_idle(ticket)
                {
                    return Poll::Ready(Err(end));
                }
                self.wire.set_waker(cx);
                return Poll::Pending;
            }
            if moved >= TURN_BYTES {
                self.wire.set_waker(cx);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Does what the server wants.
    #[inline]
    fn obey(&mut self, cx: &Context<'_>, ticket: &Ticket) -> Option<End> {
        match ticket.order(cx) {
            Order::Serve => {}
            Order::Drain => {
                self.session.ending.get_or_insert(Ending::Drained);
            }
            Order::Kill => return Some(End::Killed),
        }
        None
    }

    /// A period has passed.
    #[cold]
    fn grow_idle(&mut self, ticket: &Ticket) -> Option<End> {
        if self.session.ending.is_some() {
            let now = Instant::now();
            if now - *self.ending_since.get_or_insert(now) > LINGER {
                return Some(End::Session("the last answers were not taken or did not come".to_owned()));
            }
        }
        if self.idle.was_idle() && self.input.is_empty() && self.session.is_idle() {
            self.input.release();
            self.session.output.release();
            self.idle.rest();
            self.resting = true;
            ticket.set_idle(true);
        }
        None
    }

    #[inline]
    fn receive(&mut self, ticket: &Ticket) -> Result<usize, End> {
        self.idle.note_activity();
        if self.resting {
            self.resting = false;
            ticket.set_idle(false);
        }
        let received = if self.input.is_empty()
            && let Some(room) = self.session.payload_room()
        {
            let received = self.wire.receive(room)?;
            if let Received::Bytes(count) = received {
                self.session.payload_received(count);
            }
            received
        } else {
            let received = self.wire.receive(self.input.room())?;
            if let Received::Bytes(count) = received {
                self.input.received(count);
            }
            received
        };
        Ok(match received {
            Received::Bytes(count) => count,
            Received::Nothing => 0,
            Received::End => {
                self.session.ending = Some(Ending::EndOfStream);
                0
            }
        })
    }

    /// Everything that could be answered was: how it ended.
    fn farewell(&self) -> Result<(), End> {
        let within = !self.input.is_empty() || self.session.incoming.is_some();
        let why = match &self.session.ending {
            None | Some(Ending::Disconnect | Ending::Drained) => return Ok(()),
            Some(Ending::EndOfStream) if !within => return Ok(()),
            Some(Ending::EndOfStream) => "the client hung up within a request".to_owned(),
            Some(Ending::Gone) => "the device was removed".to_owned(),
            Some(Ending::Protocol(error)) => error.to_string(),
            Some(Ending::Unanswerable(why)) => (*why).to_owned(),
        };
        Err(End::Session(why))
    }
}
