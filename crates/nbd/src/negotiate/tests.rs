//! The server's side: golden bytes, every option, TLS policies, bounds, and any bytes at any pace.

use super::server::{ServerConfig, ServerNegotiation, Step, TlsPolicy, Transmission};
use super::*;
use crate::error::NegotiationError;
use crate::fuzz_entry::SampleCatalog;
use crate::wire::{opt, rep};
use proptest::prelude::*;

/// Client flags: fixed newstyle, no zeroes.
const FLAGS: &[u8] = &[0, 0, 0, 3];
const CONFIG: ServerConfig = ServerConfig { tls: TlsPolicy::Off, structured: true, extended: true };

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn go_data(name: &str, items: &[u16]) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend(u16::try_from(items.len()).unwrap().to_be_bytes());
    bytes.extend(items.iter().flat_map(|item| item.to_be_bytes()));
    bytes
}

fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    bytes.extend(queries.iter().flat_map(|query| string(query)));
    bytes
}

#[derive(Debug, PartialEq)]
enum End {
    Waits(usize),
    StartTls,
    Transmission(Box<Transmission>),
    Abort,
    Error(NegotiationError),
}

/// Runs the server over all of `input`: what it sent and how it ended, and the bytes left.
fn run_on(server: &mut ServerNegotiation, mut input: &[u8]) -> (Vec<u8>, End, usize) {
    let mut out = Vec::new();
    loop {
        match server.step(input, &mut out, &SampleCatalog) {
            Err(error) => return (out, End::Error(error), input.len()),
            Ok((used, step)) => {
                input = &input[used..];
                match step {
                    Step::Continue => {}
                    Step::NeedMore(needed) => return (out, End::Waits(needed), input.len()),
                    Step::StartTls => return (out, End::StartTls, input.len()),
                    Step::Transmission(end) => return (out, End::Transmission(end), input.len()),
                    Step::Abort => return (out, End::Abort, input.len()),
                }
            }
        }
    }
}

/// The replies to `options` after the greeting as (option, reply, data), and the end.
fn replies(config: ServerConfig, options: &[Vec<u8>]) -> (Vec<(u32, u32, Vec<u8>)>, End) {
    let mut server = ServerNegotiation::new(config);
    let input: Vec<u8> = FLAGS.iter().copied().chain(options.concat()).collect();
    let (out, end, _) = run_on(&mut server, &input);
    (split_replies(&out[18..]), end)
}

fn split_replies(mut bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut all = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..8], wire::OPTION_REPLY_MAGIC.to_be_bytes());
        let length = word(bytes, 16) as usize;
        all.push((word(bytes, 8), word(bytes, 12), bytes[20..20 + length].to_vec()));
        bytes = &bytes[20 + length..];
    }
    all
}

fn types(replies: &[(u32, u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|(_, reply, _)| *reply).collect()
}

fn transmission(end: End) -> Transmission {
    match end {
        End::Transmission(end) => *end,
        other => panic!("no transmission: {other:?}"),
    }
}

#[test]
fn golden_go() {
    let mut server = ServerNegotiation::new(CONFIG);
    let mut input = FLAGS.to_vec();
    input.extend(option(opt::GO, &go_data("s1/vm", &[])));
    input.extend(b"rest");
    let (out, end, left) = run_on(&mut server, &input);
    let mut expected = b"NBDMAGICIHAVEOPT\x00\x03".to_vec();
    let magic = [0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9];
    expected.extend(magic);
    // NBD_OPT_GO, NBD_REP_INFO, 12 bytes: EXPORT, 1 GiB, HAS_FLAGS | READ_ONLY.
    expected.extend([0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 3]);
    expected.extend(magic);
    // NBD_REP_INFO, 14 bytes: BLOCK_SIZE 512, 4096, 32 MiB.
    expected.extend([0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 14, 0, 3]);
    expected.extend([0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0]);
    expected.extend(magic);
    expected.extend([0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(out, expected);
    assert_eq!(left, 4, "what follows belongs to the transmission phase");
    let end = transmission(end);
    assert_eq!((end.name.as_str(), end.options.form), ("s1/vm", ReplyForm::Simple));
    assert!(end.options.no_zeroes && !end.options.tls);
    assert_eq!(
        server.step(b"x", &mut Vec::new(), &SampleCatalog),
        Err(NegotiationError::Finished),
        "nothing after the end"
    );
}

#[test]
fn golden_export_name() {
    for (flags, zeroes) in [(3_u8, 0), (1, 124), (0, 124), (2, 0)] {
        let mut server = ServerNegotiation::new(CONFIG);
        let mut input = vec![0, 0, 0, flags];
        input.extend(option(opt::EXPORT_NAME, b"s1/vm"));
        let (out, end, _) = run_on(&mut server, &input);
        let mut expected = vec![0, 0, 0, 0, 0x40, 0, 0, 0, 0, 3];
        expected.resize(10 + zeroes, 0);
        assert_eq!(out[18..], expected, "client flags {flags}");
        assert_eq!(transmission(end).options.no_zeroes, zeroes == 0);
    }
}

#[test]
fn export_name_that_fails_closes() {
    for name in [&b"nope"[..], b"\xff", b"a\0", &[b'a'; 4097], &[b'a'; 70000]] {
        let (replies, end) = replies(CONFIG, &[option(opt::EXPORT_NAME, name)]);
        assert!(replies.is_empty());
        assert!(matches!(end, End::Error(_)), "{end:?}");
    }
    let (_, end) = replies(CONFIG, &[option(opt::EXTENDED_HEADERS, b""), option(opt::EXPORT_NAME, b"vm")]);
    assert!(matches!(end, End::Error(NegotiationError::ExportName(_))), "{end:?}");
}

#[test]
fn info_items_are_sent_as_asked() {
    let (replies, end) =
        replies(CONFIG, &[option(opt::INFO, &go_data("", &[info_kind::NAME, info_kind::DESCRIPTION, 77]))]);
    let items: Vec<u16> = replies
        .iter()
        .filter(|(_, reply, _)| *reply == rep::INFO)
        .map(|(_, _, data)| u16::from_be_bytes([data[0], data[1]]))
        .collect();
    assert_eq!(items, [0, 1, 2, 3]);
    assert_eq!(replies[1].2, b"\x00\x01vm", "the default export tells its canonical name");
    assert_eq!(end, End::Waits(16), "INFO leaves the negotiation open");
}

use crate::wire::info as info_kind;

#[test]
fn list_names_every_export() {
    let (replies, _) = replies(CONFIG, &[option(opt::LIST, b""), option(opt::LIST, b"x")]);
    assert_eq!(types(&replies), [rep::SERVER, rep::SERVER, rep::ACK, rep::ERR_INVALID]);
    assert_eq!(replies[0].2, b"\x00\x00\x00\x02vma disk");
    assert_eq!(replies[1].2, b"\x00\x00\x00\x05s1/vm");
}

#[test]
fn bad_options_are_answered_with_text() {
    for (number, data, reply) in [
        (4, vec![], rep::ERR_UNSUP),
        (999, vec![1, 2, 3], rep::ERR_UNSUP),
        (opt::GO, go_data("nope", &[]), rep::ERR_UNKNOWN),
        (opt::INFO, vec![], rep::ERR_INVALID),
        (opt::INFO, go_data("vm", &[1])[..7].to_vec(), rep::ERR_INVALID),
        (opt::INFO, [go_data("vm", &[1]), vec![0]].concat(), rep::ERR_INVALID),
        (opt::INFO, vec![0xff; 8], rep::ERR_INVALID),
        (opt::STRUCTURED_REPLY, vec![0], rep::ERR_INVALID),
        (opt::EXTENDED_HEADERS, vec![0], rep::ERR_INVALID),
        (opt::STARTTLS, vec![], rep::ERR_POLICY),
        (opt::SET_META_CONTEXT, meta_data("vm", &[]), rep::ERR_INVALID),
        (opt::LIST, vec![0; 65537], rep::ERR_TOO_BIG),
    ] {
        let (replies, end) = replies(CONFIG, &[option(number, &data), option(opt::ABORT, b"")]);
        assert_eq!(types(&replies), [reply, rep::ACK], "option {number}");
        assert!(!replies[0].2.is_empty() && std::str::from_utf8(&replies[0].2).is_ok());
        assert_eq!(end, End::Abort, "the session goes on after option {number}");
    }
}

#[test]
fn forms_are_negotiated_once() {
    let (structured, extended) = (option(opt::STRUCTURED_REPLY, b""), option(opt::EXTENDED_HEADERS, b""));
    let all =
        [structured.clone(), structured.clone(), extended.clone(), extended.clone(), structured.clone()];
    let (seen, _) = replies(CONFIG, &all);
    let expected = [rep::ACK, rep::ERR_INVALID, rep::ACK, rep::ERR_INVALID, rep::ERR_EXT_HEADER_REQD];
    assert_eq!(types(&seen), expected);
    let off = ServerConfig { structured: false, extended: false, ..CONFIG };
    assert_eq!(types(&replies(off, &[structured, extended]).0), [rep::ERR_UNSUP, rep::ERR_UNSUP]);
}

#[test]
fn flags_follow_what_was_negotiated() {
    let go = option(opt::GO, &go_data("vm", &[]));
    for (first, df, payload) in [
        (None, false, false),
        (Some(opt::STRUCTURED_REPLY), true, false),
        (Some(opt::EXTENDED_HEADERS), true, true),
    ] {
        let mut options: Vec<Vec<u8>> = first.map(|number| option(number, b"")).into_iter().collect();
        options.push(go.clone());
        let flags = transmission(replies(CONFIG, &options).1).export.flags;
        assert_eq!(flags.contains(TransmissionFlags::SEND_DF), df);
        assert_eq!(flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD), payload);
    }
}

fn context_names(replies: &[(u32, u32, Vec<u8>)]) -> Vec<&str> {
    let contexts = replies.iter().filter(|(_, reply, _)| *reply == rep::META_CONTEXT);
    contexts.map(|(_, _, data)| std::str::from_utf8(&data[4..]).unwrap()).collect()
}

#[test]
fn contexts_are_listed_by_query() {
    let all = ["base:allocation", "qemu:dirty-bitmap:s1", "qemu:dirty-bitmap:s2"];
    for (queries, expected) in [
        (&[][..], &all[..]),
        (&["base:"], &all[..1]),
        (&["qemu:"], &all[1..]),
        (&["qemu:dirty-bitmap:"], &all[1..]),
        (&["qemu:dirty-bitmap:s2", "base:allocation"], &["base:allocation", "qemu:dirty-bitmap:s2"]),
        (&["base", "other:", "qemu:dirty", ":", ""], &[]),
    ] {
        let list = option(opt::LIST_META_CONTEXT, &meta_data("vm", queries));
        let (replies, _) = replies(CONFIG, &[option(opt::STRUCTURED_REPLY, b""), list]);
        assert_eq!(context_names(&replies), expected, "{queries:?}");
        assert_eq!(replies.last().unwrap().1, rep::ACK);
    }
}

/// A catalog of one export with more bitmaps than a listing shows, one of them named like a group.
struct ManyBitmaps;

impl ExportCatalog for ManyBitmaps {
    fn list(&self) -> Vec<ExportEntry> {
        Vec::new()
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        let mut info = SampleCatalog.find("vm")?;
        info.contexts = ["a:", "a:b"].map(|name| format!("qemu:dirty-bitmap:{name}")).to_vec();
        info.contexts.extend((0..10_000).map(|number| format!("qemu:dirty-bitmap:{number}")));
        (name == "vm").then_some(info)
    }

    fn offers(&self, _: &ExportInfo, context: &str) -> bool {
        context.strip_prefix("qemu:dirty-bitmap:").is_some_and(|number| number.parse::<u32>().is_ok())
    }
}

/// I9: a listing is bounded, and what it leaves out can be selected all the same.
#[test]
fn i9_a_listing_of_contexts_is_bounded_and_a_selection_is_not_bound_by_it() {
    let ask = |number: u32, queries: &[&str]| {
        let mut server = ServerNegotiation::new(CONFIG);
        let mut input = FLAGS.to_vec();
        input.extend(option(opt::STRUCTURED_REPLY, b""));
        input.extend(option(number, &meta_data("vm", queries)));
        let mut out = Vec::new();
        let mut rest = &input[..];
        while let (used, Step::Continue) = server.step(rest, &mut out, &ManyBitmaps).unwrap() {
            rest = &rest[used..];
        }
        context_names(&split_replies(&out[18..])).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ask(opt::LIST_META_CONTEXT, &["qemu:"]).len(), crate::meta::MAX_OFFERED);
    assert_eq!(ask(opt::LIST_META_CONTEXT, &[]).len(), crate::meta::MAX_OFFERED);
    let ends_in_a_colon = "qemu:dirty-bitmap:a:";
    assert_eq!(ask(opt::LIST_META_CONTEXT, &[ends_in_a_colon]), [ends_in_a_colon], "a name, no group");
    let beyond = "qemu:dirty-bitmap:123456";
    assert_eq!(ask(opt::SET_META_CONTEXT, &[beyond, ends_in_a_colon]), [beyond]);
    // As many as the option has room for: answered in time linear in both.
    let many: Vec<String> = (0..3000).map(|number| format!("qemu:{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(ask(opt::LIST_META_CONTEXT, &many), [""; 0]);
}

#[test]
fn contexts_are_selected_for_one_export_and_replaced() {
    let structured = option(opt::STRUCTURED_REPLY, b"");
    let set = |name: &str, queries: &[&str]| option(opt::SET_META_CONTEXT, &meta_data(name, queries));
    let go = |name: &str| option(opt::GO, &go_data(name, &[]));
    let names = |options: &[Vec<u8>]| {
        let contexts = transmission(replies(CONFIG, options).1).options.contexts;
        contexts.into_iter().map(|context| (context.id.0, context.name)).collect::<Vec<_>>()
    };
    let both = ["qemu:dirty-bitmap:s1", "base:allocation", "base:allocation", "base:", "x:y"];
    let expected = vec![(1, "qemu:dirty-bitmap:s1".to_owned()), (2, "base:allocation".to_owned())];
    assert_eq!(names(&[structured.clone(), set("vm", &both), go("vm")]), expected);
    let replaced = names(&[structured.clone(), set("vm", &both), set("vm", &["base:allocation"]), go("vm")]);
    assert_eq!(replaced, [(1, "base:allocation".to_owned())]);
    assert_eq!(names(&[structured.clone(), set("vm", &both), go("s1/vm")]), [], "another export");
    let failed = [structured, set("vm", &both), set("nope", &both), go("vm")];
    assert_eq!(names(&failed), [], "a selection that fails drops the one before");
}

#[test]
fn tls_required_answers_nothing_else() {
    let config = ServerConfig { tls: TlsPolicy::Required, ..CONFIG };
    for number in [2, 3, 4, 6, 7, 8, 9, 10, 11, 99] {
        let (replies, end) = replies(config, &[option(number, b"")]);
        if number == opt::ABORT {
            assert_eq!((types(&replies), end), (vec![rep::ACK], End::Abort));
        } else {
            assert_eq!((types(&replies), end), (vec![rep::ERR_TLS_REQD], End::Waits(16)));
        }
    }
    let (_, end) = replies(config, &[option(opt::EXPORT_NAME, b"vm")]);
    assert_eq!(end, End::Error(NegotiationError::TlsRequired));
    let (seen, _) = replies(config, &[option(opt::LIST, &[0; 70000])]);
    assert_eq!(types(&seen), [rep::ERR_TLS_REQD]);
}

#[test]
fn tls_forgets_what_came_before() {
    let config = ServerConfig { tls: TlsPolicy::Optional, ..CONFIG };
    let mut server = ServerNegotiation::new(config);
    let mut input = FLAGS.to_vec();
    input.extend(option(opt::EXTENDED_HEADERS, b""));
    input.extend(option(opt::SET_META_CONTEXT, &meta_data("vm", &["base:allocation"])));
    input.extend(option(opt::STARTTLS, b""));
    let injected = option(opt::LIST, b"");
    input.extend(&injected);
    let (out, end, left) = run_on(&mut server, &input);
    assert_eq!((end, left), (End::StartTls, injected.len()));
    assert_eq!(split_replies(&out[18..]).last().unwrap(), &(opt::STARTTLS, rep::ACK, vec![]));
    let before = server.step(&injected, &mut Vec::new(), &SampleCatalog);
    assert_eq!(before, Err(NegotiationError::TlsPending), "plain text is never taken for what TLS brought");

    let mut server = ServerNegotiation::new(config);
    run_on(&mut server, &input);
    server.tls_established();
    let inside = [option(opt::STARTTLS, b""), option(opt::GO, &go_data("vm", &[]))].concat();
    let (out, end, _) = run_on(&mut server, &inside);
    assert_eq!(split_replies(&out)[0].1, rep::ERR_INVALID, "TLS twice");
    let options = transmission(end).options;
    assert_eq!((options.form, options.contexts.len(), options.tls), (ReplyForm::Simple, 0, true));
}

#[test]
fn i9_a_client_is_bounded() {
    let (_, end) = replies(CONFIG, &vec![option(999, b""); 5000]);
    assert_eq!(end, End::Error(NegotiationError::TooManyOptions(4096)));
    // A length is refused before a byte of it is read.
    let mut huge = option(opt::LIST, b"");
    huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let (seen, end) = replies(CONFIG, &[huge]);
    assert_eq!(types(&seen), [rep::ERR_TOO_BIG]);
    assert_eq!(end, End::Error(NegotiationError::OptionTooLong { option: 3, length: u32::MAX }));
    // The query count is not believed either.
    let mut data = meta_data("vm", &[]);
    data.truncate(6);
    data.extend(u32::MAX.to_be_bytes());
    let options = [option(opt::STRUCTURED_REPLY, b""), option(opt::SET_META_CONTEXT, &data)];
    assert_eq!(types(&replies(CONFIG, &options).0), [rep::ACK, rep::ERR_INVALID]);
}

#[test]
fn i8_wrong_magic_and_flags_are_errors() {
    let mut server = ServerNegotiation::new(CONFIG);
    let (_, end, _) = run_on(&mut server, &[0, 0, 0, 7]);
    assert_eq!(end, End::Error(NegotiationError::ClientFlags(7)));
    let mut server = ServerNegotiation::new(CONFIG);
    let (_, end, _) = run_on(&mut server, b"\x00\x00\x00\x03GET / HTTP/1.1\r\n");
    assert_eq!(end, End::Error(NegotiationError::OptionMagic(u64::from_be_bytes(*b"GET / HT"))));
    let mut server = ServerNegotiation::new(CONFIG);
    let input = [&[0, 0, 0, 0], &option(opt::LIST, b"")[..]].concat();
    assert_eq!(run_on(&mut server, &input).1, End::Error(NegotiationError::NotFixedNewstyle(3)));
}

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let queries = proptest::collection::vec("base:(allocation)?|qemu:(dirty-bitmap:(s1)?)?|x", 0..4);
    let name = "vm|s1/vm||nope";
    prop_oneof![
        (0_u32..14, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(n, data)| option(n, &data)),
        (2_u32..12).prop_map(|number| option(number, b"")),
        (9_u32..=10, name, queries).prop_map(|(number, name, queries)| {
            let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
            option(number, &meta_data(&name, &queries))
        }),
        (6_u32..=6, name, proptest::collection::vec(0_u16..6, 0..4))
            .prop_map(|(number, name, items)| option(number, &go_data(&name, &items))),
        Just(option(opt::LIST, &[7; 66000])),
    ]
}

proptest! {
    #[test]
    fn byte_by_byte_is_the_same_as_at_once(
        options in proptest::collection::vec(any_option(), 0..8),
        tls in 0_usize..3,
        chunk in 1_usize..40,
    ) {
        let tls = [TlsPolicy::Off, TlsPolicy::Optional, TlsPolicy::Required][tls];
        let config = ServerConfig { tls, ..CONFIG };
        let mut input = FLAGS.to_vec();
        input.extend(options.concat());
        input.extend(option(opt::GO, &go_data("vm", &[])));
        let whole = run_on(&mut ServerNegotiation::new(config), &input);

        let mut server = ServerNegotiation::new(config);
        let (mut buffer, mut out, mut fed, mut end) = (Vec::new(), Vec::new(), 0, End::Waits(0));
        while matches!(end, End::Waits(_)) && fed < input.len() {
            let next = input.len().min(fed + chunk);
            buffer.extend_from_slice(&input[fed..next]);
            fed = next;
            let (sent, now, left) = run_on(&mut server, &buffer);
            out.extend(sent);
            buffer.drain(..buffer.len() - left);
            end = now;
        }
        prop_assert_eq!(&out, &whole.0);
        prop_assert_eq!(&end, &whole.1);
        prop_assert_eq!(buffer.len() + input.len() - fed, whole.2);
    }

    #[test]
    fn i8_i9_any_options_keep_the_server_sane(
        choice in any::<u8>(),
        options in proptest::collection::vec(any_option(), 0..10),
        noise in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut data = vec![choice];
        data.extend(FLAGS);
        data.extend(options.concat());
        data.extend(noise);
        crate::fuzz_entry::server_negotiation(&data);
    }

    #[test]
    fn i8_garbage_is_no_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        crate::fuzz_entry::server_negotiation(&data);
        crate::fuzz_entry::client_negotiation(&data);
    }
}
