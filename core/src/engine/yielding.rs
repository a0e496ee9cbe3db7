//! Letting other tasks of the core run, without knowing the executor.

use std::future::{Future, poll_fn};
use std::task::Poll;

/// Ready at the second poll; wakes itself, so the task goes to the end of its queue.
pub(crate) fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}
