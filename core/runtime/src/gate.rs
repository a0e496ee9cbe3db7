//! A counter of permits for one core: takers wait in order while none is left.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Permits shared by the tasks of one core.
#[derive(Debug)]
pub(crate) struct Gate {
    state: RefCell<GateState>,
}

#[derive(Debug)]
struct GateState {
    available: usize,
    closed: bool,
    next_ticket: u64,
    // The ticket, and the waker until it is woken.
    waiting: VecDeque<(u64, Option<Waker>)>,
}

/// The gate was closed: whatever it guarded is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GateClosed;

impl Gate {
    pub(crate) fn new(permits: usize) -> Self {
        Self {
            state: RefCell::new(GateState {
                available: permits,
                closed: false,
                next_ticket: 0,
                waiting: VecDeque::new(),
            }),
        }
    }

    /// Takes one permit, first come first served; it is given back with [`Gate::give_back`].
    pub(crate) fn take(&self) -> Take<'_> {
        Take { gate: self, ticket: None }
    }

    pub(crate) fn give_back(&self, count: usize) {
        let mut state = self.state.borrow_mut();
        state.available += count;
        state.wake_first();
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        for (_, waker) in &mut state.waiting {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    /// Takes one permit that is given back when the guard is dropped.
    pub(crate) async fn permit(self: &Rc<Self>) -> Permit {
        // A gate that hands out guards is never closed.
        let _ = self.take().await;
        Permit { gate: Rc::clone(self) }
    }
}

impl GateState {
    // Only the head may pass, and it wakes its follower: no task can overtake, none is forgotten.
    fn wake_first(&mut self) {
        if self.available > 0
            && let Some((_, waker)) = self.waiting.front_mut()
            && let Some(waker) = waker.take()
        {
            waker.wake();
        }
    }
}

/// Waits for one permit.
pub(crate) struct Take<'a> {
    gate: &'a Gate,
    ticket: Option<u64>,
}

impl Future for Take<'_> {
    type Output = Result<(), GateClosed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.gate.state.borrow_mut();
        if state.closed {
            return Poll::Ready(Err(GateClosed));
        }
        let at_head = match self.ticket {
            None => state.waiting.is_empty(),
            Some(ticket) => state.waiting.front().is_some_and(|(head, _)| *head == ticket),
        };
        if at_head && state.available > 0 {
            state.available -= 1;
            if self.ticket.is_some() {
                state.waiting.pop_front();
            }
            state.wake_first();
            drop(state);
            self.ticket = None;
            return Poll::Ready(Ok(()));
        }
        let waker = context.waker().clone();
        match self.ticket {
            Some(ticket) => {
                if let Ok(place) = state.waiting.binary_search_by_key(&ticket, |(other, _)| *other)
                {
                    state.waiting[place].1 = Some(waker);
                }
            }
            None => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                state.waiting.push_back((ticket, Some(waker)));
                drop(state);
                self.ticket = Some(ticket);
            }
        }
        Poll::Pending
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut state = self.gate.state.borrow_mut();
            if let Ok(place) = state.waiting.binary_search_by_key(&ticket, |(other, _)| *other) {
                state.waiting.remove(place);
            }
            state.wake_first();
        }
    }
}

/// A permit that goes back by itself.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Rc<Gate>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.give_back(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn permits_are_given_in_order_and_a_cancelled_waiter_is_skipped() {
        let gate = Gate::new(1);
        assert_eq!(gate.take().now_or_never(), Some(Ok(())));
        let waker = futures::task::noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut first = Box::pin(gate.take());
        let mut second = Box::pin(gate.take());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        gate.give_back(1);
        assert!(second.as_mut().poll(&mut context).is_pending(), "the second must not overtake");
        drop(first);
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(Ok(())));
        assert!(gate.state.borrow().waiting.is_empty());
    }

    #[test]
    fn a_woken_waiter_that_is_dropped_wakes_the_next() {
        let gate = Gate::new(0);
        let (waker, count) = futures_test_waker();
        let mut context = Context::from_waker(&waker);
        let mut first = Box::pin(gate.take());
        let mut second = Box::pin(gate.take());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        gate.give_back(1);
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
        drop(first);
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 2);
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    }

    #[test]
    fn closing_ends_every_wait() {
        let gate = Gate::new(0);
        let waker = futures::task::noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut waiting = Box::pin(gate.take());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        gate.close();
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(Err(GateClosed)));
        assert_eq!(gate.take().now_or_never(), Some(Err(GateClosed)));
    }

    struct Counter(std::sync::Arc<std::sync::atomic::AtomicUsize>);

    impl futures::task::ArcWake for Counter {
        fn wake_by_ref(counter: &std::sync::Arc<Self>) {
            counter.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    fn futures_test_waker() -> (Waker, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = std::sync::Arc::new(Counter(std::sync::Arc::clone(&count)));
        (futures::task::waker(counter), count)
    }
}
