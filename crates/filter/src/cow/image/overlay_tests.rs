//! Tokens of an overlay by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Token;
use crate::cow::history::History;

/// A reader that was slow while many blocks were replaced ends on a thread with a small stack.
#[test]
fn a_long_list_of_tokens_goes_without_a_stack_as_long() {
    let (history, retired) = (History::new(), Arc::new(AtomicUsize::new(0)));
    let first = Token::new(&history, &retired);
    let mut now = first.clone();
    for _ in 0..200_000 {
        let next = Token::new(&history, &retired);
        let _ = now.next.set(next.clone());
        now = next;
    }
    let weak = Arc::downgrade(&now);
    drop(now);
    assert!(weak.upgrade().is_some(), "who came first keeps all that came later");
    let ended = std::thread::Builder::new().stack_size(128 << 10).spawn(move || drop(first));
    assert!(ended.is_ok_and(|ended| ended.join().is_ok()));
    assert!(weak.upgrade().is_none());
    assert_eq!(retired.load(Ordering::Relaxed), 0);
}
