//! The handshake: everything up to the transmission phase, bounded in time and size.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bowline_block::{Capabilities, Geometry, Store};
use bowline_device::Device;
use bowline_nbd::negotiate::MAX_NEEDED;
use bowline_nbd::wire::MAX_PAYLOAD;
use bowline_nbd::{
    BlockSizes, ExportCatalog, ExportEntry, ExportInfo, RequestLimits, ServerNegotiation, Step, TlsPolicy,
    Transmission, TransmissionFlags,
};
use rustls::ServerConnection;

use super::End;
use super::contexts::{self, Context, Opened};
use super::output::Output;
use super::wire::Wire;
use crate::exports::{ExportTarget, Exports};
use crate::registry::{Order, Ticket};
use crate::server::Shared;

/// Received at once.
const CHUNK_BYTES: usize = 4096;

/// What client and server agreed on.
pub(super) struct Agreed {
    pub(super) device: Arc<Device>,
    pub(super) limits: RequestLimits,
    pub(super) contexts: Vec<Context>,
    /// Received after the last option: the first requests.
    pub(super) left_over: Vec<u8>,
}

/// Negotiates; `None` when the client ended it politely.
pub(super) async fn run(wire: &mut Wire, shared: &Shared, ticket: &Ticket) -> Result<Option<Agreed>, End> {
    let limit = shared.handshake_timeout;
    let catalog = Catalog { exports: &*shared.exports, opened: RefCell::default() };
    let mut negotiate = std::pin::pin!(bowline_io::timeout(limit, negotiate(wire, shared, &catalog)));
    let agreed = poll_fn(|cx| {
        // Nobody is owed an answer before the transmission phase.
        if ticket.order(cx) != Order::Serve {
            return Poll::Ready(Err(End::Killed));
        }
        negotiate.as_mut().poll(cx).map(|result| result.unwrap_or(Err(End::TooSlow(limit))))
    })
    .await?;
    let Some((transmission, left_over)) = agreed else { return Ok(None) };
    let Some((_, target)) = find(&*shared.exports, &transmission.name) else {
        return Err(End::ExportGone(transmission.name));
    };
    ticket.set_export(&transmission.export.name);
    let limits = RequestLimits {
        size: transmission.export.size,
        blocks: transmission.export.blocks,
        flags: transmission.export.flags,
        form: transmission.options.form,
        has_contexts: !transmission.options.contexts.is_empty(),
    };
    let contexts = catalog.opened.borrow().contexts(&target.device, transmission.options.contexts);
    Ok(Some(Agreed { device: target.device, limits, contexts, left_over }))
}

async fn negotiate(
    wire: &mut Wire,
    shared: &Shared,
    catalog: &Catalog<'_>,
) -> Result<Option<(Transmission, Vec<u8>)>, End> {
    let mut machine = ServerNegotiation::new(bowline_nbd::ServerConfig {
        tls: match (&shared.tls, shared.tls_required) {
            (None, _) => TlsPolicy::Off,
            (Some(_), false) => TlsPolicy::Optional,
            (Some(_), true) => TlsPolicy::Required,
        },
        ..bowline_nbd::ServerConfig::default()
    });
    let mut input = Vec::new();
    let mut replies = Vec::new();
    loop {
        let stepped = machine.step(&input, &mut replies, catalog);
        send(wire, &mut replies).await?;
        let (used, step) = stepped?;
        input.drain(..used.min(input.len()));
        match step {
            Step::Continue => {}
            Step::NeedMore(needed) => receive(wire, &mut input, needed).await?,
            Step::StartTls => {
                let Some(tls) = &shared.tls else { return Err(End::Killed) };
                let tls = ServerConnection::new(tls.0.clone()).map_err(std::io::Error::other)?;
                wire.start_tls(tls, &input).await?;
                input.clear();
                machine.tls_established();
            }
            Step::Transmission(transmission) => return Ok(Some((*transmission, input))),
            Step::Abort => return Ok(None),
        }
    }
}

async fn send(wire: &mut Wire, replies: &mut Vec<u8>) -> Result<(), End> {
    if !replies.is_empty() {
        let mut output = Output::default();
        for part in replies.chunks(MAX_NEEDED) {
            output.push(bowline_block::Buf::copy_of(part));
        }
        wire.send_all(&mut output).await?;
        replies.clear();
    }
    Ok(())
}

/// Receives until `input` holds `needed` bytes. It grows with what arrives, not with what is announced.
async fn receive(wire: &mut Wire, input: &mut Vec<u8>, needed: usize) -> Result<(), End> {
    let mut chunk = [0; CHUNK_BYTES];
    while input.len() < needed.min(MAX_NEEDED) {
        match wire.receive_some(&mut chunk).await? {
            Some(count) => input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            None => return Err(End::HungUp),
        }
    }
    Ok(())
}

/// The export of that name, and its canonical name.
fn find(exports: &dyn Exports, name: &str) -> Option<(String, ExportTarget)> {
    if let Some(target) = exports.find(name) {
        return Some((name.to_owned(), target));
    }
    if !name.is_empty() {
        return None;
    }
    // The default export: the only one.
    let mut all = exports.list().into_iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    exports.find(&only.name).map(|target| (only.name, target))
}

struct Catalog<'a> {
    exports: &'a dyn Exports,
    opened: RefCell<Opened>,
}

impl ExportCatalog for Catalog<'_> {
    fn list(&self) -> Vec<ExportEntry> {
        self.exports.list()
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        let (name, target) = find(self.exports, name)?;
        Some(describe(name, &target))
    }

    fn offers(&self, export: &ExportInfo, context: &str) -> bool {
        let Some((_, target)) = find(self.exports, &export.name) else { return false };
        self.opened.borrow_mut().offers(&target, context)
    }
}

fn describe(name: String, target: &ExportTarget) -> ExportInfo {
    let geometry = target.device.geometry();
    let minimum = u32::try_from(geometry.block_size.bytes()).unwrap_or(4096);
    ExportInfo {
        name,
        size: geometry.size,
        flags: offered_flags(&geometry, target.read_only),
        blocks: BlockSizes { minimum, preferred: 4096, maximum: MAX_PAYLOAD },
        description: target.description.clone(),
        contexts: contexts::offered(target),
    }
}

fn offered_flags(geometry: &Geometry, read_only: bool) -> TransmissionFlags {
    let read_only = read_only || geometry.read_only;
    let can = |capability| !read_only && geometry.can.contains(capability);
    let mut flags = TransmissionFlags::SEND_FLUSH
        | TransmissionFlags::SEND_FUA
        | TransmissionFlags::SEND_CACHE
        // A flush of the device covers what any connection wrote.
        | TransmissionFlags::CAN_MULTI_CONN;
    flags.set(TransmissionFlags::READ_ONLY, read_only);
    flags.set(TransmissionFlags::SEND_TRIM, can(Capabilities::DISCARD));
    flags.set(TransmissionFlags::SEND_WRITE_ZEROES, can(Capabilities::WRITE_ZEROES));
    flags.set(
        TransmissionFlags::SEND_FAST_ZERO,
        can(Capabilities::WRITE_ZEROES) && can(Capabilities::FAST_ZERO),
    );
    flags
}
