mod hostile;
mod lost;
mod peers;
mod scripted;
mod served;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bowline_block::{Buf, ByteRange, ErrorKind, Flags, Io, Op, Request, Store};
use bowline_io::{EngineKind, Queues, QueuesConfig};

use super::*;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread; gives up after half a minute, so that nothing here can hang.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        assert!(!left.is_zero(), "it did not end within 30 seconds");
        std::thread::park_timeout(left);
    }
}

fn queues() -> Queues {
    Queues::start(QueuesConfig { count: 1, engine: EngineKind::Sync }).unwrap()
}

/// Short limits, so that what takes too long does so quickly.
fn hasty() -> NbdOptions {
    NbdOptions {
        connect_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_millis(400),
        reconnect_wait: Duration::from_secs(2),
        backoff_max: Duration::from_millis(100),
    }
}

fn patient() -> NbdOptions {
    NbdOptions { request_timeout: Duration::from_secs(20), ..hasty() }
}

type Ended<T = Vec<u8>> = std::result::Result<T, ErrorKind>;

async fn read(store: &dyn Store, start: u64, len: usize) -> Ended {
    let request = Request::new(Op::Read, ByteRange::new(start, len as u64));
    let done = store.submit(Io::new(request, Buf::zeroed(len))).await;
    done.result.map(|()| done.data.to_vec()).map_err(|error| error.kind())
}

async fn write(store: &dyn Store, start: u64, bytes: &[u8], flags: Flags) -> Ended<()> {
    let request = Request::new(Op::Write, ByteRange::new(start, bytes.len() as u64)).with_flags(flags);
    store.submit(Io::new(request, Buf::copy_of(bytes))).await.result.map_err(|error| error.kind())
}

async fn bare(store: &dyn Store, op: Op, start: u64, len: u64) -> Ended<()> {
    let request = Request::new(op, ByteRange::new(start, len));
    store.submit(Io::bare(request)).await.result.map_err(|error| error.kind())
}
