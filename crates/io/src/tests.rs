use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::ByteRange;

use super::*;

fn engines() -> Vec<EngineKind> {
    match probe() {
        (EngineKind::Uring, _) => vec![EngineKind::Uring, EngineKind::Sync],
        (EngineKind::Sync, why) => {
            println!("io_uring is refused here ({why:?}): only the sync engine is tested");
            vec![EngineKind::Sync]
        }
    }
}

fn file(bytes: u64) -> Arc<File> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes).unwrap();
    Arc::new(File::new(OwnedFd::from(file)))
}

#[test]
fn both_engines_write_sync_punch_and_read_back() {
    for engine in engines() {
        let queues = Queues::start(QueuesConfig { count: 2, engine }).unwrap();
        let file = file(1 << 20);
        for handle in queues.handles() {
            let file = file.clone();
            let read = handle
                .run(move || async move {
                    let mut buf = alloc(8192);
                    buf.fill(0x5a);
                    let write = FileOp::Write { offset: 4096, skip: 0, durable: true };
                    let (written, buf) = submit(&file, write, buf).await;
                    assert_eq!(written.unwrap(), 8192, "{engine}");
                    submit(&file, FileOp::Sync, bowline_block::Buf::empty()).await.0.unwrap();
                    let hole = FileOp::PunchHole(ByteRange::new(8192, 4096));
                    submit(&file, hole, bowline_block::Buf::empty()).await.0.unwrap();
                    let (read, buf) = submit(&file, FileOp::Read { offset: 4096, skip: 0 }, buf).await;
                    assert_eq!(read.unwrap(), 8192);
                    buf.to_vec()
                })
                .unwrap();
            assert!(read[..4096].iter().all(|&byte| byte == 0x5a), "{engine}");
            assert!(read[4096..].iter().all(|&byte| byte == 0), "{engine}");
        }
    }
}

#[test]
fn more_operations_than_the_engine_holds_all_end() {
    for engine in engines() {
        let queues = Queues::start(QueuesConfig { count: 1, engine }).unwrap();
        let file = file(4 << 20);
        let done = queues.handles()[0]
            .run(move || async move {
                let many: Vec<_> = (0..1000u64)
                    .map(|n| {
                        let mut buf = alloc(4096);
                        buf.fill(u8::try_from(n % 251).unwrap());
                        submit(&file, FileOp::Write { offset: n * 4096, skip: 0, durable: false }, buf)
                    })
                    .collect();
                let mut done = 0;
                for op in many {
                    done += op.await.0.unwrap();
                }
                for n in [0u64, 255, 256, 999] {
                    let (_, buf) =
                        submit(&file, FileOp::Read { offset: n * 4096, skip: 0 }, alloc(4096)).await;
                    assert!(buf.iter().all(|&byte| u64::from(byte) == n % 251));
                }
                done
            })
            .unwrap();
        assert_eq!(done, 1000 * 4096, "{engine}");
    }
}

#[test]
fn an_abandoned_operation_keeps_its_buffer_until_it_ends() {
    for engine in engines() {
        let queues = Queues::start(QueuesConfig { count: 1, engine }).unwrap();
        let file = file(1 << 20);
        queues.handles()[0]
            .run(move || async move {
                for n in 0..200 {
                    let read = submit(&file, FileOp::Read { offset: n * 4096, skip: 0 }, alloc(4096));
                    drop(read);
                }
                let (read, _) = submit(&file, FileOp::Read { offset: 0, skip: 0 }, alloc(4096)).await;
                assert_eq!(read.unwrap(), 4096);
            })
            .unwrap();
    }
}

#[test]
fn sleeps_end_in_order_and_timeouts_cut_short() {
    let queues = Queues::start(QueuesConfig { count: 1, engine: EngineKind::Sync }).unwrap();
    let begin = Instant::now();
    let late = queues.handles()[0]
        .run(|| async {
            let late = timeout(Duration::from_millis(20), sleep(Duration::from_secs(60))).await;
            let early = timeout(Duration::from_secs(60), sleep(Duration::from_millis(20))).await;
            (late, early)
        })
        .unwrap();
    assert_eq!(late, (None, Some(())));
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(40) && took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn a_socket_wakes_its_task_and_a_full_one_is_waited_for() {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
    use std::future::poll_fn;

    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    let queues = Queues::start(QueuesConfig { count: 2, engine: EngineKind::Sync }).unwrap();
    const TOTAL: usize = 8 << 20;
    queues.handles()[0].spawn(move || async move {
        let ready = Readiness::register(&near).unwrap();
        let mut sent = 0;
        while sent < TOTAL {
            poll_fn(|cx| ready.poll_writable(cx)).await;
            match send(&near, &[7u8; 65536][..(TOTAL - sent).min(65536)], SendFlags::NOSIGNAL) {
                Ok(bytes) => sent += bytes,
                Err(_) => ready.clear_writable(),
            }
        }
    });
    let received = queues.handles()[1]
        .run(move || async move {
            let ready = Readiness::register(&far).unwrap();
            let mut received = 0;
            let mut room = vec![0u8; 65536];
            while received < TOTAL {
                poll_fn(|cx| ready.poll_readable(cx)).await;
                match recv(&far, &mut room[..], RecvFlags::empty()) {
                    Ok((_, 0)) => break,
                    Ok((_, bytes)) => received += bytes,
                    Err(_) => ready.clear_readable(),
                }
            }
            received
        })
        .unwrap();
    assert_eq!(received, TOTAL);
}

#[test]
fn a_closed_file_is_let_go_by_the_ring() {
    for engine in engines() {
        let queues = Queues::start(QueuesConfig { count: 1, engine }).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let file = Arc::new(File::new(writer));
        queues.handles()[0]
            .run(move || async move {
                // A pipe refuses the operation, but the ring has registered it by then.
                let _ = submit(&file, FileOp::Sync, bowline_block::Buf::empty()).await;
            })
            .unwrap();
        // With every writer closed, the pipe is at its end; a registration left behind would keep it open.
        let end = std::thread::spawn(move || rustix::io::read(&reader, &mut [0u8; 1]));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !end.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(end.is_finished(), "{engine}: the file is still open");
        assert_eq!(end.join().unwrap().unwrap(), 0);
    }
}

#[test]
fn a_panicking_task_ends_alone() {
    let queues = Queues::start(QueuesConfig { count: 1, engine: EngineKind::Sync }).unwrap();
    queues.handles()[0].spawn(|| async { panic!("planted") });
    assert!(queues.handles()[0].run(|| async { panic!("planted, and waited for") }).is_err());
    assert_eq!(queues.handles()[0].run(|| async { 7 }).unwrap(), 7);
}

#[test]
fn a_queue_ends_only_when_its_operations_have() {
    for engine in engines() {
        let queues = Queues::start(QueuesConfig { count: 1, engine }).unwrap();
        let file = file(1 << 20);
        let written = file.clone();
        queues.handles()[0].spawn(move || async move {
            for n in 0..64 {
                let mut buf = alloc(4096);
                buf.fill(3);
                drop(submit(&file, FileOp::Write { offset: n * 4096, skip: 0, durable: false }, buf));
            }
        });
        drop(queues);
        let mut read = vec![0; 64 * 4096];
        rustix::io::pread(&*written, &mut read[..], 0).unwrap();
        assert!(read.iter().all(|&byte| byte == 3), "{engine}");
    }
}

/// I1: a disk that hangs costs who uses it. The reads of an eventfd hang until it is signalled.
#[test]
fn i1_a_file_that_hangs_holds_up_no_other() {
    use rustix::event::{EventfdFlags, eventfd};
    if !engines().contains(&EngineKind::Uring) {
        return;
    }
    let queues = Queues::start(QueuesConfig { count: 1, engine: EngineKind::Uring }).unwrap();
    let bell = eventfd(0, EventfdFlags::SEMAPHORE | EventfdFlags::CLOEXEC).unwrap();
    let signal = rustix::io::dup(&bell).unwrap();
    let (hung, good) = (Arc::new(File::new(bell)), file(1 << 20));
    let read = queues.handles()[0]
        .run(move || async move {
            let stuck: Vec<_> =
                (0..400).map(|_| submit(&hung, FileOp::Read { offset: 0, skip: 0 }, alloc(8))).collect();
            let read = submit(&good, FileOp::Read { offset: 4096, skip: 0 }, alloc(4096));
            let read = timeout(Duration::from_secs(20), read).await.map(|(read, _)| read.unwrap());
            // Nobody waits for them any more: those that have not begun are never begun.
            drop(stuck);
            read
        })
        .unwrap();
    assert_eq!(read, Some(4096));
    rustix::io::write(&signal, &64u64.to_ne_bytes()).unwrap();
    let begin = Instant::now();
    drop(queues);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn a_queue_that_has_ended_says_so() {
    let queues = Queues::start(QueuesConfig { count: 1, engine: EngineKind::Sync }).unwrap();
    let handle = queues.handles()[0].clone();
    let late =
        handle.run_within(Duration::from_millis(10), || sleep(Duration::from_millis(200))).unwrap_err();
    assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
    drop(queues);
    assert!(handle.run(|| async { 7 }).is_err());
}
