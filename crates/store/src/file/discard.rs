//! Discarding on block devices that do not punch holes. The kernel has that as an `ioctl` only, which waits for the
//! device: so it is made on a thread of its own.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use bowline_block::{ByteRange, Error, ErrorKind, Result};
use bowline_io::File;

#[derive(Default)]
struct Ending {
    result: Option<Result<()>>,
    waiting: Option<Waker>,
}

/// Discards a range, if the device can. A discard is a hint: one that cannot keeps its bytes.
pub(super) async fn discard(file: &Arc<File>, range: ByteRange) -> Result<()> {
    let ending = Arc::new(Mutex::new(Ending::default()));
    let (told, file) = (ending.clone(), file.clone());
    let work = move || {
        let result = bowline_kernel::block::discard(&*file, range);
        let mut ending = told.lock().unwrap_or_else(PoisonError::into_inner);
        ending.result = Some(result);
        if let Some(waiting) = ending.waiting.take() {
            waiting.wake();
        }
    };
    std::thread::Builder::new()
        .name("discard".to_owned())
        .spawn(work)
        .map_err(|error| Error::from_io("cannot start the thread of a discard", error))?;
    let ended = poll_fn(|cx| {
        let mut ending = ending.lock().unwrap_or_else(PoisonError::into_inner);
        match ending.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                ending.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    });
    match ended.await {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Wake};
    use std::thread::Thread;

    use super::*;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// The answer of the kernel comes back from the other thread, and names what was asked for.
    #[test]
    fn what_the_kernel_refuses_is_told() {
        let file = Arc::new(File::new(tempfile::tempfile().unwrap().into()));
        let mut asked = pin!(discard(&file, ByteRange::new(0, 4096)));
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut cx = Context::from_waker(&waker);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let result = loop {
            match asked.as_mut().poll(&mut cx) {
                Poll::Ready(result) => break result,
                Poll::Pending => std::thread::park_timeout(std::time::Duration::from_secs(1)),
            }
            assert!(std::time::Instant::now() < end, "it does not come back");
        };
        let error = result.unwrap_err().to_string();
        assert!(error.contains("discard"), "{error}");
    }
}
