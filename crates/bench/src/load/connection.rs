//! One connection under load: a blocking socket, a thread, and as few system calls as the depth allows.
//!
//! The loop is: send everything that is due in one `writev`, then take whatever has arrived in one `read`. Writes
//! cannot deadlock with it, because answers to at most `depth` writes are shorter than any socket buffer, and
//! reads send only headers.

use std::io::{IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::order::Order;
use super::receive::{Answered, Receiver};
use super::{Content, Share, Target, Workload};
use crate::pattern;
use crate::wire::{self, Command, REQUEST_BYTES};

/// A server that is silent for this long is broken.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A request's place in the queue.
#[derive(Debug)]
pub(super) struct Slot {
    /// Header, and the payload of a write.
    frame: Vec<u8>,
    /// Device offset of the request in flight.
    pub(super) offset: u64,
    sent_at: Instant,
    pub(super) in_flight: bool,
}

/// One connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    workload: Workload,
    order: Order,
    slots: Vec<Slot>,
    receiver: Receiver,
}

impl Connection {
    /// Connects and negotiates.
    pub fn open(target: &Target, workload: &Workload, index: usize, seed: u64) -> Result<Self> {
        let mut stream = UnixStream::connect(&target.socket)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let export = wire::negotiate(&mut stream, &target.export, target.structured)?;
        let unit = u64::from(workload.request_bytes);
        ensure!(export.size_bytes >= unit, "the export has {} bytes only", export.size_bytes);

        let payload = if workload.command == Command::Write { workload.request_bytes as usize } else { 0 };
        let mut frame = vec![0; REQUEST_BYTES + payload];
        if let Some(data) = frame.get_mut(REQUEST_BYTES..) {
            pattern::fill(data, 8, seed);
        }
        let slots = (0..workload.depth)
            .map(|_| Slot { frame: frame.clone(), offset: 0, sent_at: Instant::now(), in_flight: false })
            .collect();
        let order = Order::new(workload.access, export.size_bytes, unit, index, workload.connections, seed);
        let receiver = Receiver::new(export.structured, workload);
        Ok(Self { stream, workload: *workload, order, slots, receiver })
    }

    /// Keeps the queue full until the deadline (or until the order ends), then collects what is in flight.
    pub fn drive(&mut self, deadline: Instant) -> Result<Share> {
        let mut share = Share::default();
        let mut due: Vec<usize> = (0..self.slots.len()).collect();
        let mut answered = Answered::default();
        let mut in_flight = 0;
        loop {
            let now = Instant::now();
            if now < deadline {
                in_flight += self.send(&due, now)?;
            }
            due.clear();
            if in_flight == 0 {
                share.finished = Some(now);
                return Ok(share);
            }

            self.receiver.receive(&mut self.stream, &self.slots, &mut answered)?;
            let now = Instant::now();
            for index in answered.slots.drain(..) {
                let Some(slot) = self.slots.get_mut(index) else { bail!("answer to an unknown request") };
                ensure!(slot.in_flight, "a second answer to one request");
                slot.in_flight = false;
                in_flight -= 1;
                share.operations += 1;
                share.bytes += u64::from(self.workload.request_bytes);
                let latency = now.duration_since(slot.sent_at);
                share.latency.record_ns(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
                due.push(index);
            }
            share.wrong += std::mem::take(&mut answered.wrong);
        }
    }

    /// Sends one request from each due slot; answers how many were sent (fewer when the order ended).
    fn send(&mut self, due: &[usize], now: Instant) -> Result<usize> {
        let mut count = 0;
        for index in due {
            let Some(offset) = self.order.next_offset() else { break };
            let Some(slot) = self.slots.get_mut(*index) else { break };
            slot.prepare(&self.workload, *index as u64, offset, now);
            count += 1;
        }
        let mut frames: Vec<IoSlice<'_>> = due
            .iter()
            .take(count)
            .filter_map(|index| self.slots.get(*index))
            .map(|slot| IoSlice::new(&slot.frame))
            .collect();
        let mut rest = frames.as_mut_slice();
        while !rest.is_empty() {
            let sent = self.stream.write_vectored(rest).context("cannot send requests")?;
            ensure!(sent > 0, "the server closed the connection");
            IoSlice::advance_slices(&mut rest, sent);
        }
        Ok(count)
    }
}

impl Slot {
    fn prepare(&mut self, workload: &Workload, cookie: u64, offset: u64, now: Instant) {
        self.offset = offset;
        self.sent_at = now;
        self.in_flight = true;
        if let Some((header, payload)) = self.frame.split_first_chunk_mut::<REQUEST_BYTES>() {
            *header = wire::request(workload.command, cookie, offset, workload.request_bytes);
            match workload.content {
                Content::Generation(generation) => pattern::fill(payload, offset, generation),
                Content::Stamps | Content::Anything => pattern::stamp_blocks(payload, offset),
            }
        }
    }
}
