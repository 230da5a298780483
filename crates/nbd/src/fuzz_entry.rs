//! Entry points for fuzzing: each takes any bytes and asserts what must hold (I8, I9): no panic, nothing used that was
//! not given, output bounded, progress.
//!
//! Design notes: assertions panic on purpose here; this module exists only for tests and fuzzing.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use crate::error::WireError;
use crate::meta::ContextId;
use crate::negotiate::client::{ClientConfig, ClientGoal, ClientNegotiation, ClientStep, ClientTls};
use crate::negotiate::server::{ServerConfig, ServerNegotiation, Step, TlsPolicy};
use crate::negotiate::{BlockSizes, ExportCatalog, ExportEntry, ExportInfo, MAX_NEEDED, ReplyForm};
use crate::transmission::decode::{Extent, MAX_REPLY_NEEDED, ReadProgress, ReplyBody};
use crate::transmission::reply::{MAX_ERROR, MAX_HEADER, ReplyWriter};
use crate::transmission::request::{BlockStatusFilter, RequestHead, RequestLimits};
use crate::uri::NbdUri;
use crate::wire::{Command, TransmissionFlags};

/// A catalog of two exports, one of them also the default.
#[derive(Debug, Clone, Copy)]
pub struct SampleCatalog;

impl ExportCatalog for SampleCatalog {
    fn list(&self) -> Vec<ExportEntry> {
        let entry = |name: &str, text: &str| ExportEntry { name: name.into(), description: text.into() };
        vec![entry("vm", "a disk"), entry("s1/vm", "")]
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        let flags = match name {
            "" | "vm" => sample_flags(),
            "s1/vm" => TransmissionFlags::READ_ONLY,
            _ => return None,
        };
        Some(ExportInfo {
            name: if name.is_empty() { "vm".into() } else { name.into() },
            size: 1 << 30,
            flags,
            blocks: BlockSizes { minimum: 512, preferred: 4096, maximum: 32 << 20 },
            description: "a disk".into(),
            contexts: ["base:allocation", "qemu:dirty-bitmap:s1", "qemu:dirty-bitmap:s2"]
                .map(Into::into)
                .into(),
        })
    }
}

fn sample_flags() -> TransmissionFlags {
    TransmissionFlags::SEND_FLUSH
        | TransmissionFlags::SEND_FUA
        | TransmissionFlags::SEND_TRIM
        | TransmissionFlags::SEND_WRITE_ZEROES
        | TransmissionFlags::SEND_FAST_ZERO
        | TransmissionFlags::SEND_CACHE
        | TransmissionFlags::CAN_MULTI_CONN
}

/// The first byte chooses the configuration, the rest is what a client sends.
pub fn server_negotiation(data: &[u8]) {
    let Some((choice, mut input)) = data.split_first() else { return };
    let tls = [TlsPolicy::Off, TlsPolicy::Optional, TlsPolicy::Required][usize::from(choice % 3)];
    let config = ServerConfig { tls, structured: choice & 0x40 == 0, extended: choice & 0x80 == 0 };
    let mut server = ServerNegotiation::new(config);
    let mut out = Vec::new();
    loop {
        let before = input.len();
        out.clear();
        let result = server.step(input, &mut out, &SampleCatalog);
        // One option makes at most one answer per export, context or information item.
        assert!(out.len() <= 64 << 10, "{} bytes of output from one step", out.len());
        let Ok((used, step)) = result else { return };
        assert!(used <= before, "used {used} of {before}");
        input = &input[used..];
        match step {
            Step::Continue => assert!(used > 0 || !out.is_empty(), "a step that did nothing"),
            Step::NeedMore(needed) => {
                assert!(used == 0 && needed > before && needed <= MAX_NEEDED, "needs {needed}, has {before}");
                return;
            }
            Step::StartTls => {
                assert_ne!(tls, TlsPolicy::Off);
                server.tls_established();
            }
            Step::Transmission(end) => {
                assert!(tls != TlsPolicy::Required || end.options.tls, "transmission without TLS");
                assert!(end.options.contexts.is_empty() || end.options.form != ReplyForm::Simple);
                return server_transmission(input);
            }
            Step::Abort => return,
        }
    }
}

/// The first byte chooses the form, the rest is what a client sends after negotiation.
pub fn server_transmission(data: &[u8]) {
    let Some((choice, mut input)) = data.split_first() else { return };
    let form = form_of(*choice);
    let limits = RequestLimits {
        size: 1 << 30,
        blocks: BlockSizes { minimum: 512, preferred: 4096, maximum: 32 << 20 },
        flags: sample_flags(),
        form,
        has_contexts: choice & 4 != 0 && form != ReplyForm::Simple,
    };
    while let Ok(Some((head, used))) = RequestHead::parse(input, form.is_extended()) {
        assert_eq!(used, form.request_size());
        input = &input[used..];
        let payload = head.payload_length(form.is_extended());
        let payload = usize::try_from(payload).unwrap_or(usize::MAX).min(input.len());
        if let Ok(filter) = BlockStatusFilter::parse(&input[..payload]) {
            assert!(filter.contexts().count() <= crate::meta::MAX_CONTEXTS);
            let _ = limits.check_status_range(head.offset, filter.length);
        }
        input = &input[payload..];
        answer(&limits, &head);
    }
}

fn answer(limits: &RequestLimits, head: &RequestHead) {
    let writer = ReplyWriter::new(limits.form, head);
    let mut out = [0; MAX_ERROR];
    let length = match limits.check(head) {
        Err(error) => writer.error(&mut out, error, "refused").unwrap(),
        Ok(()) if head.command == Command::Disconnect => return,
        Ok(()) if head.command == Command::Read => {
            assert!(head.offset + head.length <= limits.size);
            let length = u32::try_from(head.length).unwrap();
            writer.data(&mut out[..MAX_HEADER], head.offset, length, true).unwrap()
        }
        Ok(()) if head.command == Command::BlockStatus => {
            let extents = [Extent { length: head.length, flags: 3 }];
            writer.block_status(&mut out, ContextId(1), &extents, true).unwrap().0
        }
        Ok(()) => writer.done(&mut out[..MAX_HEADER]).unwrap(),
    };
    let is_block_status = head.command == Command::BlockStatus;
    // What the server writes, the client must understand.
    let reply = limits.form.decode(&out[..length]).unwrap().1;
    assert_eq!(reply.map(|reply| reply.cookie), Some(head.cookie));
    assert!(is_block_status || reply.is_some_and(|reply| reply.last));
}

fn form_of(choice: u8) -> ReplyForm {
    [ReplyForm::Simple, ReplyForm::Structured, ReplyForm::Extended, ReplyForm::Extended]
        [usize::from(choice & 3)]
}

/// The first byte chooses the configuration, the rest is what a server sends.
pub fn client_negotiation(data: &[u8]) {
    let Some((choice, mut input)) = data.split_first() else { return };
    let config = ClientConfig {
        export: "vm".into(),
        goal: [ClientGoal::Go, ClientGoal::Info, ClientGoal::List][usize::from(choice % 3)],
        tls: [ClientTls::Off, ClientTls::IfOffered, ClientTls::Required][usize::from(choice / 3 % 3)],
        extended: choice & 0x40 == 0,
        structured: choice & 0x80 == 0,
        ..ClientConfig::default()
    };
    let tls = config.tls;
    let mut client = ClientNegotiation::new(config).unwrap();
    let mut out = Vec::new();
    loop {
        let before = input.len();
        out.clear();
        let result = client.step(input, &mut out);
        assert!(out.len() <= 16 << 10, "{} bytes of output from one step", out.len());
        let Ok((used, step)) = result else { return };
        assert!(used <= before, "used {used} of {before}");
        input = &input[used..];
        match step {
            ClientStep::Continue | ClientStep::Listed(_) => assert!(used > 0, "a step that did nothing"),
            ClientStep::NeedMore(needed) => {
                assert!(used == 0 && needed > before && needed <= MAX_NEEDED, "needs {needed}, has {before}");
                return;
            }
            ClientStep::StartTls => client.tls_established(&mut out),
            ClientStep::Ready(export) | ClientStep::Described(export) => {
                assert!(tls != ClientTls::Required || export.options.tls);
                assert!(export.options.contexts.len() <= 1 && i64::try_from(export.size).is_ok());
                assert!(export.blocks.minimum.is_power_of_two());
                return;
            }
            ClientStep::ListEnd => return,
        }
    }
}

/// The first byte chooses the form, the rest is what a server sends after negotiation.
pub fn client_replies(data: &[u8]) {
    let Some((choice, mut input)) = data.split_first() else { return };
    let form = form_of(*choice);
    let mut read = ReadProgress::new(4096, 65536);
    while let Ok((count, reply)) = form.decode(input) {
        let Some(reply) = reply else {
            assert!(count > input.len() && count <= MAX_REPLY_NEEDED, "needs {count}, has {}", input.len());
            return;
        };
        assert!(count > 0 && count <= input.len());
        let mut rest = &input[count..];
        match reply.body {
            ReplyBody::Data { offset, length } | ReplyBody::Hole { offset, length } => {
                if let Ok(position) = read.accept(offset, length) {
                    assert!(u64::from(position) + u64::from(length) <= 65536);
                }
                if matches!(reply.body, ReplyBody::Data { .. }) {
                    rest = rest.get(usize::try_from(length).unwrap()..).unwrap_or_default();
                }
            }
            ReplyBody::BlockStatus { mut extents, .. } => {
                while let Ok(Some((used, extent))) = extents.decode(rest) {
                    assert!(extent.length > 0);
                    rest = &rest[used..];
                }
            }
            ReplyBody::Failure { error, message, .. } => {
                assert_eq!(WireError::from_code(error.code()), error);
                assert!(message.len() <= crate::wire::MAX_STRING + 8);
            }
            ReplyBody::Success | ReplyBody::None => {}
        }
        input = rest;
    }
}

/// Any text as a URI: what is accepted formats to what parses back to the same.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(uri) = text.parse::<NbdUri>() {
        assert_eq!(uri.to_string().parse::<NbdUri>().as_ref(), Ok(&uri), "{uri}");
    }
}
