//! A number that grows, and tasks of one core that wait for it to grow.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

/// Counts changes. Stays on its core.
#[derive(Debug, Default)]
pub(super) struct Changes {
    version: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Changes {
    pub(super) fn version(&self) -> u64 {
        self.version.get()
    }

    /// Counts a change and wakes whoever waits.
    pub(super) fn note(&self) {
        self.version.set(self.version.get() + 1);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until the version is another than `seen`; says which it is.
    pub(super) async fn after(&self, seen: u64) -> u64 {
        std::future::poll_fn(|context| {
            let version = self.version.get();
            if version != seen {
                return Poll::Ready(version);
            }
            let mut waiting = self.waiting.borrow_mut();
            // A task that waits anew, having dropped its last wait, is kept once.
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_change_before_the_wait_is_seen_and_one_during_it_wakes() {
        let changes = Changes::default();
        assert_eq!(changes.after(0).now_or_never(), None);
        changes.note();
        assert_eq!(changes.after(0).now_or_never(), Some(1));
        assert_eq!(changes.after(1).now_or_never(), None);
        let (value, ()) = heddle_runtime::run_single(async {
            futures::join!(changes.after(1), async { changes.note() })
        })
        .unwrap();
        assert_eq!(value, 2);
    }

    #[test]
    fn waits_that_were_dropped_take_no_room() {
        let changes = Changes::default();
        let mut context = std::task::Context::from_waker(Waker::noop());
        for _ in 0..10 {
            assert!(Box::pin(changes.after(0)).poll_unpin(&mut context).is_pending());
        }
        assert_eq!(changes.waiting.borrow().len(), 1);
    }
}
