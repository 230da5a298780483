//! Every command, in every form of replies, on a store that answers at once and on one that does not.

use bowline_block::{BlockSize, ByteRange, Capabilities, ErrorKind, Flags, Op};
use bowline_nbd::{Command, CommandFlags, TransmissionFlags, WireError};

use super::client::FORMS;
use super::store::Pace;
use super::*;

const MIB: u64 = 1 << 20;
const NONE: CommandFlags = CommandFlags::empty();

fn everywhere(test: impl Fn(&World, &TestStore, Form)) {
    for pace in [Pace::AtOnce, Pace::Slow] {
        let store = TestStore::new(64 * MIB, pace);
        let world = World::new(store.clone());
        for form in FORMS {
            test(&world, &store, form);
        }
    }
}

#[test]
fn writes_are_read_back() {
    everywhere(|world, _, form| {
        let mut client = world.client(form);
        assert_eq!(client.export.options.form, form);
        for (offset, length) in [(0u64, 512usize), (512, 4096), (MIB - 512, 1024), (2 * MIB, 65536)] {
            let data = pattern(offset, length);
            assert_eq!(client.write(offset, &data).error, None);
            let answer = client.read(offset, length as u64);
            assert_eq!((answer.error, answer.data == data), (None, true), "{form:?} {offset}+{length}");
        }
    });
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes_also_huge_ones() {
    everywhere(|world, store, form| {
        let mut client = world.client(form);
        let data = pattern(0, 64 << 10);
        for command in [Command::Trim, Command::WriteZeroes] {
            client.write(0, &data);
            client.write(32 * MIB, &data);
            assert_eq!(client.call(command, NONE, 512, 64 * MIB - 512).error, None);
            let answer = client.read(0, 64 << 10);
            assert_eq!(answer.data[..512], data[..512]);
            assert!(answer.data[512..].iter().all(|&byte| byte == 0), "{form:?} {command:?}");
            assert!(client.read(32 * MIB, 4096).data.iter().all(|&byte| byte == 0));
        }
        let flags = CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO;
        assert_eq!(client.call(Command::WriteZeroes, flags, 0, 4096).error, None);
        let asked = *store.log.lock().unwrap().iter().rev().find(|one| one.op == Op::WriteZeroes).unwrap();
        assert_eq!(asked.flags, Flags::NO_UNMAP | Flags::FAST_ZERO);
    });
}

#[test]
fn a_terabyte_is_discarded_in_one_extended_request() {
    let store = TestStore::new(64 << 40, Pace::AtOnce);
    let world = World::new(store);
    let mut client = world.client(Form::Extended);
    assert_eq!(client.export.size, 64 << 40);
    let answer = client.call(Command::Trim, NONE, 0, 64 << 40);
    assert_eq!(answer.error, None);
    let answer = client.call(Command::BlockStatus, NONE, 0, 64 << 40);
    assert_eq!(answer.extents, [bowline_nbd::Extent { length: 64 << 40, flags: 3 }]);
    let mut narrow = world.client(Form::Structured);
    let answer = narrow.call(Command::BlockStatus, NONE, 0, (4 << 30) - 512);
    assert_eq!(answer.extents.len(), 1);
    assert_eq!(answer.extents[0].flags, 3);
}

/// I7: what a connection was told is durable is so for what the others wrote, too.
#[test]
fn i7_a_flush_covers_other_connections_and_fua_needs_none() {
    everywhere(|world, store, form| {
        let (mut one, mut other) = (world.client(form), world.client(form));
        assert!(one.export.flags.contains(TransmissionFlags::CAN_MULTI_CONN));
        assert_eq!(other.write(0, &pattern(0, 4096)).error, None);
        assert_ne!(store.unflushed.load(std::sync::atomic::Ordering::SeqCst), 0);
        assert_eq!(one.call(Command::Flush, NONE, 0, 0).error, None);
        assert_eq!(store.unflushed.load(std::sync::atomic::Ordering::SeqCst), 0);

        let durable = store.durable_writes.load(std::sync::atomic::Ordering::SeqCst);
        let cookie = one.ask_write(CommandFlags::FUA, 4096, &pattern(4096, 4096));
        assert_eq!(one.wait(cookie).error, None);
        let cookie = one.ask_write(CommandFlags::FUA, MIB, &pattern(MIB, 1 << 20));
        assert_eq!(one.wait(cookie).error, None);
        assert_eq!(store.unflushed.load(std::sync::atomic::Ordering::SeqCst), 0, "a piece was not durable");
        assert!(store.durable_writes.load(std::sync::atomic::Ordering::SeqCst) >= durable + 2);

        for command in [Command::Trim, Command::WriteZeroes] {
            let flushes = store.flushes.load(std::sync::atomic::Ordering::SeqCst);
            assert_eq!(one.call(command, CommandFlags::FUA, 0, 8192).error, None);
            assert_eq!(store.flushes.load(std::sync::atomic::Ordering::SeqCst), flushes + 1);
        }
    });
}

#[test]
fn block_status_tells_data_from_holes() {
    let store = TestStore::new(64 * MIB, Pace::Slow);
    store.put(MIB, &pattern(MIB, 1 << 20));
    let world = World::new(store);
    for form in [Form::Structured, Form::Extended] {
        let mut client = world.client(form);
        let answer = client.call(Command::BlockStatus, NONE, 0, 4 * MIB);
        let found: Vec<_> = answer.extents.iter().map(|extent| (extent.length, extent.flags)).collect();
        assert_eq!(found, [(MIB, 3), (MIB, 0), (2 * MIB, 3)]);
        let answer = client.call(Command::BlockStatus, CommandFlags::REQ_ONE, MIB + 512, 4 * MIB);
        assert_eq!(answer.extents.len(), 1);
        assert_eq!((answer.extents[0].length, answer.extents[0].flags), (MIB - 512, 0));
        assert_eq!(client.call(Command::Cache, NONE, 0, 4 * MIB).error, None);
    }
    let mut filtered = world.client(Form::Extended);
    let id = filtered.export.options.contexts[0].id;
    let mut ask = |ids: &[bowline_nbd::ContextId]| {
        let mut payload = Vec::new();
        bowline_nbd::BlockStatusFilter::encode(&mut payload, 2 * MIB, ids);
        let (cookie, mut bytes) =
            filtered.head(Command::BlockStatus, CommandFlags::PAYLOAD_LEN, 0, payload.len() as u64);
        bytes.extend_from_slice(&payload);
        filtered.send(&bytes);
        filtered.wait(cookie)
    };
    assert_eq!(ask(&[id]).extents.len(), 2);
    assert_eq!(ask(&[id, id]).error, Some(WireError::Invalid));
    assert_eq!(ask(&[bowline_nbd::ContextId(77)]).error, Some(WireError::Invalid));
}

#[test]
fn errors_of_the_device_arrive_as_the_right_number() {
    let table = [
        (ErrorKind::Io, WireError::Io),
        (ErrorKind::Corrupt, WireError::Io),
        (ErrorKind::NoSpace, WireError::NoSpace),
        (ErrorKind::Invalid, WireError::Invalid),
        (ErrorKind::ReadOnly, WireError::NotPermitted),
        (ErrorKind::Denied, WireError::NotPermitted),
        (ErrorKind::Unsupported, WireError::NotSupported),
        (ErrorKind::Gone, WireError::Shutdown),
        (ErrorKind::Timeout, WireError::Io),
        (ErrorKind::Busy, WireError::Io),
    ];
    everywhere(|world, store, form| {
        let mut client = world.client(form);
        for (kind, expected) in table {
            *store.fault.lock().unwrap() = Some((ByteRange::new(8192, 512), kind));
            assert_eq!(client.read(8192, 4096).error, Some(expected), "{form:?} {kind:?}");
            assert_eq!(client.write(0, &pattern(0, 65536)).error, Some(expected));
            assert_eq!(client.call(Command::Trim, NONE, 0, MIB).error, Some(expected));
            let answer = client.read(0, 4096);
            assert_eq!(answer.error, None, "the connection goes on");
        }
        *store.fault.lock().unwrap() = None;
        if form != Form::Simple {
            *store.fault.lock().unwrap() = Some((ByteRange::new(8192, 512), ErrorKind::Io));
            let message = client.read(8192, 4096).message;
            assert!(message.contains("a fault that the test wants"), "{message}");
            *store.fault.lock().unwrap() = None;
        }
    });
}

#[test]
fn requests_against_the_rules_are_refused_one_by_one() {
    everywhere(|world, store, form| {
        let mut client = world.client(form);
        let before = store.log.lock().unwrap().len();
        let size = 64 * MIB;
        let refused = [
            (Command::Read, NONE, size, 512, WireError::Invalid),
            (Command::Read, NONE, u64::MAX - 511, 1024, WireError::Invalid),
            (Command::Read, NONE, 0, 0, WireError::Invalid),
            (Command::Read, NONE, 1, 512, WireError::Invalid),
            (Command::Read, NONE, 0, 32 * MIB + 512, WireError::Invalid),
            (Command::Read, CommandFlags::NO_HOLE, 0, 512, WireError::Invalid),
            (Command::Trim, NONE, 0, size + 512, WireError::Invalid),
            (Command::WriteZeroes, NONE, 0, size + 512, WireError::NoSpace),
            (Command::Flush, NONE, 512, 512, WireError::Invalid),
            (Command::Other(77), NONE, 0, 512, WireError::Invalid),
            (Command::Cache, NONE, size, 512, WireError::Invalid),
        ];
        for (command, flags, offset, length, error) in refused {
            let answer = client.call(command, flags, offset, length);
            assert_eq!(answer.error, Some(error), "{form:?} {command:?} {offset}+{length}");
        }
        // A refused write's payload is skipped, whatever its length.
        for (offset, length) in [(size, 512), (1, 512), (0, 33 << 20), (size - 512, 1 << 20)] {
            let answer = client.write(offset, &vec![1; length]);
            assert!(answer.error.is_some(), "{offset}+{length}");
        }
        assert_eq!(store.log.lock().unwrap().len(), before, "a refused request reached the store");
        assert_eq!(client.read(0, 512).error, None);
        if form != Form::Simple {
            let answer = client.call(Command::Read, CommandFlags::DF, 0, 4 * MIB);
            assert_eq!(answer.error, Some(WireError::Overflow));
        }
    });
}

#[test]
fn a_read_only_export_takes_no_changes() {
    let store = TestStore::new(MIB, Pace::AtOnce);
    let world = World::new(store.clone());
    world.add("fixed", store.clone(), true);
    let mut client = Client::connect(&world.socket, "fixed", Form::Structured);
    assert!(client.export.flags.contains(TransmissionFlags::READ_ONLY));
    assert_eq!(client.write(0, &[1; 512]).error, Some(WireError::NotPermitted));
    assert_eq!(client.read(0, 512).error, None);
    assert!(client.call(Command::Trim, NONE, 0, 512).error.is_some());
    assert!(client.call(Command::WriteZeroes, NONE, 0, 512).error.is_some());
    assert!(store.log.lock().unwrap().iter().all(|one| !one.op.changes_data()));
}

#[test]
fn what_a_device_cannot_do_is_not_offered() {
    let store = TestStore::shaped(MIB, Pace::AtOnce, BlockSize::B4096, Capabilities::WRITE_ZEROES);
    let world = World::new(store);
    let mut client = world.client(Form::Structured);
    let flags = client.export.flags;
    assert!(flags.contains(TransmissionFlags::SEND_WRITE_ZEROES | TransmissionFlags::SEND_FLUSH));
    assert!(!flags.intersects(TransmissionFlags::SEND_TRIM | TransmissionFlags::SEND_FAST_ZERO));
    assert_eq!((client.export.blocks.minimum, client.export.blocks.preferred), (4096, 4096));
    assert_eq!(client.read(512, 4096).error, Some(WireError::Invalid));
    assert_eq!(client.call(Command::Trim, NONE, 0, 4096).error, Some(WireError::Invalid));
}

#[test]
fn the_default_export_is_the_only_one() {
    let world = World::new(TestStore::new(MIB, Pace::AtOnce));
    assert_eq!(Client::connect(&world.socket, "", Form::Simple).export.size, MIB);
    world.add("other", TestStore::new(2 * MIB, Pace::AtOnce), false);
    assert_eq!(Client::connect(&world.socket, "other", Form::Extended).export.size, 2 * MIB);
    for name in ["", "missing"] {
        let refused = Client::try_connect(&world.socket, name, Form::Structured);
        assert!(refused.is_err(), "{name:?} was served");
    }
}
