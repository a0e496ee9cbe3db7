//! Waiting until a descriptor can be read, with the ring itself.
//!
//! The runtime's own wait adds one waker to the ring's entry at every poll, so a task that waits
//! for a quiet descriptor and a busy channel at once would pile up wakers without bound. Here each
//! descriptor registers one waker of its own and hands its wake on to the task that polled last.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use futures::task::{ArcWake, AtomicWaker};
use glommio::io::{PollState, PollableFd};

struct Relay {
    fired: AtomicBool,
    task: AtomicWaker,
}

impl ArcWake for Relay {
    fn wake_by_ref(relay: &Arc<Self>) {
        relay.fired.store(true, Ordering::Release);
        relay.task.wake();
    }
}

/// The wait for one descriptor: one waiter at a time.
pub(crate) struct Readiness {
    relay: Arc<Relay>,
    waker: Waker,
    registration: RefCell<PollState>,
    registered: Cell<bool>,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        let relay = Arc::new(Relay { fired: AtomicBool::new(false), task: AtomicWaker::new() });
        let waker = futures::task::waker(Arc::clone(&relay));
        Self {
            relay,
            waker,
            registration: RefCell::new(PollState::new()),
            registered: Cell::new(false),
        }
    }

    /// Ready once the descriptor may be tried again; it may still turn out not to be.
    pub(crate) fn poll<T: AsRawFd>(
        &self,
        descriptor: &PollableFd<T>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.relay.task.register(context.waker());
        let fired = self.relay.fired.swap(false, Ordering::AcqRel);
        if self.registered.get() && !fired {
            return Poll::Pending;
        }
        let mut relayed = Context::from_waker(&self.waker);
        let mut registration = self.registration.borrow_mut();
        let polled = descriptor.poll_readable(&mut relayed, &mut registration);
        self.registered.set(polled.is_pending());
        polled.map_err(Into::into)
    }

    pub(crate) async fn wait<T: AsRawFd>(&self, descriptor: &PollableFd<T>) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll(descriptor, context)).await
    }
}
