//! A node: an identity, a disk, a clock, and the tasks of its current run.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures::future::{AbortHandle, LocalBoxFuture, abortable};
use heddle_meta::raft::Host;
use heddle_types::{Clock, NodeId};

use crate::SimHost;

use super::hints::Hints;
use super::store::ReplicaStore;
use super::time::NodeClock;

/// What a node is while it runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) identity: NodeId,
    pub(crate) store: Rc<dyn ReplicaStore>,
    pub(crate) hints: Rc<Hints>,
}

/// A place in the cluster: a name that may get another disk, and with it another identity.
pub(crate) struct Node {
    pub(crate) position: usize,
    pub(crate) clock: NodeClock,
    running: RefCell<Option<Running>>,
    tasks: RefCell<Vec<AbortHandle>>,
    is_paused: Cell<bool>,
    /// Tasks that would run if the node were not paused.
    held: RefCell<Vec<Waker>>,
    /// Counts requests, for taking turns.
    turn: Cell<u64>,
}

impl Node {
    pub(crate) fn new(position: usize, clock: NodeClock) -> Rc<Self> {
        Rc::new(Self {
            position,
            clock,
            running: RefCell::new(None),
            tasks: RefCell::default(),
            is_paused: Cell::new(false),
            held: RefCell::default(),
            turn: Cell::new(0),
        })
    }

    /// Microseconds of the node's own steady clock.
    pub(crate) fn now_us(&self) -> u64 {
        self.clock.monotonic_ns() / 1_000
    }

    pub(crate) fn running(&self) -> Option<Running> {
        self.running.borrow().clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.borrow().is_some()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.get()
    }

    pub(crate) fn next_turn(&self) -> u64 {
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        turn
    }

    pub(crate) fn start(&self, running: Running) {
        self.running.replace(Some(running));
    }

    /// The run ends, with everything that was under way.
    pub(crate) fn stop(&self) {
        self.running.replace(None);
        for task in self.tasks.take() {
            task.abort();
        }
        self.resume();
    }

    pub(crate) fn pause(&self) {
        self.is_paused.set(true);
    }

    pub(crate) fn resume(&self) {
        self.is_paused.set(false);
        for waker in self.held.take() {
            waker.wake();
        }
    }

    /// Runs a task as part of the current run.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let gated = Gated { node: Rc::clone(self), task: Box::pin(task) };
        let (task, handle) = abortable(gated);
        self.tasks.borrow_mut().push(handle);
        SimHost::spawn(Box::pin(async move {
            // A task that is aborted has ended with its run.
            let _ = task.await;
        }));
    }

    /// Waits until the node's own clock shows a time.
    pub(crate) async fn sleep_until(&self, us: u64) {
        loop {
            let left_us = us.saturating_sub(self.now_us());
            if left_us == 0 {
                return;
            }
            super::time::sleep_us(left_us).await;
        }
    }
}

/// A task that stands still while its node is paused.
struct Gated {
    node: Rc<Node>,
    task: LocalBoxFuture<'static, ()>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.node.is_paused.get() {
            self.node.held.borrow_mut().push(context.waker().clone());
            return Poll::Pending;
        }
        self.task.as_mut().poll(context)
    }
}
