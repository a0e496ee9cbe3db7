//! Who works on the requests of the search queue: a few tasks that go from request to request.
//!
//! Most of these requests end without ever waiting. A task of its own for each would cost an
//! allocation and two passes through the scheduler, which is as much as a small search. A worker
//! that has to wait, or that offers the core to others, lets another one go on with what is left,
//! so requests overlap as if each had its task.
//!
//! Replies leave together, those of one connection in one call and those of several one after the
//! other: waking a client that sleeps costs as much as a third of a small search, and one that was
//! woken by the first reply finds the others for nothing. They wait at most until no request waits
//! for a worker, or for a short time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use heddle_runtime::net::look_for_events;
use heddle_runtime::queues::need_preempt;
use heddle_runtime::{Queue, spawn, yield_if_needed};

use crate::core::Core;
use crate::limits::{IDLE_WORKERS_MAX, REPLIES_HELD_NS_MAX};
use crate::server::connection::Connection;
use crate::server::request::{Answered, RequestFrame};

/// Where a worker sleeps.
#[derive(Default)]
struct Seat {
    asleep: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// The workers of one core, and what waits for them.
#[derive(Default)]
pub(crate) struct Workers {
    waiting: RefCell<VecDeque<RequestFrame>>,
    asleep: RefCell<Vec<Rc<Seat>>>,
    // Workers that will look at `waiting` without being called.
    coming: Cell<usize>,
    // Connections with replies that wait for others, and since when.
    unsent: RefCell<Vec<Rc<Connection>>>,
    unsent_since_ns: Cell<u64>,
}

impl Workers {
    /// Lines up a request.
    pub(crate) fn submit(&self, core: &Rc<Core>, request: RequestFrame) {
        self.waiting.borrow_mut().push_back(request);
        self.call(core);
    }

    /// Sees to it that a worker comes if there is work.
    fn call(&self, core: &Rc<Core>) {
        if self.coming.get() > 0 || !self.has_waiting() {
            return;
        }
        self.coming.set(self.coming.get() + 1);
        match self.asleep.borrow_mut().pop() {
            Some(seat) => {
                seat.asleep.set(false);
                if let Some(waker) = seat.waker.take() {
                    waker.wake();
                }
            }
            None => spawn(Queue::Search, work(Rc::clone(core))),
        }
    }

    fn arrive(&self) {
        self.coming.set(self.coming.get() - 1);
    }

    /// Do requests wait for a worker?
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    fn next(&self) -> Option<RequestFrame> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Puts a connection on the list of those whose replies are to leave.
    pub(crate) fn send_soon(&self, connection: &Rc<Connection>, now_ns: u64) {
        let mut unsent = self.unsent.borrow_mut();
        if unsent.is_empty() {
            self.unsent_since_ns.set(now_ns);
        }
        unsent.push(Rc::clone(connection));
    }

    /// Sends the replies that were held back, if they have waited for long enough.
    pub(crate) fn send_overdue(&self, now_ns: u64) {
        let held_ns = now_ns.saturating_sub(self.unsent_since_ns.get());
        if held_ns >= REPLIES_HELD_NS_MAX && !self.unsent.borrow().is_empty() {
            self.send_all();
        }
    }

    fn send_all(&self) {
        // The list keeps its memory; sending adds nothing to it.
        let mut unsent = self.unsent.take();
        for connection in unsent.drain(..) {
            connection.send_held();
        }
        self.unsent.replace(unsent);
    }

    /// Offers the core to other queues, not to other requests of this one: the worker that calls
    /// this goes on by itself.
    pub(crate) async fn offer_core(&self) {
        if need_preempt() {
            self.coming.set(self.coming.get() + 1);
            yield_if_needed().await;
            self.arrive();
        }
    }

    /// Puts a worker on the list of those asleep; false when enough are.
    fn lie_down(&self, seat: &Rc<Seat>) -> bool {
        let mut asleep = self.asleep.borrow_mut();
        let has_room = asleep.len() < IDLE_WORKERS_MAX;
        if has_room {
            seat.asleep.set(true);
            asleep.push(Rc::clone(seat));
        }
        has_room
    }
}

impl Seat {
    /// Ready once the worker has been called.
    fn poll_called(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.asleep.get() {
            return Poll::Ready(());
        }
        self.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

async fn work(core: Rc<Core>) {
    let workers = &core.server.workers;
    let seat = Rc::new(Seat::default());
    loop {
        workers.arrive();
        while let Some(request) = workers.next() {
            answer(&core, request).await;
            if need_preempt() {
                workers.send_all();
                workers.offer_core().await;
            }
        }
        workers.send_all();
        look_for_events();
        if !workers.lie_down(&seat) {
            return;
        }
        std::future::poll_fn(|context| seat.poll_called(context)).await;
    }
}

async fn answer(core: &Rc<Core>, request: RequestFrame) {
    let workers = &core.server.workers;
    let answered = {
        let mut answering = pin!(request.answer(core));
        std::future::poll_fn(|context| {
            let polled = answering.as_mut().poll(context);
            if polled.is_pending() {
                // Others go on while this one waits, and what is done does not wait with it.
                workers.send_all();
                workers.call(core);
            }
            polled
        })
        .await
    };
    let Answered { frame, at_ns } = answered;
    request.finish(core).reply_together(frame, at_ns);
    workers.send_overdue(at_ns);
}
