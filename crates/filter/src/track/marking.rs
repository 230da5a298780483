//! Setting bits: once the intents of their regions are durable.

use std::future::poll_fn;
use std::task::Poll;

use bowline_block::{ByteRange, HoldFuture, Verdict};

use super::current::Current;
use super::durable::Durable;
use super::intents::Wanted;
use super::sync::{Ordering, fence};
use super::tracker::Inner;
use crate::cow::wait::bounded;

#[cfg(all(test, not(feature = "shuttle")))]
thread_local! {
    /// Done once by this thread's next mark, between its look at the epoch and its bit.
    pub(crate) static AMID_A_MARK: std::cell::RefCell<Option<Box<dyn FnOnce()>>> = const {
        std::cell::RefCell::new(None)
    };
}

impl Inner {
    /// Marks a range inside the gate, or says what to wait for first. The range lies on the device.
    pub(crate) fn mark_inside(&self, range: ByteRange) -> Verdict<'_> {
        let current = self.current.load();
        if !current.allows(range) {
            drop(current);
            return self.hold(range);
        }
        current.map.set(current.shape.blocks.touched_by(range));
        self.look_ahead(&current, range);
        Verdict::Pass
    }

    /// Marks a range from outside the gate, if nothing is to be waited for.
    pub(crate) fn mark_now(&self, range: ByteRange) -> bool {
        if self.closed.load(Ordering::SeqCst) {
            self.degrade("something was marked after the tracker was saved");
        }
        loop {
            let current = self.current.load_full();
            if !current.allows(range) {
                return false;
            }
            #[cfg(all(test, not(feature = "shuttle")))]
            AMID_A_MARK.take().into_iter().for_each(|then| then());
            current.map.set(current.shape.blocks.touched_by(range));
            // A take may have come between: pairs with the fence there.
            fence(Ordering::SeqCst);
            if std::sync::Arc::ptr_eq(&current, &self.current.load()) {
                self.look_ahead(&current, range);
                return true;
            }
        }
    }

    pub(crate) async fn mark(&self, range: ByteRange) {
        while !self.mark_now(range) {
            self.wait_for_intents(range).await;
        }
    }

    pub(crate) fn mark_blocking(&self, range: ByteRange) {
        while !self.mark_now(range) {
            let Some(durable) = &self.durable else { return };
            let allowed = |_: &mut _| self.want(durable, range);
            if !self.wait_for(durable.hold, allowed) {
                self.too_late(durable);
            }
        }
    }

    fn hold(&self, range: ByteRange) -> Verdict<'_> {
        if let Some(durable) = &self.durable {
            self.want(durable, range);
        }
        let hold: HoldFuture<'_> = Box::pin(self.wait_for_intents(range));
        Verdict::Hold(hold)
    }

    /// Asks for the intents of a range, unless they are durable already, which it tells.
    fn want(&self, durable: &Durable, range: ByteRange) -> bool {
        let current = self.current.load();
        let Some(intents) = &current.intents else { return true };
        let run = current.shape.regions.touched_by(range);
        if intents.allows(run) {
            return true;
        }
        let run = intents.wanted(run, current.reach(run.first));
        durable.desk.want(Wanted { generation: current.generation, epoch: current.epoch, run });
        false
    }

    fn look_ahead(&self, current: &Current, range: ByteRange) {
        let (Some(intents), Some(durable)) = (&current.intents, &self.durable) else { return };
        let regions = current.shape.regions;
        let run = regions.touched_by(range);
        let at_border = |byte: u64| byte & (regions.bytes() - 1) == 0;
        if !at_border(range.start()) && !at_border(range.end()) && run.end <= run.first + 1 {
            return;
        }
        let reach = current.reach(range.end() >> regions.shift());
        if let Some(run) = intents.ahead(run.end, reach) {
            durable.desk.want(Wanted { generation: current.generation, epoch: current.epoch, run });
        }
    }

    async fn wait_for_intents(&self, range: ByteRange) {
        let Some(durable) = &self.durable else { return };
        let mut seen = None;
        let wait = poll_fn(|cx| {
            if self.current.load().allows(range) {
                return Poll::Ready(());
            }
            durable.desk.wait(cx.waker());
            let round = durable.desk.rounds();
            if seen.replace(round) != Some(round) && self.want(durable, range) {
                return Poll::Ready(());
            }
            Poll::Pending
        });
        if bounded(durable.hold, wait).await.is_none() {
            self.too_late(durable);
        }
    }

    #[cold]
    fn too_late(&self, durable: &Durable) {
        self.degrade(&format!("intents were not durable within {:?}", durable.hold));
    }

    /// Waits until what was saved is taken back.
    pub(crate) async fn wait_for_revocation(&self) {
        let Some(durable) = &self.durable else { return };
        let wait = poll_fn(|cx| {
            durable.desk.wait(cx.waker());
            if self.closed.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(()) }
        });
        if bounded(durable.hold, wait).await.is_none() {
            self.closed.store(false, Ordering::SeqCst);
            self.look_closer();
        }
    }
}
