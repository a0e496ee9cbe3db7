//! A condition that tasks of one core wait for.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};

/// Wakes every waiter on each notification; waiters look at their condition again.
#[derive(Default)]
pub(crate) struct Signal {
    wakers: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Ready once `condition` holds; looked at now and after every [`Signal::notify`].
    pub(crate) fn wait_until(
        &self,
        mut condition: impl FnMut() -> bool,
    ) -> impl Future<Output = ()> {
        poll_fn(move |context| {
            if condition() {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Lets every waiter look again.
    pub(crate) fn notify(&self) {
        // Taken out first: a waker may run a waiter that registers again at once.
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        for waker in wakers {
            waker.wake();
        }
    }
}
