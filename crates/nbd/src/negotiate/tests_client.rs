//! The client's side against hand-made servers: golden bytes, falling back, and servers that lie.

use super::client::{ClientConfig, ClientGoal, ClientNegotiation, ClientStep, ClientTls, NegotiatedExport};
use super::*;
use crate::error::ClientError;
use crate::wire::{opt, rep};
use proptest::prelude::*;

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\x00\x03";

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = wire::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    for word in [option, kind, u32::try_from(data.len()).unwrap()] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(data);
    bytes
}

fn plain() -> ClientConfig {
    ClientConfig { export: "vm".into(), extended: false, structured: false, ..ClientConfig::default() }
}

/// What the client sends to a server that says `input` whatever it is asked, and how it ends.
fn run(config: ClientConfig, input: &[u8]) -> (Vec<u8>, Result<ClientStep, ClientError>) {
    let mut client = ClientNegotiation::new(config).unwrap();
    let (mut out, mut rest) = (Vec::new(), input);
    loop {
        match client.step(rest, &mut out) {
            Err(error) => return (out, Err(error)),
            Ok((used, step)) => {
                rest = &rest[used..];
                if !matches!(step, ClientStep::Continue | ClientStep::Listed(_)) {
                    return (out, Ok(step));
                }
            }
        }
    }
}

fn ready(result: Result<ClientStep, ClientError>) -> NegotiatedExport {
    match result {
        Ok(ClientStep::Ready(export)) => *export,
        other => panic!("not ready: {other:?}"),
    }
}

/// Information item `EXPORT`: 1 MiB, `HAS_FLAGS | SEND_FLUSH`.
const EXPORT_ITEM: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 5];

#[test]
fn golden_go() {
    let input = [GREETING, &reply(opt::GO, rep::INFO, EXPORT_ITEM), &reply(opt::GO, rep::ACK, b"")].concat();
    let (out, end) = run(plain(), &input);
    let mut expected = vec![0, 0, 0, 3];
    expected.extend(b"IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x0e");
    expected.extend(b"\x00\x00\x00\x02vm\x00\x03\x00\x01\x00\x02\x00\x03");
    assert_eq!(out, expected);
    let export = ready(end);
    assert_eq!((export.name.as_str(), export.size), ("vm", 1 << 20));
    assert_eq!(export.flags, TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH);
    assert_eq!(export.blocks, BlockSizes::DEFAULT);
}

#[test]
fn falls_back_to_export_name() {
    for (flags, zeroes) in [(3_u8, 0), (1, 124)] {
        let mut input = b"NBDMAGICIHAVEOPT\x00".to_vec();
        input.push(flags);
        input.extend(reply(opt::STRUCTURED_REPLY, rep::ERR_UNSUP, b""));
        input.extend(reply(opt::GO, rep::ERR_UNSUP, b"what?"));
        input.extend([0, 0, 0, 0, 0, 0x10, 0, 0, 0, 5]);
        input.resize(input.len() + zeroes, 0);
        let (out, end) = run(ClientConfig { structured: true, ..plain() }, &input);
        assert!(out.ends_with(b"IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x02vm"));
        assert_eq!(ready(end).size, 1 << 20);
    }
    // A server without fixed newstyle is asked nothing else.
    let mut input = b"NBDMAGICIHAVEOPT\x00\x00".to_vec();
    input.extend([0, 0, 0, 0, 0, 0x10, 0, 0, 0, 5]);
    input.resize(input.len() + 124, 0);
    let (out, end) = run(plain(), &input);
    assert_eq!(out, b"\x00\x00\x00\x00IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x02vm");
    assert_eq!(ready(end).size, 1 << 20);
}

#[test]
fn tls_is_never_given_up_when_required() {
    let config = ClientConfig { tls: ClientTls::Required, ..plain() };
    for kind in [rep::ERR_UNSUP, rep::ERR_POLICY, rep::ERR_INVALID] {
        let input = [GREETING, &reply(opt::STARTTLS, kind, b"no \x1b[31mTLS")].concat();
        match run(config.clone(), &input).1 {
            Err(ClientError::NoTls(text)) => {
                assert!(!text.contains('\x1b'), "escape sequences are not shown");
            }
            other => panic!("{other:?}"),
        }
    }
    let (_, end) = run(config.clone(), b"NBDMAGICIHAVEOPT\x00\x00");
    assert!(matches!(end, Err(ClientError::NoTls(_))));
    let input = [GREETING, &reply(opt::STARTTLS, rep::ACK, b"")].concat();
    assert_eq!(run(config.clone(), &input).1, Ok(ClientStep::StartTls));
    let injected = [&input[..], &reply(opt::GO, rep::ACK, b"")].concat();
    assert_eq!(run(config, &injected).1, Err(ClientError::TlsPending), "plain text after the upgrade");
    let offered = ClientConfig { tls: ClientTls::IfOffered, ..plain() };
    let input = [
        GREETING,
        &reply(opt::STARTTLS, rep::ERR_UNSUP, b""),
        &reply(opt::GO, rep::INFO, EXPORT_ITEM),
        &reply(opt::GO, rep::ACK, b""),
    ]
    .concat();
    assert!(!ready(run(offered, &input).1).options.tls);
}

#[test]
fn refusals_carry_the_servers_text() {
    let input = [GREETING, &reply(opt::GO, rep::ERR_UNKNOWN, b"no such disk")].concat();
    let error = run(plain(), &input).1.unwrap_err().to_string();
    assert!(error.contains("unknown export") && error.contains("no such disk"), "{error}");
    let config = ClientConfig { structured: true, ..plain() };
    let input = [GREETING, &reply(opt::STRUCTURED_REPLY, rep::ERR_TLS_REQD, b"")].concat();
    assert!(run(config, &input).1.unwrap_err().to_string().contains("TLS required"));
}

#[test]
fn i8_lies_of_a_server_are_errors() {
    let go = |data: &[u8]| [GREETING, &reply(opt::GO, rep::INFO, data)].concat();
    let block = |minimum: u32, preferred: u32, maximum: u32| {
        let mut data = vec![0, 3];
        [minimum, preferred, maximum].iter().for_each(|word| data.extend(word.to_be_bytes()));
        go(&data)
    };
    let mut too_long = reply(opt::GO, rep::INFO, b"");
    too_long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    for (what, input) in [
        ("not NBD", b"SSH-2.0-OpenSSH_9.0 hi".to_vec()),
        ("oldstyle", b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00".to_vec()),
        ("another option", [GREETING, &reply(opt::LIST, rep::ACK, b"")].concat()),
        ("another magic", [GREETING, &[9; 20]].concat()),
        ("a reply too long", [GREETING, &too_long].concat()),
        ("an ACK with data", [GREETING, &reply(opt::GO, rep::ACK, b"x")].concat()),
        ("an ACK without a size", [GREETING, &reply(opt::GO, rep::ACK, b"")].concat()),
        ("a reply of another type", [GREETING, &reply(opt::GO, rep::SERVER, b"")].concat()),
        ("information without a type", go(&[0])),
        ("a size beyond 2^63", go(&[0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
        ("flags without HAS_FLAGS", go(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])),
        ("a size cut short", go(&[0, 0, 0, 0, 1])),
        ("a minimum of 0", block(0, 4096, 4096)),
        ("a minimum that is no power of two", block(513, 4096, 4096)),
        ("a preferred below the minimum", block(4096, 512, 4096)),
        ("a maximum below the minimum", block(4096, 4096, 512)),
        ("a maximum that is no multiple", block(512, 4096, 1000)),
        ("a name too long", go(&[&[0, 1][..], &[b'a'; 4097]].concat())),
        ("a name that is not UTF-8", go(&[0, 1, 0xff])),
        ("endless information", [GREETING, &reply(opt::GO, rep::INFO, EXPORT_ITEM).repeat(300)].concat()),
    ] {
        let end = run(plain(), &input).1;
        assert!(end.is_err(), "{what}: {end:?}");
    }
}

#[test]
fn i8_contexts_not_asked_for_are_errors() {
    let config = ClientConfig { structured: true, ..plain() };
    let context = |id: u32, name: &[u8]| {
        reply(opt::SET_META_CONTEXT, rep::META_CONTEXT, &[&id.to_be_bytes()[..], name].concat())
    };
    let start = [GREETING, &reply(opt::STRUCTURED_REPLY, rep::ACK, b"")].concat();
    let good = context(7, b"base:allocation");
    for bad in [context(1, b"other:thing"), [good.clone(), good.clone()].concat()] {
        let end = run(config.clone(), &[start.clone(), bad].concat()).1;
        assert!(matches!(end, Err(ClientError::BadReply { option: opt::SET_META_CONTEXT, .. })), "{end:?}");
    }
    let rest = [
        reply(opt::SET_META_CONTEXT, rep::ACK, b""),
        reply(opt::GO, rep::INFO, EXPORT_ITEM),
        reply(opt::GO, rep::ACK, b""),
    ];
    let export = ready(run(config, &[start, good, rest.concat()].concat()).1);
    assert_eq!(export.options.contexts[0].id.0, 7);
}

#[test]
fn names_too_long_are_refused_before_connecting() {
    let long = "a".repeat(4097);
    let config = ClientConfig { export: long.clone(), ..plain() };
    assert!(ClientNegotiation::new(config).is_err());
    assert!(ClientNegotiation::new(ClientConfig { contexts: vec![long], ..plain() }).is_err());
}

#[test]
fn listing_needs_a_server_with_options() {
    let config = ClientConfig { goal: ClientGoal::List, ..plain() };
    let (_, end) = run(config, b"NBDMAGICIHAVEOPT\x00\x00");
    assert!(matches!(end, Err(ClientError::Unsupported(_))));
}

proptest! {
    #[test]
    fn i8_any_server_is_survived(
        choice in any::<u8>(),
        replies in proptest::collection::vec(
            (3_u32..12, prop_oneof![1_u32..5, (0_u32..11).prop_map(|n| n | rep::ERROR_BIT)],
             proptest::collection::vec(any::<u8>(), 0..20)),
            0..12),
    ) {
        let mut data = vec![choice];
        data.extend(GREETING);
        for (option, kind, bytes) in replies {
            data.extend(reply(option, kind, &bytes));
        }
        crate::fuzz_entry::client_negotiation(&data);
    }
}
