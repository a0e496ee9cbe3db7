//! openraft's runtime on any [`Host`]: tasks, time, randomness and channels of one thread.
//!
//! Everything is shared by `Rc`, nothing by lock, and wakers run in the order in which they
//! registered, so a run on a deterministic host is deterministic.

mod instant;
mod mpsc;
mod sync;
mod task;
mod wakers;
mod watch;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use openraft::async_runtime::Instant;
use openraft::{AsyncRuntime, OptionalSend};

use super::Host;
pub use instant::LocalInstant;
pub use mpsc::{LocalMpsc, LocalReceiver, LocalSender, LocalWeakSender};
pub use sync::{HostRandom, LocalMutex, LocalOneshot, OneshotSender};
pub use task::{LocalJoinHandle, LocalTimeout, TaskLost, TimedOut};
pub use watch::{LocalWatch, WatchReceiver, WatchSender};

/// The runtime of openraft on the executor `H`.
pub struct LocalRuntime<H>(PhantomData<fn() -> H>);

impl<H> fmt::Debug for LocalRuntime<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalRuntime")
    }
}

impl<H: Host> AsyncRuntime for LocalRuntime<H> {
    type JoinError = TaskLost;
    type JoinHandle<T: OptionalSend + 'static> = LocalJoinHandle<T>;
    type Sleep = LocalBoxFuture<'static, ()>;
    type Instant = LocalInstant<H>;
    type TimeoutError = TimedOut;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = LocalTimeout<T>;
    type ThreadLocalRng = HostRandom<H>;
    type Mpsc = LocalMpsc;
    type Watch = LocalWatch;
    type Oneshot = LocalOneshot;
    type Mutex<T: OptionalSend + 'static> = LocalMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        // A dropped handle means that nobody wants the value; the task runs on all the same.
        H::spawn(future.map(|value| drop(sender.send(value))).boxed_local());
        LocalJoinHandle::new(receiver)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        H::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        H::sleep(deadline.saturating_duration_since(LocalInstant::now()))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        LocalTimeout::new(future, H::sleep(duration))
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        LocalTimeout::new(future, Self::sleep_until(deadline))
    }

    // A panic ends the process: there is no task left to ask.
    fn is_panic(_error: &Self::JoinError) -> bool {
        false
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        HostRandom::default()
    }

    fn new(_threads: usize) -> Self {
        Self(PhantomData)
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        H::block_on(future)
    }
}
