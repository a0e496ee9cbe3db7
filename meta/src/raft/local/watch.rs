//! A value that many tasks watch.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use openraft::async_runtime::watch::{RecvError, SendError};
use openraft::async_runtime::{
    Watch, WatchReceiver as WatchReceiverTrait, WatchSender as WatchSenderTrait,
};
use openraft::{OptionalSend, OptionalSync};

use super::wakers::Wakers;

/// Watched values of one thread. A borrow of the value must end before the task yields: a change of
/// a borrowed value is a panic here, where other runtimes stop for ever.
#[derive(Debug)]
pub struct LocalWatch;

#[derive(Debug)]
struct Shared<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    senders: Cell<usize>,
    receivers: Cell<usize>,
    waiting: RefCell<Wakers>,
}

impl<T> Shared<T> {
    fn changed(&self) {
        self.version.set(self.version.get() + 1);
        self.wake();
    }

    fn wake(&self) {
        let waiting = self.waiting.borrow_mut().take();
        waiting.wake();
    }
}

impl Watch for LocalWatch {
    type Sender<T: OptionalSend + OptionalSync> = WatchSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = WatchReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        let shared = Rc::new(Shared {
            value: RefCell::new(init),
            version: Cell::new(0),
            senders: Cell::new(1),
            receivers: Cell::new(1),
            waiting: RefCell::default(),
        });
        (WatchSender { shared: Rc::clone(&shared) }, WatchReceiver { shared, seen: 0 })
    }
}

/// Changes the value.
#[derive(Debug)]
pub struct WatchSender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.set(self.shared.senders.get() + 1);
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for WatchSender<T> {
    fn drop(&mut self) {
        self.shared.senders.set(self.shared.senders.get() - 1);
        if self.shared.senders.get() == 0 {
            self.shared.wake();
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchSenderTrait<LocalWatch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.receivers.get() == 0 {
            return Err(SendError(value));
        }
        // The old value is dropped after the borrow: it may hold ends of this channel.
        let old = self.shared.value.replace(value);
        self.shared.changed();
        drop(old);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let is_modified = modify(&mut self.shared.value.borrow_mut());
        if is_modified {
            self.shared.changed();
        }
        is_modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        self.shared.receivers.set(self.shared.receivers.get() + 1);
        WatchReceiver { shared: Rc::clone(&self.shared), seen: self.shared.version.get() }
    }
}

/// Sees the value and its changes.
#[derive(Debug)]
pub struct WatchReceiver<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.set(self.shared.receivers.get() + 1);
        Self { shared: Rc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for WatchReceiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.set(self.shared.receivers.get() - 1);
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiverTrait<LocalWatch, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| {
            let version = self.shared.version.get();
            if self.seen != version {
                self.seen = version;
                return Poll::Ready(Ok(()));
            }
            if self.shared.senders.get() == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            self.shared.waiting.borrow_mut().register(context.waker());
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }
}
