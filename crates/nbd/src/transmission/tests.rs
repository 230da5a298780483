//! Requests and replies: golden bytes, round trips, the error each bad request gets, and any bytes.

use super::decode::{Extent, ReadProgress, Reply, ReplyBody};
use super::reply::*;
use super::request::*;
use crate::error::{ProtocolError, WireError};
use crate::meta::ContextId;
use crate::negotiate::{BlockSizes, ReplyForm};
use crate::wire::{Command, CommandFlags, Cookie, TransmissionFlags};
use proptest::prelude::*;

const FORMS: [ReplyForm; 3] = [ReplyForm::Simple, ReplyForm::Structured, ReplyForm::Extended];
const COOKIE: Cookie = Cookie(0x0102_0304_0506_0708);

fn head(command: Command, offset: u64, length: u64) -> RequestHead {
    RequestHead { flags: CommandFlags::empty(), command, cookie: COOKIE, offset, length }
}

fn limits(form: ReplyForm) -> RequestLimits {
    RequestLimits {
        size: 1 << 20,
        blocks: BlockSizes { minimum: 512, preferred: 4096, maximum: 256 << 10 },
        flags: TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_TRIM
            | TransmissionFlags::SEND_WRITE_ZEROES
            | TransmissionFlags::SEND_CACHE,
        form,
        has_contexts: form != ReplyForm::Simple,
    }
}

#[test]
fn golden_requests() {
    let request = RequestHead { flags: CommandFlags::FUA, ..head(Command::Write, 0x1000, 0x200) };
    let compact =
        [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0];
    assert_eq!(RequestHead::parse(&compact, false), Ok(Some((request, 28))));
    assert_eq!(RequestHead::parse(&compact[..27], false), Ok(None));
    let mut out = [0; 32];
    assert_eq!(request.encode(&mut out, false), Ok(28));
    assert_eq!(out[..28], compact);
    let extended = [
        0x21, 0xe4, 0x1c, 0x71, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
        0, 2, 0,
    ];
    assert_eq!(RequestHead::parse(&extended, true), Ok(Some((request, 32))));
    assert_eq!(RequestHead::parse(&extended[..31], true), Ok(None));
    assert_eq!(request.encode(&mut out, true), Ok(32));
    assert_eq!(out, extended);
    let early = RequestHead::parse(&compact, true);
    assert!(matches!(early, Err(ProtocolError::RequestMagic { .. })), "known before the header is complete");
    assert_eq!(RequestHead::parse(&compact[..3], true), Ok(None));
    assert!(matches!(RequestHead::parse(&extended, false), Err(ProtocolError::RequestMagic { .. })));
    assert_eq!(request.encode(&mut out[..20], false), Err(NoRoom));
    let long = head(Command::Trim, 0, 1 << 32);
    assert_eq!(long.encode(&mut out, false), Err(NoRoom), "does not fit a compact header");
    assert_eq!(long.encode(&mut out, true), Ok(32));
}

#[test]
fn golden_replies() {
    let mut out = [0; MAX_ERROR];
    let request = head(Command::Read, 0x1000, 0x400);
    let writer = |form| ReplyWriter::new(form, &request);
    let simple = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(writer(ReplyForm::Simple).error(&mut out, WireError::Io, "text"), Ok(16));
    assert_eq!(out[..16], simple);
    let data =
        [0x66, 0x8e, 0x33, 0xef, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 2, 8, 0, 0, 0, 0, 0, 0, 0x10, 0];
    assert_eq!(writer(ReplyForm::Structured).data(&mut out, 0x1000, 0x200, false), Ok(28));
    assert_eq!(out[..28], data);
    let hole = [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0x12, 0,
        0, 0, 2, 0,
    ];
    assert_eq!(writer(ReplyForm::Structured).hole(&mut out, 0x1200, 0x200, true), Ok(32));
    assert_eq!(out[..32], hole);
    let failure = [
        0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0x80, 2, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0,
        0, 0, 0, 17, 0, 0, 0, 28, 0, 3, b'b', b'a', b'd', 0, 0, 0, 0, 0, 0, 0x12, 0,
    ];
    let length = writer(ReplyForm::Extended).error_at(&mut out, WireError::NoSpace, "bad", 0x1200);
    assert_eq!(length, Ok(49));
    assert_eq!(out[..49], failure);
    let none = [
        0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
        0, 0, 0,
    ];
    assert_eq!(writer(ReplyForm::Extended).done(&mut out), Ok(32));
    assert_eq!(out[..32], none);
}

#[test]
fn golden_block_status() {
    let mut out = [0; 128];
    let request = head(Command::BlockStatus, 0, 1 << 20);
    let extents = [
        Extent { length: 0x1000, flags: 3 },
        Extent { length: 1 << 33, flags: 0 },
        Extent { length: 1, flags: 1 },
    ];
    let narrow = ReplyWriter::new(ReplyForm::Structured, &request);
    assert_eq!(narrow.block_status(&mut out, ContextId(2), &extents, true), Ok((40, 2)), "cut after 2^32");
    assert_eq!(
        out[16..40],
        [0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0x10, 0, 0, 0, 0, 3, 0xff, 0xff, 0, 0, 0, 0, 0, 0]
    );
    let wide = ReplyWriter::new(ReplyForm::Extended, &request);
    assert_eq!(wide.block_status(&mut out, ContextId(2), &extents, true), Ok((88, 3)));
    assert_eq!(out[24..40], [0, 0, 0, 0, 0, 0, 0, 56, 0, 0, 0, 2, 0, 0, 0, 3]);
    assert_eq!(out[56..64], [0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(block_status_size(ReplyForm::Extended, 3), 88);
    assert_eq!(wide.block_status(&mut out[..60], ContextId(2), &extents, false), Ok((56, 1)), "what fits");
    assert_eq!(wide.block_status(&mut out[..50], ContextId(2), &extents, false), Err(NoRoom));
    assert_eq!(wide.block_status(&mut out, ContextId(2), &[], false), Err(NoRoom));
    let simple = ReplyWriter::new(ReplyForm::Simple, &request);
    assert_eq!(simple.block_status(&mut out, ContextId(2), &extents, false), Err(NoRoom));
}

#[test]
fn bad_requests_get_the_error_of_the_protocol() {
    use Command::*;
    let (size, form) = (1_u64 << 20, ReplyForm::Structured);
    let none = CommandFlags::empty();
    for (command, flags, offset, length, expected) in [
        (Read, none, 0, 512, Ok(())),
        (Read, none, size - 512, 512, Ok(())),
        (Read, none, size, 512, Err(WireError::Invalid)),
        (Read, none, u64::MAX - 511, 512, Err(WireError::Invalid)),
        (Read, none, 0, 0, Err(WireError::Invalid)),
        (Read, none, 1, 512, Err(WireError::Invalid)),
        (Read, none, 0, 511, Err(WireError::Invalid)),
        (Read, none, 0, 512 << 10, Err(WireError::Invalid)),
        (Read, CommandFlags::DF, 0, 512, Ok(())),
        (Read, CommandFlags::FUA, 0, 512, Ok(())),
        (Read, CommandFlags::REQ_ONE, 0, 512, Err(WireError::Invalid)),
        (Read, CommandFlags::from_bits_retain(0x8000), 0, 512, Err(WireError::Invalid)),
        (Write, CommandFlags::FUA, 0, 512, Ok(())),
        (Write, none, size, 512, Err(WireError::NoSpace)),
        (Write, none, u64::MAX - 511, 1024, Err(WireError::NoSpace)),
        (Write, none, 0, 512 << 10, Err(WireError::Invalid)),
        (Write, CommandFlags::DF, 0, 512, Err(WireError::Invalid)),
        (Write, CommandFlags::PAYLOAD_LEN, 0, 512, Err(WireError::Invalid)),
        (Flush, none, 0, 0, Ok(())),
        (Flush, none, 512, 0, Err(WireError::Invalid)),
        (Trim, none, 0, size, Ok(())),
        (Trim, none, 0, size + 512, Err(WireError::Invalid)),
        (Trim, CommandFlags::NO_HOLE, 0, 512, Err(WireError::Invalid)),
        (WriteZeroes, CommandFlags::NO_HOLE, 0, size, Ok(())),
        (WriteZeroes, none, 0, size + 512, Err(WireError::NoSpace)),
        (WriteZeroes, CommandFlags::FAST_ZERO, 0, 512, Err(WireError::Invalid)),
        (Cache, none, 0, 512, Ok(())),
        (Cache, none, 0, size + 512, Err(WireError::Invalid)),
        (BlockStatus, CommandFlags::REQ_ONE, 0, size, Ok(())),
        (BlockStatus, none, 0, size + 512, Err(WireError::Invalid)),
        (BlockStatus, none, 0, 0, Err(WireError::Invalid)),
        (Disconnect, CommandFlags::DF, 9, 9, Ok(())),
        (Other(8), none, 0, 512, Err(WireError::Invalid)),
    ] {
        let request = RequestHead { flags, ..head(command, offset, length) };
        assert_eq!(limits(form).check(&request), expected, "{request:?}");
    }
}

#[test]
fn checks_follow_what_was_offered_and_negotiated() {
    let check =
        |limits: RequestLimits, command, flags| limits.check(&RequestHead { flags, ..head(command, 0, 512) });
    let none = CommandFlags::empty();
    let base = limits(ReplyForm::Structured);
    let read_only = RequestLimits { flags: base.flags | TransmissionFlags::READ_ONLY, ..base };
    for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
        assert_eq!(check(read_only, command, none), Err(WireError::NotPermitted));
        let far = head(command, 1 << 40, 512);
        assert_eq!(read_only.check(&far), Err(WireError::NotPermitted), "permission before range");
    }
    let bare = RequestLimits { flags: TransmissionFlags::empty(), has_contexts: false, ..base };
    for command in [Command::Trim, Command::WriteZeroes, Command::Cache, Command::BlockStatus] {
        assert_eq!(check(bare, command, none), Err(WireError::Invalid), "{command:?} was not offered");
    }
    assert_eq!(bare.check(&head(Command::Flush, 0, 0)), Err(WireError::Invalid));
    assert_eq!(check(bare, Command::Write, CommandFlags::FUA), Err(WireError::Invalid));
    let simple = limits(ReplyForm::Simple);
    assert_eq!(check(simple, Command::Read, CommandFlags::DF), Err(WireError::Invalid));
    let fast = RequestLimits { flags: base.flags | TransmissionFlags::SEND_FAST_ZERO, ..base };
    assert_eq!(check(fast, Command::WriteZeroes, CommandFlags::FAST_ZERO), Ok(()));
    let big =
        RequestLimits { size: 1 << 30, blocks: BlockSizes { maximum: 32 << 20, ..base.blocks }, ..base };
    let unfragmented = RequestHead { flags: CommandFlags::DF, ..head(Command::Read, 0, 4 << 20) };
    assert_eq!(big.check(&unfragmented), Err(WireError::Overflow));
    let extended = limits(ReplyForm::Extended);
    assert_eq!(check(extended, Command::Write, CommandFlags::PAYLOAD_LEN), Ok(()));
    assert_eq!(check(extended, Command::Read, CommandFlags::PAYLOAD_LEN), Err(WireError::Invalid));
}

#[test]
fn payload_lengths() {
    let with = |command, flags| RequestHead { flags, ..head(command, 0, 4096) };
    let payload = CommandFlags::PAYLOAD_LEN;
    assert_eq!(with(Command::Write, CommandFlags::empty()).payload_length(false), 4096);
    assert_eq!(with(Command::Write, CommandFlags::empty()).payload_length(true), 4096);
    assert_eq!(with(Command::Read, CommandFlags::empty()).payload_length(true), 0);
    assert_eq!(with(Command::Read, payload).payload_length(false), 0);
    assert_eq!(with(Command::Other(9), payload).payload_length(true), 4096, "skipped whatever it is");
}

#[test]
fn block_status_filter() {
    let mut payload = Vec::new();
    BlockStatusFilter::encode(&mut payload, 1 << 40, &[ContextId(3), ContextId(1)]);
    assert_eq!(payload, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]);
    let filter = BlockStatusFilter::parse(&payload).unwrap();
    assert_eq!(filter.length, 1 << 40);
    assert_eq!(filter.contexts().collect::<Vec<_>>(), [ContextId(3), ContextId(1)]);
    for bad in [&payload[..7], &payload[..10], &[0; MAX_STATUS_FILTER + 4]] {
        assert_eq!(BlockStatusFilter::parse(bad), Err(WireError::Invalid));
    }
    let limits = limits(ReplyForm::Extended);
    let request = |length| RequestHead {
        flags: CommandFlags::PAYLOAD_LEN,
        ..head(Command::BlockStatus, 1 << 30, length)
    };
    assert_eq!(limits.check(&request(16)), Ok(()), "the range is checked once it is known");
    assert_eq!(limits.check(&request(15)), Err(WireError::Invalid));
    assert_eq!(limits.check(&request(1 << 20)), Err(WireError::Invalid));
    assert_eq!(limits.check_status_range(1 << 30, 512), Err(WireError::Invalid));
    assert_eq!(limits.check_status_range(0, 512), Ok(()));
}

/// Decodes one reply and requires that every shorter prefix only asks for more, and never for too much.
fn decode(form: ReplyForm, bytes: &[u8]) -> Reply<'_> {
    for end in 0..bytes.len() {
        match form.decode(&bytes[..end]) {
            Ok((needed, None)) => {
                assert!(needed > end && needed <= bytes.len(), "{needed} of {}", bytes.len());
            }
            other => panic!("{end} of {} bytes: {other:?}", bytes.len()),
        }
    }
    let (used, reply) = form.decode(bytes).unwrap();
    assert_eq!(used, bytes.len());
    reply.unwrap()
}

proptest! {
    #[test]
    fn requests_round_trip(
        flags in any::<u16>(), command in any::<u16>(), cookie in any::<u64>(), offset in any::<u64>(),
        length in any::<u64>(), extended in any::<bool>(),
    ) {
        let length = if extended { length } else { length >> 32 };
        let request = RequestHead {
            flags: CommandFlags::from_bits_retain(flags),
            command: Command::from_code(command),
            cookie: Cookie(cookie),
            offset,
            length,
        };
        let mut out = [0; 32];
        let size = request.encode(&mut out, extended).unwrap();
        prop_assert_eq!(RequestHead::parse(&out[..size], extended), Ok(Some((request, size))));
        prop_assert_eq!(RequestHead::parse(&out[..size - 1], extended), Ok(None));
    }

    #[test]
    fn replies_round_trip(
        form in 0_usize..3, offset in any::<u64>(), length in 1_u32..(32 << 20), last in any::<bool>(),
        text in ".{0,300}", code in prop::sample::select(vec![1_u32, 5, 12, 22, 28, 75, 95, 108]),
    ) {
        let form = FORMS[form];
        let writer = ReplyWriter::new(form, &head(Command::Read, 77, 1));
        let mut out = [0; MAX_ERROR];
        let simple = form == ReplyForm::Simple;

        let size = writer.data(&mut out[..MAX_HEADER], offset, length, last).unwrap();
        let reply = decode(form, &out[..size]);
        prop_assert_eq!(reply.cookie, COOKIE);
        let expected = if simple { ReplyBody::Success } else { ReplyBody::Data { offset, length } };
        prop_assert_eq!((reply.body, reply.last), (expected, last || simple));
        prop_assert_eq!(reply.request_offset, form.is_extended().then_some(77));

        if !simple {
            let size = writer.hole(&mut out[..MAX_HEADER], offset, length, last).unwrap();
            prop_assert_eq!(decode(form, &out[..size]).body, ReplyBody::Hole { offset, length });
            let size = writer.none(&mut out[..MAX_HEADER]).unwrap();
            prop_assert_eq!(decode(form, &out[..size]).body, ReplyBody::None);
        }
        let size = writer.done(&mut out[..MAX_HEADER]).unwrap();
        prop_assert!(decode(form, &out[..size]).last);

        let error = WireError::from_code(code);
        prop_assert_eq!(error.code(), code);
        for at in [None, Some(offset)] {
            let size = match at {
                None => writer.error(&mut out, error, &text),
                Some(at) => writer.error_at(&mut out, error, &text, at),
            };
            match decode(form, &out[..size.unwrap()]).body {
                ReplyBody::Failure { error: got, message, offset } => {
                    prop_assert_eq!(got, error);
                    prop_assert!(text.as_bytes().starts_with(message));
                    prop_assert!(simple || message.len() > MAX_ERROR_TEXT - 4 || message == text.as_bytes());
                    prop_assert_eq!(offset, at.filter(|_| !simple));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn extents_round_trip(
        wide in any::<bool>(), raw in prop::collection::vec((1_u64..1 << 20, 0_u64..4), 1..20), id in any::<u32>(),
    ) {
        let form = if wide { ReplyForm::Extended } else { ReplyForm::Structured };
        let extents: Vec<Extent> = raw.iter().map(|&(length, flags)| Extent { length, flags }).collect();
        let mut out = [0; 512];
        let writer = ReplyWriter::new(form, &head(Command::BlockStatus, 0, 1));
        let (size, used) = writer.block_status(&mut out, ContextId(id), &extents, true).unwrap();
        prop_assert_eq!((size, used), (block_status_size(form, extents.len()), extents.len()));
        let (at, reply) = form.decode(&out[..size]).unwrap();
        let ReplyBody::BlockStatus { context, extents: mut decoder } = reply.unwrap().body else {
            return Err(TestCaseError::fail("not a block status"));
        };
        prop_assert_eq!(context, ContextId(id));
        let (mut rest, mut decoded) = (&out[at..size], Vec::new());
        prop_assert_eq!(decoder.remaining(), u64::try_from(rest.len()).unwrap());
        while let Some((used, extent)) = decoder.decode(rest).unwrap() {
            decoded.push(extent);
            rest = &rest[used..];
        }
        prop_assert_eq!(decoded, extents);
        prop_assert!(rest.is_empty() && decoder.remaining() == 0);
    }

    #[test]
    fn i8_garbage_is_no_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
        crate::fuzz_entry::server_transmission(&data);
        crate::fuzz_entry::client_replies(&data);
    }

    #[test]
    fn i8_nearly_right_requests_are_answered(
        form in 0_usize..3, contexts in any::<bool>(),
        requests in prop::collection::vec(
            (0_u16..10, 0_u16..64, 0_u64..(1 << 31), 0_u64..(1 << 26)), 1..8),
    ) {
        let mut data = vec![u8::try_from(form).unwrap() | if contexts { 4 } else { 0 }];
        for (command, flags, offset, length) in requests {
            let request = RequestHead {
                flags: CommandFlags::from_bits_retain(flags),
                command: Command::from_code(command),
                cookie: COOKIE,
                offset: offset & !511,
                length: length & !511,
            };
            let mut out = [0; 32];
            let size = request.encode(&mut out, FORMS[form].is_extended()).unwrap();
            data.extend(&out[..size]);
        }
        crate::fuzz_entry::server_transmission(&data);
    }

    #[test]
    fn i8_nearly_right_replies_are_survived(
        form in 0_usize..3, kind in prop::sample::select(vec![0_u16, 1, 2, 5, 6, 7, 0x8001, 0x8002, 0x8003]),
        flags in 0_u16..4, length in 0_u32..64, payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut data = vec![u8::try_from(form).unwrap()];
        match FORMS[form] {
            ReplyForm::Simple => data.extend([0x67, 0x44, 0x66, 0x98]),
            ReplyForm::Structured => data.extend([0x66, 0x8e, 0x33, 0xef]),
            ReplyForm::Extended => data.extend([0x6e, 0x8a, 0x27, 0x8c]),
        }
        data.extend(flags.to_be_bytes());
        data.extend(kind.to_be_bytes());
        data.extend([0; 8]);
        if FORMS[form].is_extended() {
            data.extend([0; 12]);
        }
        data.extend(length.to_be_bytes());
        data.extend(payload);
        crate::fuzz_entry::client_replies(&data);
    }
}

#[test]
fn i8_lies_of_a_server_are_errors() {
    let chunk = |kind: u16, flags: u16, payload: &[u8]| {
        let mut bytes = vec![0x66, 0x8e, 0x33, 0xef];
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    let error = [0, 0, 0, 5, 0, 9, b'x'];
    for (what, bytes) in [
        ("empty chunk with payload", chunk(0, 1, &[0])),
        ("empty chunk that is not last", chunk(0, 0, &[])),
        ("data without an offset", chunk(1, 1, &[0; 7])),
        ("data without data", chunk(1, 1, &[0; 8])),
        ("hole of another size", chunk(2, 1, &[0; 11])),
        ("hole of nothing", chunk(2, 1, &[0; 12])),
        ("status without extents", chunk(5, 1, &[0; 4])),
        ("status with half an extent", chunk(5, 1, &[0; 8])),
        ("64-bit status in 32-bit form", chunk(6, 1, &[0; 24])),
        ("unknown chunk", chunk(77, 1, &[])),
        ("error without a number", chunk(0x8001, 1, &[0; 6])),
        ("error cut short", chunk(0x8001, 1, &[0; 5])),
        ("message longer than its chunk", chunk(0x8001, 1, &error)),
        ("error with a tail", chunk(0x8001, 1, &[0, 0, 0, 5, 0, 0, 1])),
        ("error without its offset", chunk(0x8002, 1, &[0, 0, 0, 5, 0, 0, 1])),
    ] {
        let end = ReplyForm::Structured.decode(&bytes);
        assert!(end.is_err(), "{what}: {end:?}");
    }
    let future = chunk(0x8009, 1, &[0, 0, 0, 99, 0, 1, b'x', 1, 2, 3]);
    let (_, reply) = ReplyForm::Structured.decode(&future).unwrap();
    let expected = ReplyBody::Failure { error: WireError::Invalid, message: b"x", offset: None };
    assert_eq!(reply.unwrap().body, expected, "an error type of the future is an error");
    let simple = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0];
    assert!(ReplyForm::Extended.decode(&simple).is_err(), "no simple reply in the extended form");
    assert!(ReplyForm::Simple.decode(&chunk(0, 1, &[])).is_err(), "no chunk in the simple form");
}

#[test]
fn read_progress_holds_the_server_to_the_request() {
    let mut read = ReadProgress::new(4096, 8192);
    assert_eq!(read.accept(8192, 4096), Ok(4096), "chunks in any order");
    assert_eq!(read.finish(), Err(ProtocolError::ReadShort { missing: 4096 }));
    for (offset, length) in [(0, 4096), (4095, 1), (8192, 4097), (12288, 1), (u64::MAX, 2), (4096, 4097)] {
        assert!(read.accept(offset, length).is_err(), "{length} bytes at {offset}");
    }
    assert_eq!(read.accept(4096, 4096), Ok(0));
    assert_eq!(read.finish(), Ok(()));
    assert!(read.accept(4096, 1).is_err(), "more than was asked for");
}
