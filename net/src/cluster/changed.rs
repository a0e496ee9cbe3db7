//! Waiting on one core for something that another task of it changes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Those who wait for a change.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    waiting: RefCell<Vec<Waker>>,
}

impl Changed {
    /// Makes everyone look again.
    pub(crate) fn tell(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits until `look` sees what is waited for; it is asked at once and after every change.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| match look() {
            Some(seen) => Poll::Ready(seen),
            None => {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use futures::executor::LocalPool;
    use futures::task::LocalSpawnExt;

    use super::*;

    #[test]
    fn everyone_who_waits_hears_of_the_change_that_they_wait_for() {
        let (value, changed) = (Rc::new(Cell::new(0)), Rc::new(Changed::default()));
        let seen = Rc::new(Cell::new(0));
        let mut pool = LocalPool::new();
        for wanted in [1, 2, 2] {
            let (value, changed, seen) = (Rc::clone(&value), Rc::clone(&changed), Rc::clone(&seen));
            let wait = async move {
                changed.until(|| (value.get() >= wanted).then_some(())).await;
                seen.set(seen.get() + 1);
            };
            pool.spawner().spawn_local(wait).unwrap();
        }
        for (now, expected) in [(0, 0), (1, 1), (1, 1), (2, 3)] {
            value.set(now);
            changed.tell();
            pool.run_until_stalled();
            assert_eq!(seen.get(), expected, "at {now}");
        }
    }
}
