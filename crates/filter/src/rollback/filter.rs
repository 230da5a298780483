//! The filter: which requests concern what is still to be put back.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bowline_block::{Filter, Flags, Op, Request, Store, Verdict};

use super::core::{Core, Stage};

impl Filter for Core {
    fn kind(&self) -> &'static str {
        "rollback"
    }

    #[inline]
    fn ask<'a>(&'a self, request: &Request, _below: &'a dyn Store) -> Verdict<'a> {
        match self.stage() {
            Stage::Running => {}
            Stage::Over => return Verdict::Pass,
            // Nothing changes until it is known, and durable, what is to be put back.
            Stage::Starting if request.op.changes_data() => return Verdict::Hold(Box::pin(self.started())),
            Stage::Starting => return Verdict::Pass,
        }
        let concerned = match request.op {
            Op::Flush => self.has_unconfirmed(),
            Op::Read => self.pending().any(request.range),
            _ => {
                self.pending().any(request.range)
                    || (request.flags.contains(Flags::FUA) && self.has_unconfirmed())
            }
        };
        match self.this() {
            Some(this) if concerned => {
                let to: Arc<dyn Store> = this;
                Verdict::Redirect { to, offset: request.range.start() }
            }
            _ => Verdict::Pass,
        }
    }

    /// What lies below does not say what the device holds there.
    fn hides(&self, range: bowline_block::ByteRange) -> bool {
        self.stage() == Stage::Running && self.pending().any(range)
    }

    fn detached(&self) {
        if self.stage() != Stage::Over && !self.pending().is_empty() {
            self.end("the device was removed");
        }
    }
}

impl Core {
    async fn started(&self) {
        poll_fn(|cx| {
            let mut waiting = self.waiting();
            if self.stage() != Stage::Starting {
                return Poll::Ready(());
            }
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
