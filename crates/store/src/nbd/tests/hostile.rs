//! I8, I9: a server that breaks the protocol in every way gives errors, and harms nothing else.

use std::io::{Read, Write};
use std::time::Instant;

use bowline_nbd::wire::{self, chunk};
use bowline_nbd::{Command, ReplyForm, ReplyWriter, RequestHead};

use super::scripted::{Peer, Server, expected, offer};
use super::*;

fn structured(cookie: u64, flags: u16, kind: u16, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = wire::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(payload);
    out
}

/// A read chunk: offset and data.
fn data(head: &RequestHead, last: bool, offset: u64, bytes: usize) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.resize(8 + bytes, 0x77);
    let length = u32::try_from(payload.len()).unwrap();
    structured(head.cookie.0, u16::from(last), chunk::OFFSET_DATA, length, &payload)
}

fn hole(head: &RequestHead, last: bool, offset: u64, length: u32) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.extend(length.to_be_bytes());
    structured(head.cookie.0, u16::from(last), chunk::OFFSET_HOLE, 12, &payload)
}

type Answer = fn(&RequestHead) -> Vec<u8>;

/// Wrong answers to a read of 4096 bytes at 8192, each of which must end the connection.
const WRONG: &[(&str, Answer)] = &[
    ("noise", |_| (0..2000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()),
    ("zeroes", |_| vec![0; 4096]),
    ("a request", |head| {
        let mut out = vec![0; 28];
        head.encode(&mut out, false).unwrap();
        out
    }),
    ("an unknown cookie", |head| structured(head.cookie.0 ^ 1, 1, chunk::NONE, 0, &[])),
    ("a cookie of another epoch", |head| structured(head.cookie.0 ^ 1 << 40, 1, chunk::NONE, 0, &[])),
    ("a cookie beyond every slot", |head| structured(head.cookie.0 | 0xffff_ffff, 1, chunk::NONE, 0, &[])),
    ("success without data", |head| structured(head.cookie.0, 1, chunk::NONE, 0, &[])),
    ("half the data", |head| data(head, true, 8192, 2048)),
    ("the first half twice", |head| {
        [data(head, false, 8192, 2048), data(head, false, 8192, 2048), data(head, true, 8192, 512)].concat()
    }),
    ("data before the read", |head| data(head, true, 4096, 4096)),
    ("data behind the read", |head| data(head, true, 8192 + 512, 4096)),
    ("data at the end of numbers", |head| data(head, true, u64::MAX - 100, 4096)),
    ("a hole beyond the read", |head| hole(head, true, 8192, u32::MAX)),
    ("an empty hole", |head| hole(head, false, 8192, 0)),
    ("an empty chunk that is not the last", |head| structured(head.cookie.0, 0, chunk::NONE, 0, &[])),
    ("a chunk of 4 GiB", |head| structured(head.cookie.0, 1, chunk::OFFSET_DATA, u32::MAX, &[0; 64])),
    ("an unknown chunk", |head| structured(head.cookie.0, 1, 77, 4, &[0; 4])),
    ("an error without number", |head| structured(head.cookie.0, 1, chunk::ERROR, 6, &[0; 6])),
    ("an error of 1 MiB", |head| structured(head.cookie.0, 1, chunk::ERROR, 1 << 20, &[0; 64])),
    ("extents for a read", |head| {
        structured(head.cookie.0, 1, chunk::BLOCK_STATUS, 12, &[0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0])
    }),
    ("extended replies that were not agreed on", |_| {
        [&wire::EXTENDED_REPLY_MAGIC.to_be_bytes()[..], &[0; 60]].concat()
    }),
    ("half a header", |head| structured(head.cookie.0, 1, chunk::NONE, 0, &[])[..7].to_vec()),
    ("half of the data's bytes", |head| data(head, true, 8192, 4096)[..1000].to_vec()),
    ("nothing", |_| Vec::new()),
];

#[test]
fn i8_wrong_answers_end_the_request_with_an_error_and_the_next_connection_works() {
    for (name, answer) in WRONG {
        let queues = queues();
        let server = Server::start(offer(ReplyForm::Structured), move |number, mut peer| {
            if number > 0 {
                return peer.serve_well();
            }
            if let Some((head, _)) = peer.next() {
                peer.send(&answer(&head));
            }
        });
        let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
        let begin = Instant::now();
        let ended = block_on(read(&*store, 8192, 4096));
        assert!(matches!(ended, Err(ErrorKind::Io)), "{name}: {ended:?}");
        let again = block_on(read(&*store, 8192, 4096)).unwrap();
        assert!(again.into_iter().eq(expected(8192, 4096)), "{name}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{name} took {:?}", begin.elapsed());
        assert_eq!(server.accepted(), 2, "{name}");
    }
}

#[test]
fn i8_an_error_answer_is_that_requests_alone_and_its_text_is_shown_escaped() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Structured), |_, mut peer| {
        while let Some((head, _)) = peer.next() {
            let mut out = vec![0; 1024];
            let writer = ReplyWriter::new(peer.form, &head);
            let text = "bad\u{1b}[31msector\n";
            let size = match head.command {
                Command::Read => writer.error(&mut out, bowline_nbd::WireError::NoSpace, text).unwrap(),
                _ => writer.done(&mut out).unwrap(),
            };
            peer.send(&out[..size]);
        }
    });
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    let request = Request::new(Op::Read, ByteRange::new(0, 512));
    let done = block_on(store.submit(Io::new(request, Buf::zeroed(512))));
    let error = done.result.unwrap_err();
    assert_eq!((error.kind(), done.data.len()), (ErrorKind::NoSpace, 512));
    let text = error.to_string();
    assert!(text.contains("sector") && !text.contains(['\u{1b}', '\n']), "{text:?}");
    block_on(bare(&*store, Op::Flush, 0, 0)).unwrap();
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_range_sent_twice_never_shows_another_readers_bytes() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Structured), |_, mut peer| {
        while let Some((head, _)) = peer.next() {
            let half = usize::try_from(head.length / 2).unwrap();
            peer.send(&data(&head, false, head.offset, half));
            peer.send(&data(&head, true, head.offset, half));
        }
    });
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    let mut used = Buf::zeroed(8192);
    used.fill(0xee);
    let request = Request::new(Op::Read, ByteRange::new(0, 8192));
    let done = block_on(store.submit(Io::new(request, used)));
    done.result.unwrap();
    assert!(!done.data.contains(&0xee));
}

#[test]
fn i8_a_server_that_never_answers_costs_a_timeout_and_a_connection() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Simple), |number, mut peer| {
        if number > 0 {
            return peer.serve_well();
        }
        while peer.next().is_some() {}
    });
    let store = NbdStore::connect(&server.uri, queues.handles(), hasty()).unwrap();
    let begin = Instant::now();
    assert_eq!(block_on(read(&*store, 0, 512)), Err(ErrorKind::Timeout));
    assert!(begin.elapsed() >= Duration::from_millis(400) && begin.elapsed() < Duration::from_secs(5));
    assert!(block_on(read(&*store, 512, 512)).is_ok());
    assert_eq!(server.accepted(), 2);
}

#[test]
fn a_single_late_answer_is_thrown_away_and_the_connection_goes_on() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Simple), |_, mut peer| {
        let mut late = None;
        while let Some((head, _)) = peer.next() {
            if head.offset == 0 {
                late = Some(head);
                continue;
            }
            if head.offset == 4096
                && let Some(late) = late.take()
            {
                let answer = peer.good_answer(&late);
                peer.send(&answer);
            }
            let answer = peer.good_answer(&head);
            peer.send(&answer);
        }
    });
    let store = NbdStore::connect(&server.uri, queues.handles(), hasty()).unwrap();
    std::thread::scope(|scope| {
        let late = scope.spawn(|| block_on(read(&*store, 0, 4096)));
        while !late.is_finished() {
            block_on(read(&*store, 512, 512)).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(late.join().unwrap(), Err(ErrorKind::Timeout));
    });
    let bytes = block_on(read(&*store, 4096, 512)).unwrap();
    assert!(bytes.into_iter().eq(expected(4096, 512)));
    assert_eq!(server.accepted(), 1);
}

#[test]
fn i9_endless_errors_and_a_peer_that_does_not_read_end_in_time() {
    let endless: fn(usize, Peer) = |_, mut peer| {
        if let Some((head, _)) = peer.next() {
            let error = structured(head.cookie.0, 0, chunk::ERROR, 6, &[0, 0, 0, 5, 0, 0]).repeat(100);
            while peer.stream.write_all(&error).is_ok() {}
        }
    };
    let deaf: fn(usize, Peer) = |_, peer| {
        std::thread::sleep(Duration::from_secs(2));
        drop(peer);
    };
    for script in [endless, deaf] {
        let queues = queues();
        let server = Server::start(offer(ReplyForm::Structured), script);
        let store = NbdStore::connect(&server.uri, queues.handles(), hasty()).unwrap();
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for number in 0..8u64 {
                let store = &store;
                scope.spawn(move || {
                    let payload = vec![7; 128 << 10];
                    let ended = block_on(write(&**store, number * 131_072, &payload, Flags::empty()));
                    assert!(matches!(ended, Err(ErrorKind::Timeout | ErrorKind::Io)), "{ended:?}");
                });
            }
        });
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
        drop(store);
    }
}

#[test]
fn i8_a_bad_negotiation_is_an_error_of_the_connect() {
    let connect = |script: fn(usize, std::os::unix::net::UnixStream)| {
        let queues = queues();
        let server = Server::raw(script);
        let options = NbdOptions { connect_timeout: Duration::from_millis(300), ..hasty() };
        let begin = Instant::now();
        let error = NbdStore::connect(&server.uri, queues.handles(), options).err().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        (error.kind(), error.to_string())
    };
    let (kind, text) = connect(|_, mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    assert_eq!(kind, ErrorKind::Protocol, "{text}");
    assert!(text.contains("greeting"), "{text}");
    assert_eq!(connect(|_, _| {}).0, ErrorKind::Gone);
    let silent: fn(usize, std::os::unix::net::UnixStream) = |_, mut stream| {
        let _ = stream.read(&mut [0; 1]);
    };
    assert_eq!(connect(silent).0, ErrorKind::Timeout);
    let trickle: fn(usize, std::os::unix::net::UnixStream) = |_, mut stream| {
        let greeting = [b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat();
        for byte in greeting {
            std::thread::sleep(Duration::from_millis(40));
            if stream.write_all(&[byte]).is_err() {
                return;
            }
        }
    };
    assert_eq!(connect(trickle).0, ErrorKind::Timeout);
    let oversized: fn(usize, std::os::unix::net::UnixStream) = |_, mut stream| {
        let _ = stream.write_all(&[b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat());
        let mut reply = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
        reply.extend([0, 0, 0, 11, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        let _ = stream.write_all(&reply);
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.read(&mut [0; 64]);
    };
    let (kind, text) = connect(oversized);
    assert_eq!(kind, ErrorKind::Protocol, "{text}");
}
