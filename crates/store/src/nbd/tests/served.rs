//! A well-behaved server, in every form of the protocol.

use std::sync::Mutex;

use bowline_block::{BlockSize, Capabilities, Extent, ExtentKind};
use bowline_nbd::{Command, CommandFlags, ReplyForm, TransmissionFlags};

use super::scripted::{SIZE, Server, expected, offer};
use super::*;

const FORMS: [ReplyForm; 3] = [ReplyForm::Simple, ReplyForm::Structured, ReplyForm::Extended];

#[test]
fn every_form_reads_writes_flushes_and_tells_its_shape() {
    for form in FORMS {
        let queues = queues();
        let server = Server::start(offer(form), |_, mut peer| peer.serve_well());
        let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
        let shape = store.geometry();
        assert_eq!((shape.size, shape.block_size, shape.read_only), (SIZE, BlockSize::B512, false));
        assert_eq!(shape.can.contains(Capabilities::EXTENTS), form != ReplyForm::Simple);
        block_on(async {
            for (start, len) in [(0, 512), (512, 65536), (4096, 256 << 10), (0, 1 << 20)] {
                let bytes = read(&*store, start, len).await.unwrap();
                assert!(bytes.into_iter().eq(expected(start, len as u64)), "{form:?} {start}+{len}");
            }
            write(&*store, 0, &vec![1; 600 << 10], Flags::FUA).await.unwrap();
            bare(&*store, Op::Flush, 0, 0).await.unwrap();
            bare(&*store, Op::Discard, 0, 4096).await.unwrap();
            bare(&*store, Op::WriteZeroes, 0, 4096).await.unwrap();
            assert_eq!(read(&*store, 0, 0).await, Ok(Vec::new()));
            let extents = store.extents(ByteRange::new(0, 8192), 8).await.unwrap();
            let extent = |start, kind| Extent { range: ByteRange::new(start, 4096), kind };
            if form == ReplyForm::Simple {
                assert_eq!(extents.as_slice().len(), 1);
            } else {
                assert_eq!(extents.as_slice(), [extent(0, ExtentKind::Data), extent(4096, ExtentKind::Hole)]);
            }
        });
        assert_eq!(server.accepted(), 1);
        drop(store);
    }
}

#[test]
fn replies_may_come_in_any_order() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Structured), |_, mut peer| {
        let mut held = Vec::new();
        while let Some((head, _)) = peer.next() {
            held.push(head);
            if held.len() == 16 {
                for head in held.drain(..).rev() {
                    let answer = peer.good_answer(&head);
                    peer.send(&answer);
                }
            }
        }
    });
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    std::thread::scope(|scope| {
        for number in 0..16u64 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..20 {
                    let bytes = block_on(read(&**store, number * 4096, 4096)).unwrap();
                    assert!(bytes.into_iter().eq(expected(number * 4096, 4096)));
                }
            });
        }
    });
}

#[test]
fn more_calls_than_the_queue_holds_all_end() {
    let queues = queues();
    let server = Server::start(offer(ReplyForm::Simple), |_, mut peer| peer.serve_well());
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    let many = 3000u64;
    let ended = block_on(async {
        let mut calls: Vec<_> =
            (0..many).map(|n| Box::pin(read(&*store, n % 2048 * 512, 512))).map(Some).collect();
        let mut ended = 0;
        std::future::poll_fn(|cx| {
            for call in &mut calls {
                if let Some(future) = call
                    && let Poll::Ready(bytes) = future.as_mut().poll(cx)
                {
                    bytes.unwrap();
                    ended += 1;
                    *call = None;
                }
            }
            if ended == many { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        ended
    });
    assert_eq!(ended, many);
}

#[test]
fn i7_fua_without_the_servers_help_is_a_write_and_a_flush() {
    let queues = queues();
    let mut lean = offer(ReplyForm::Simple);
    lean.export.flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_there = seen.clone();
    let server = Server::start(lean, move |_, mut peer| {
        while let Some((head, _)) = peer.next() {
            seen_there.lock().unwrap().push((head.command, head.flags, head.length));
            let answer = peer.good_answer(&head);
            peer.send(&answer);
        }
    });
    let store = NbdStore::connect(&server.uri, queues.handles(), patient()).unwrap();
    block_on(async {
        write(&*store, 0, &[1; 512], Flags::FUA).await.unwrap();
        bare(&*store, Op::WriteZeroes, 0, 512 << 10).await.unwrap();
        assert_eq!(bare(&*store, Op::Discard, 0, 512).await, Err(ErrorKind::Unsupported));
    });
    let none = CommandFlags::empty();
    let quarter = 256 << 10;
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (Command::Write, none, 512),
            (Command::Flush, none, 0),
            (Command::Write, none, quarter),
            (Command::Write, none, quarter)
        ]
    );
}

#[test]
fn exports_of_other_shapes_are_understood_or_refused_by_name() {
    let queues = queues();
    let connect = |change: &dyn Fn(&mut scripted::Offer)| {
        let mut offered = offer(ReplyForm::Simple);
        change(&mut offered);
        let server = Server::start(offered, |_, mut peer| peer.serve_well());
        NbdStore::connect(&server.uri, queues.handles(), hasty()).map(|store| store.geometry())
    };
    let shape = connect(&|offer| {
        offer.export.size = 1_000_001;
        offer.export.blocks.minimum = 4096;
        offer.export.flags |= TransmissionFlags::READ_ONLY;
    })
    .unwrap();
    // What is left of a block at the end cannot be asked for.
    assert_eq!((shape.size, shape.block_size, shape.read_only), (999_424, BlockSize::B4096, true));
    let refused = connect(&|offer| {
        offer.export.blocks = bowline_nbd::BlockSizes { minimum: 65536, preferred: 65536, maximum: 65536 };
    });
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("65536"), "{refused}");
}

#[test]
fn what_cannot_be_connected_to_is_named() {
    let queues = queues();
    let connect = |uri: &str| {
        let uri: NbdUri = uri.parse().unwrap();
        NbdStore::connect(&uri, queues.handles(), hasty()).err().unwrap()
    };
    let tls = connect("nbds://localhost/disk");
    assert_eq!(tls.kind(), ErrorKind::Unsupported);
    assert!(tls.to_string().contains("TLS"), "{tls}");
    let missing = connect("nbd+unix:///?socket=/nonexistent/socket");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("/nonexistent/socket"), "{missing}");
    // A port that nothing listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = connect(&format!("nbd://127.0.0.1:{free}/"));
    assert!(refused.to_string().contains(&free.to_string()), "{refused}");
    let server = Server::raw(|_, _| {});
    let nowhere = NbdStore::connect(&server.uri, &[], hasty()).err().unwrap();
    assert_eq!(nowhere.kind(), ErrorKind::Invalid);
}
