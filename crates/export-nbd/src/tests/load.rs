//! Many requests, odd rhythms, and clients that do not do their part.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::Ordering;

use bowline_block::Op;
use bowline_nbd::{Command, CommandFlags};

use super::client::FORMS;
use super::store::Pace;
use super::*;

const NONE: CommandFlags = CommandFlags::empty();
const PART: u64 = 4 << 20;

/// Requests that read what is there and write elsewhere, as bytes; and what each is to be answered.
fn mixed(client: &mut Client, count: u64) -> (Vec<u8>, HashMap<u64, Vec<u8>>) {
    let mut bytes = Vec::new();
    let mut expected = HashMap::new();
    for n in 0..count {
        let at = (n * 4096) % PART;
        let (cookie, head) = if n % 3 == 0 {
            let (cookie, mut head) = client.head(Command::Write, NONE, PART + at, 4096);
            head.extend_from_slice(&pattern(PART + at, 4096));
            expected.insert(cookie, vec![]);
            (cookie, head)
        } else {
            let (cookie, head) = client.head(Command::Read, NONE, at, 4096);
            expected.insert(cookie, pattern(at, 4096));
            (cookie, head)
        };
        assert!(expected.contains_key(&cookie));
        bytes.extend_from_slice(&head);
    }
    (bytes, expected)
}

fn check(client: &mut Client, mut expected: HashMap<u64, Vec<u8>>) {
    while !expected.is_empty() {
        let (cookie, answer) = client.next_answer().expect("hung up");
        let data = expected.remove(&cookie).expect("answered twice");
        assert_eq!(answer.error, None);
        assert!(answer.data == data, "request {cookie} got other bytes");
    }
}

#[test]
fn a_thousand_requests_in_one_go_are_all_answered() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(16 << 20, pace);
        store.put(0, &pattern(0, 4 << 20));
        let world = World::new(store.clone());
        for form in FORMS {
            let mut client = world.client(form);
            let (bytes, expected) = mixed(&mut client, 1000);
            let mut writer = client.socket.take().unwrap();
            // Both ways at once: neither side's socket holds that much.
            std::thread::scope(|scope| {
                scope.spawn(move || writer.write_all(&bytes).unwrap());
                check(&mut client, expected);
            });
        }
        if pace == Pace::Slow {
            let most = store.most_under_way.load(Ordering::SeqCst);
            assert!((2..=256).contains(&most), "{most} requests were under way");
        }
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(16 << 20, pace);
        store.put(0, &pattern(0, 4 << 20));
        let world = World::new(store);
        for form in FORMS {
            let mut client = world.client(form);
            let (bytes, expected) = mixed(&mut client, 4);
            for byte in bytes {
                client.send(&[byte]);
            }
            check(&mut client, expected);
            // A long write in crooked pieces, around every bound on the way.
            let data = pattern(PART, 700 << 10);
            let (cookie, head) = client.head(Command::Write, NONE, PART, data.len() as u64);
            client.send(&head);
            for piece in data.chunks(33_333) {
                client.send(piece);
            }
            assert_eq!(client.wait(cookie).error, None);
            assert!(client.read(PART, 700 << 10).data == data, "{pace:?} {form:?}");
        }
    }
}

/// I9: who asks and never reads fills his own buffers and nothing else; the others are served.
#[test]
fn i9_a_client_that_never_reads_holds_up_nobody() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(64 << 20, pace);
        store.put(0, &pattern(0, 32 << 20));
        let world = World::new(store.clone());
        let mut deaf = Vec::new();
        for n in 0..6 {
            let mut client = world.client(FORMS[n % 3]);
            let length = [4096, 128 << 10, 1 << 20, 8 << 20][n % 4];
            let (_, head) = client.head(Command::Read, NONE, 0, length);
            let mut writer = client.socket.take().unwrap();
            writer.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            // Until the server takes no more: it must come to that.
            let flood = head.repeat(64);
            let refused = (0..100_000).any(|_| writer.write_all(&flood).is_err());
            assert!(refused, "the server took requests without end");
            deaf.push((client, writer));
        }
        // All that was read for them is what waits to be sent, in the server and in the kernel.
        let log = store.log.lock().unwrap();
        let read: u64 = log.iter().filter(|one| one.op == Op::Read).map(|one| one.range.len()).sum();
        assert!(read < 6 * (16 << 20), "{} MiB were read for 6 deaf clients", read >> 20);
        drop(log);
        let mut lively = world.client(Form::Structured);
        for n in 0..50 {
            assert!(lively.read(n * 4096, 4096).data == pattern(n * 4096, 4096));
        }
        eventually("the deaf are gone", || {
            deaf.clear();
            world.server().connection_count() == 1
        });
    }
}

/// A write whose data never comes in full is no write, and costs nobody else anything.
#[test]
fn a_client_that_vanishes_in_a_write_takes_only_itself_away() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(64 << 20, pace);
        let world = World::new(store.clone());
        for (length, part) in [(4096u64, 1000usize), (65536, 65535), (8 << 20, 5 << 20)] {
            let mut client = world.client(Form::Structured);
            let (_, mut bytes) = client.head(Command::Write, NONE, 0, length);
            bytes.extend_from_slice(&vec![9; part]);
            client.send(&bytes);
            drop(client);
        }
        eventually("the connections are gone", || world.server().connection_count() == 0);
        assert_eq!(world.client(Form::Simple).read(0, 512).error, None);
        if pace == Pace::AtOnce {
            let mut first = vec![0; 65536];
            store.get(0, &mut first[..]);
        }
    }
}

/// What has been submitted ends, and is answered if the client still reads, also after its goodbye.
#[test]
fn requests_before_the_end_of_the_stream_are_answered() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(16 << 20, pace);
        store.put(0, &pattern(0, 4 << 20));
        let world = World::new(store);
        for goodbye in [true, false] {
            let mut client = world.client(Form::Structured);
            let (mut bytes, expected) = mixed(&mut client, 20);
            if goodbye {
                bytes.extend_from_slice(&client.head(Command::Disconnect, NONE, 0, 0).1);
            }
            client.send(&bytes);
            client.socket.as_ref().unwrap().shutdown(std::net::Shutdown::Write).unwrap();
            check(&mut client, expected);
            assert!(client.is_at_end());
        }
    }
}

#[test]
fn idle_connections_give_their_buffers_back_and_go_on() {
    let store = TestStore::new(16 << 20, Pace::AtOnce);
    store.put(0, &pattern(0, 4 << 20));
    let world = World::new(store);
    let mut clients: Vec<_> = (0..40).map(|_| world.client(Form::Structured)).collect();
    for client in &mut clients {
        client.write(PART, &pattern(PART, 60 << 10));
        client.read(0, 128 << 10);
    }
    assert_eq!(world.server().idle_connections(), 0);
    eventually("all are idle", || world.server().idle_connections() == 40);
    for client in &mut clients {
        assert!(client.read(0, 4096).data == pattern(0, 4096));
    }
    assert_eq!(world.server().idle_connections(), 0);
}
