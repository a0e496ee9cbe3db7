//! Raft on a core: the [`Host`] of [`heddle_meta::raft`] on glommio.

use std::future::Future;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use heddle_meta::raft::{Host, LocalRuntime};
use heddle_runtime::{Queue, RealClock, run_single, sleep, spawn};
use heddle_types::Clock;
use uuid::Uuid;

/// The executor of the core that calls; the meta core in a node.
#[derive(Debug)]
pub struct GlommioHost;

/// The runtime of openraft on a core.
pub type GlommioRuntime = LocalRuntime<GlommioHost>;

impl Host for GlommioHost {
    fn now() -> Duration {
        Duration::from_nanos(RealClock.monotonic_ns())
    }

    fn sleep(duration: Duration) -> LocalBoxFuture<'static, ()> {
        let deadline = Self::now() + duration;
        // The runtime's timer starts when it is polled for the first time.
        Box::pin(async move { sleep(deadline.saturating_sub(Self::now())).await })
    }

    fn spawn(task: LocalBoxFuture<'static, ()>) {
        spawn(Queue::Control, task);
    }

    fn random() -> u64 {
        // Version and variant bits are fixed in one half each, never at the same place in both.
        let (high, low) = Uuid::new_v4().as_u64_pair();
        high ^ low
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        run_single(future).expect("the machine gives tests and tools an executor")
    }
}
