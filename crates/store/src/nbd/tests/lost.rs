//! Connections that are lost, and what is said about them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bowline_nbd::{Command, ReplyForm};

use super::scripted::{Server, offer};
use super::*;

#[test]
fn a_lost_connection_is_made_again_and_calls_wait_for_it() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Structured), |_, mut peer| peer.serve_well());
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    for round in 1..5 {
        block_on(read(&*store, 0, 4096)).unwrap();
        server.hang_up();
        // Whether the hang-up is heard before or after the next call is sent, one of the two reads works.
        let first = block_on(read(&*store, 0, 4096));
        assert!(matches!(first, Ok(_) | Err(ErrorKind::Io)), "{first:?}");
        block_on(read(&*store, 0, 4096)).unwrap();
        assert_eq!(server.accepted(), round + 1);
    }
    assert_eq!(store.trouble(), None);
}

#[test]
fn i7_a_flush_after_a_loss_tells_that_writes_may_be_gone() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Simple), |_, mut peer| peer.serve_well());
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    let lose = || {
        server.hang_up();
        while block_on(read(&*store, 0, 512)).is_err() {}
    };
    // Nothing written, or all of it flushed: nothing can be lost.
    lose();
    block_on(bare(&*store, Op::Flush, 0, 0)).unwrap();
    block_on(write(&*store, 0, &[1; 512], Flags::empty())).unwrap();
    block_on(bare(&*store, Op::Flush, 0, 0)).unwrap();
    block_on(write(&*store, 0, &[1; 512], Flags::FUA)).unwrap();
    lose();
    block_on(bare(&*store, Op::Flush, 0, 0)).unwrap();

    block_on(write(&*store, 0, &[1; 512], Flags::empty())).unwrap();
    lose();
    assert_eq!(block_on(bare(&*store, Op::Flush, 0, 0)), Err(ErrorKind::Io));
    block_on(bare(&*store, Op::Flush, 0, 0)).unwrap();
}

#[test]
fn without_a_server_calls_wait_a_bounded_time_and_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let serve = |path: &std::path::Path| {
        let offered = offer(ReplyForm::Simple);
        Server::start_at(path, offered, |_, mut peer| peer.serve_well())
    };
    let queues = queues();
    let server = serve(&path);
    let options = NbdOptions { reconnect_wait: Duration::from_millis(300), ..patient() };
    let store = NbdStore::connect(&server.uri, queues.handles(), options).unwrap();
    drop(server);
    std::fs::remove_file(&path).unwrap();
    let begin = Instant::now();
    let mut text = String::new();
    // The first may still go to the connection that is being lost.
    for _ in 0..2 {
        let request = Request::new(Op::Read, ByteRange::new(0, 512));
        let error = block_on(store.submit(Io::new(request, Buf::zeroed(512)))).result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        text = error.to_string();
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(text.contains("not connected") && text.contains("No such file"), "{text}");
    assert!(store.trouble().is_some());

    let _server = serve(&path);
    let deadline = Instant::now() + Duration::from_secs(10);
    while block_on(read(&*store, 0, 512)).is_err() {
        assert!(Instant::now() < deadline, "it never came back: {:?}", store.trouble());
    }
    drop(store);
}

#[test]
fn an_export_that_has_changed_is_not_taken_for_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let queues = queues();
    let server = Server::start_at(&path, offer(ReplyForm::Simple), |_, mut peer| peer.serve_well());
    let options = NbdOptions { reconnect_wait: Duration::from_millis(500), ..patient() };
    let store = NbdStore::connect(&server.uri, queues.handles(), options).unwrap();
    drop(server);
    std::fs::remove_file(&path).unwrap();
    let mut larger = offer(ReplyForm::Simple);
    larger.export.size *= 2;
    let _server = Server::start_at(&path, larger, |_, mut peer| peer.serve_well());
    for _ in 0..2 {
        assert_eq!(block_on(read(&*store, 0, 512)), Err(ErrorKind::Io));
    }
    let trouble = store.trouble().unwrap();
    assert!(trouble.contains("has changed") && trouble.contains("2097152"), "{trouble}");
    drop(store);
}

#[test]
fn closing_says_goodbye_and_ends_what_comes_later() {
    let queues = queues();
    let goodbyes = Arc::new(AtomicU64::new(0));
    let counted = goodbyes.clone();
    let server = Server::start(offer(ReplyForm::Extended), move |_, mut peer| {
        while let Some((head, _)) = peer.next() {
            if head.command == Command::Disconnect {
                counted.fetch_add(1, Ordering::SeqCst);
                return;
            }
            let answer = peer.good_answer(&head);
            peer.send(&answer);
        }
    });
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    block_on(read(&*store, 0, 512)).unwrap();
    store.close();
    assert_eq!(block_on(read(&*store, 0, 512)), Err(ErrorKind::Gone));
    drop(store);
    // Ends only once every task has: the connection's must.
    drop(queues);
    let deadline = Instant::now() + Duration::from_secs(5);
    while goodbyes.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "the server heard no goodbye");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn closing_ends_calls_in_flight() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Simple), |_, mut peer| while peer.next().is_some() {});
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| block_on(read(&*store, 0, 512)));
        std::thread::sleep(Duration::from_millis(50));
        store.close();
        assert!(matches!(reader.join().unwrap(), Err(ErrorKind::Io | ErrorKind::Gone)));
    });
    drop(server);
}
