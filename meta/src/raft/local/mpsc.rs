//! Bounded channels from many tasks to one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll};

use openraft::OptionalSend;
use openraft::async_runtime::{
    Mpsc, MpscReceiver, MpscSender, MpscWeakSender, SendError, TryRecvError,
};

use super::wakers::Wakers;

/// Bounded channels of one thread.
#[derive(Debug)]
pub struct LocalMpsc;

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    senders: usize,
    has_receiver: bool,
    receiver: Wakers,
    // All of them are woken when a place is free: the first one may have been dropped since.
    waiting: Wakers,
}

type Shared<T> = Rc<RefCell<State<T>>>;

impl Mpsc for LocalMpsc {
    type Sender<T: OptionalSend> = LocalSender<T>;
    type Receiver<T: OptionalSend> = LocalReceiver<T>;
    type WeakSender<T: OptionalSend> = LocalWeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        assert!(buffer > 0, "a channel needs a place for a message");
        let shared = Rc::new(RefCell::new(State {
            queue: VecDeque::new(),
            capacity: buffer,
            senders: 1,
            has_receiver: true,
            receiver: Wakers::default(),
            waiting: Wakers::default(),
        }));
        (LocalSender { shared: Rc::clone(&shared) }, LocalReceiver { shared })
    }
}

/// A sending end.
#[derive(Debug)]
pub struct LocalSender<T> {
    shared: Shared<T>,
}

impl<T> Clone for LocalSender<T> {
    fn clone(&self) -> Self {
        self.shared.borrow_mut().senders += 1;
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for LocalSender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut state = self.shared.borrow_mut();
            state.senders -= 1;
            if state.senders > 0 {
                return;
            }
            state.receiver.take()
        };
        receiver.wake();
    }
}

impl<T> LocalSender<T> {
    /// Puts the message into a free place, or registers for one and leaves it where it is.
    fn poll_send(
        &self,
        message: &mut Option<T>,
        context: &Context<'_>,
    ) -> Poll<Result<(), SendError<T>>> {
        let receiver = {
            let mut state = self.shared.borrow_mut();
            if state.has_receiver && state.queue.len() >= state.capacity {
                state.waiting.register(context.waker());
                return Poll::Pending;
            }
            let message = message.take().expect("a future is not polled after its end");
            if !state.has_receiver {
                return Poll::Ready(Err(SendError(message)));
            }
            state.queue.push_back(message);
            state.receiver.take()
        };
        receiver.wake();
        Poll::Ready(Ok(()))
    }
}

impl<T: OptionalSend> MpscSender<LocalMpsc, T> for LocalSender<T> {
    fn send(&self, message: T) -> impl Future<Output = Result<(), SendError<T>>> + OptionalSend {
        let mut message = Some(message);
        poll_fn(move |context| self.poll_send(&mut message, context))
    }

    fn downgrade(&self) -> LocalWeakSender<T> {
        LocalWeakSender { shared: Rc::clone(&self.shared) }
    }
}

/// A sending end that does not keep the channel open.
#[derive(Debug)]
pub struct LocalWeakSender<T> {
    shared: Shared<T>,
}

impl<T> Clone for LocalWeakSender<T> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T: OptionalSend> MpscWeakSender<LocalMpsc, T> for LocalWeakSender<T> {
    fn upgrade(&self) -> Option<LocalSender<T>> {
        let mut state = self.shared.borrow_mut();
        if state.senders == 0 {
            return None;
        }
        state.senders += 1;
        Some(LocalSender { shared: Rc::clone(&self.shared) })
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct LocalReceiver<T> {
    shared: Shared<T>,
}

impl<T> LocalReceiver<T> {
    fn take_next(&self) -> Result<T, TryRecvError> {
        let (message, waiting) = {
            let mut state = self.shared.borrow_mut();
            let Some(message) = state.queue.pop_front() else {
                let is_open = state.senders > 0;
                return Err(if is_open { TryRecvError::Empty } else { TryRecvError::Disconnected });
            };
            (message, state.waiting.take())
        };
        waiting.wake();
        Ok(message)
    }
}

impl<T> Drop for LocalReceiver<T> {
    fn drop(&mut self) {
        // Messages may hold ends of this very channel: they are dropped after the borrow.
        let (queue, waiting) = {
            let mut state = self.shared.borrow_mut();
            state.has_receiver = false;
            (std::mem::take(&mut state.queue), state.waiting.take())
        };
        drop(queue);
        waiting.wake();
    }
}

impl<T: OptionalSend> MpscReceiver<T> for LocalReceiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> + OptionalSend {
        poll_fn(|context| match self.take_next() {
            Ok(message) => Poll::Ready(Some(message)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                self.shared.borrow_mut().receiver.register(context.waker());
                Poll::Pending
            }
        })
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.take_next()
    }
}
