//! Requests that are done in pieces.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bowline_block::{ByteRange, ErrorKind};
use bowline_nbd::{Command, CommandFlags, WireError};

use super::client::FORMS;
use super::store::Pace;
use super::*;

const MIB: usize = 1 << 20;

#[test]
fn requests_of_32_mib_are_written_and_read_back() {
    let data = pattern(4096, 32 * MIB);
    for pace in [Pace::AtOnce, Pace::Slow] {
        let world = World::new(TestStore::new(64 << 20, pace));
        for form in FORMS {
            let mut client = world.client(form);
            assert_eq!(client.write(4096, &data).error, None, "{pace:?} {form:?}");
            let answer = client.read(4096, 32 << 20);
            assert_eq!(answer.error, None);
            assert!(answer.data == data, "{pace:?} {form:?}: other bytes");
            assert_eq!(answer.chunks > 1, form != Form::Simple);
            client.call(Command::Trim, CommandFlags::empty(), 0, 64 << 20);
        }
    }
}

#[test]
fn odd_lengths_around_every_bound_survive() {
    let bounds = [64 << 10, 128 << 10, 256 << 10, 1 << 20, 2 << 20];
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(16 << 20, pace);
        let world = World::new(store);
        for form in FORMS {
            let mut client = world.client(form);
            for length in bounds.iter().flat_map(|bound| [bound - 512, *bound, bound + 512]) {
                let data = pattern(length as u64, length);
                assert_eq!(client.write(512, &data).error, None);
                assert!(client.read(512, length as u64).data == data, "{pace:?} {form:?} {length}");
            }
        }
    }
}

#[test]
fn zeroes_travel_as_holes_and_one_chunk_stays_one() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(16 << 20, pace);
        let middle = pattern(4 << 20, MIB);
        store.put(4 << 20, &middle);
        let world = World::new(store);
        for form in [Form::Structured, Form::Extended] {
            let mut client = world.client(form);
            let answer = client.read(0, 16 << 20);
            assert!(answer.holes > 0, "{pace:?}: no hole in {} chunks", answer.chunks);
            assert!(answer.data[4 << 20..5 << 20] == middle);
            let one = client.call(Command::Read, CommandFlags::DF, 3 << 20, 2 << 20);
            assert_eq!((one.error, one.chunks), (None, 1), "{pace:?} {form:?}");
            assert!(one.data[MIB..] == middle);
        }
    }
}

#[test]
fn a_fault_within_a_long_request_is_told() {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(64 << 20, pace);
        let world = World::new(store.clone());
        for form in FORMS {
            *store.fault.lock().unwrap() = Some((ByteRange::new(9 << 20, 512), ErrorKind::Io));
            let mut client = world.client(form);
            assert_eq!(client.write(0, &vec![3; 16 * MIB]).error, Some(WireError::Io), "{pace:?} {form:?}");
            assert_eq!(client.read(0, 4096).error, None, "the rest of the payload was taken for a request");
            if form == Form::Simple {
                // A simple reply has promised data by then: all that is left is to hang up.
                let cookie = client.ask(Command::Read, CommandFlags::empty(), 0, 16 << 20);
                assert!(client.next_answer().is_none() && client.was_cut, "{cookie} was answered");
                let mut again = world.client(form);
                let cookie = again.ask(Command::Read, CommandFlags::empty(), 9 << 20, 16 << 20);
                assert_eq!(again.wait(cookie).error, Some(WireError::Io), "nothing was promised yet");
            } else {
                assert_eq!(client.read(0, 16 << 20).error, Some(WireError::Io));
                assert_eq!(client.read(0, 8 << 20).error, None);
            }
            *store.fault.lock().unwrap() = None;
        }
    }
}

/// I9: a request of 32 MiB holds a few pieces.
#[test]
fn i9_a_long_request_has_few_pieces_under_way() {
    let store = TestStore::new(64 << 20, Pace::Slow);
    let world = World::new(store.clone());
    let mut client = world.client(Form::Structured);
    client.write(0, &pattern(0, 32 * MIB));
    client.read(0, 32 << 20);
    let most = store.most_under_way.load(Ordering::SeqCst);
    assert!((2..=9).contains(&most), "{most} pieces of 1 MiB were under way");
}

/// A read that begins at once and goes on by futures used to wait for the idle timer, five seconds at a time: its first
/// future was made in a turn that looked like one without progress, and was not polled.
#[test]
fn a_long_read_that_is_answered_partly_at_once_does_not_stall() {
    let store = TestStore::new(16 << 20, Pace::Mixed);
    let data = pattern(3, 16 * MIB);
    store.put(0, &data);
    let world = World::new(store);
    for form in FORMS {
        let mut client = world.client(form);
        let begin = Instant::now();
        for offset in (0..16 * MIB).step_by(MIB) {
            let answer = client.read(offset as u64, MIB as u64);
            assert!(answer.data == data[offset..offset + MIB], "{form:?} at {offset}");
        }
        assert!(begin.elapsed() < Duration::from_secs(4), "{form:?}: {:?}", begin.elapsed());
    }
}
