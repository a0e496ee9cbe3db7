//! Room for calls on a link: so many at once, of so many bytes; who finds none waits in order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What a link may hold at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoomLimits {
    pub(super) calls: usize,
    pub(super) bytes: usize,
    pub(super) waiting: usize,
}

/// Counts the calls of a link.
#[derive(Debug)]
pub(super) struct Room {
    limits: RoomLimits,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: usize,
    bytes: usize,
    closed: bool,
    next_ticket: u64,
    // In their order; only the first may go in.
    waiting: BTreeMap<u64, Waker>,
}

impl State {
    fn wake_first(&self) {
        if let Some((_, waker)) = self.waiting.first_key_value() {
            waker.wake_by_ref();
        }
    }
}

/// Why nobody may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoRoom {
    /// The link has ended.
    Closed,
    /// Too many wait already.
    Crowded,
}

/// One call's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Rc<Room>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(limits: RoomLimits) -> Rc<Self> {
        Rc::new(Self { limits, state: RefCell::default() })
    }

    /// A place for a call of `bytes`, in the order of asking. One call always fits.
    ///
    /// Errors: [`NoRoom`]. Dropping the future gives up the turn.
    pub(super) fn take(self: &Rc<Self>, bytes: usize) -> Take {
        Take { room: Rc::clone(self), bytes, ticket: None }
    }

    /// Wakes everybody who waits; nobody gets in any more.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.state.borrow_mut();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    /// Calls that have a place.
    pub(super) fn calls(&self) -> usize {
        self.state.borrow().calls
    }

    /// Bytes of those calls.
    pub(super) fn bytes(&self) -> usize {
        self.state.borrow().bytes
    }

    fn fits(&self, state: &State, bytes: usize) -> bool {
        let has_bytes = state.bytes + bytes <= self.limits.bytes || state.calls == 0;
        state.calls < self.limits.calls && has_bytes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.state.borrow_mut();
        state.calls -= 1;
        state.bytes -= self.bytes;
        state.wake_first();
    }
}

/// Waits for a place.
#[derive(Debug)]
pub(super) struct Take {
    room: Rc<Room>,
    bytes: usize,
    ticket: Option<u64>,
}

impl Future for Take {
    type Output = Result<Place, NoRoom>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.room.state.borrow_mut();
        if state.closed {
            this.ticket = None;
            return Poll::Ready(Err(NoRoom::Closed));
        }
        let first = state.waiting.first_key_value().map(|(ticket, _)| *ticket);
        let is_next = first.is_none() || first == this.ticket;
        if is_next && this.room.fits(&state, this.bytes) {
            if let Some(ticket) = this.ticket.take() {
                state.waiting.remove(&ticket);
            }
            state.calls += 1;
            state.bytes += this.bytes;
            // There may be room for another one.
            state.wake_first();
            let room = Rc::clone(&this.room);
            return Poll::Ready(Ok(Place { room, bytes: this.bytes }));
        }
        let ticket = match this.ticket {
            Some(ticket) => ticket,
            None if state.waiting.len() >= this.room.limits.waiting => {
                return Poll::Ready(Err(NoRoom::Crowded));
            }
            None => {
                state.next_ticket += 1;
                state.next_ticket
            }
        };
        this.ticket = Some(ticket);
        state.waiting.insert(ticket, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Take {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut state = self.room.state.borrow_mut();
            state.waiting.remove(&ticket);
            state.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    const LIMITS: RoomLimits = RoomLimits { calls: 3, bytes: 100, waiting: 4 };

    fn poll(take: &mut Pin<&mut Take>) -> Poll<Result<Place, NoRoom>> {
        take.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn taken(room: &Rc<Room>, bytes: usize) -> Place {
        let mut take = pin!(room.take(bytes));
        let Poll::Ready(Ok(place)) = poll(&mut take) else { panic!("there is room") };
        place
    }

    #[test]
    fn calls_and_bytes_are_bounded_and_given_back() {
        let room = Room::new(LIMITS);
        let places = [taken(&room, 40), taken(&room, 40)];
        assert!(poll(&mut pin!(room.take(21))).is_pending());
        let third = taken(&room, 20);
        assert!(poll(&mut pin!(room.take(0))).is_pending(), "three calls are enough");
        assert_eq!((room.calls(), room.bytes()), (3, 100));
        drop((places, third));
        assert_eq!((room.calls(), room.bytes()), (0, 0));
    }

    #[test]
    fn a_call_larger_than_the_room_goes_alone() {
        let room = Room::new(LIMITS);
        let small = taken(&room, 1);
        let mut large = pin!(room.take(1_000));
        assert!(poll(&mut large).is_pending());
        drop(small);
        let Poll::Ready(Ok(place)) = poll(&mut large) else { panic!("it is alone") };
        assert!(poll(&mut pin!(room.take(1))).is_pending());
        drop(place);
        taken(&room, 1);
    }

    #[test]
    fn nobody_overtakes_and_a_turn_that_is_given_up_passes_on() {
        let room = Room::new(LIMITS);
        let place = taken(&room, 60);
        let mut second = pin!(room.take(60));
        assert!(poll(&mut second).is_pending());
        let mut third = Box::pin(room.take(60));
        assert!(third.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut fourth = pin!(room.take(10));
        assert!(poll(&mut fourth).is_pending(), "it would fit, but is not next");
        drop(place);
        let Poll::Ready(Ok(place)) = poll(&mut second) else { panic!("it is next") };
        assert!(poll(&mut fourth).is_pending());
        drop(third);
        let Poll::Ready(Ok(_small)) = poll(&mut fourth) else { panic!("it is next and fits") };
        drop(place);
    }

    #[test]
    fn a_crowd_and_an_ended_link_turn_callers_away() {
        let room = Room::new(LIMITS);
        let _place = taken(&room, 100);
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(room.take(1))).collect();
        for take in &mut waiting {
            assert!(poll(&mut take.as_mut()).is_pending());
        }
        let crowded = poll(&mut pin!(room.take(1)));
        assert!(matches!(crowded, Poll::Ready(Err(NoRoom::Crowded))));
        room.close();
        for take in &mut waiting {
            assert!(matches!(poll(&mut take.as_mut()), Poll::Ready(Err(NoRoom::Closed))));
        }
    }
}
