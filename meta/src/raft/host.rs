//! What an executor of one core offers to Raft.

use std::future::Future;
use std::time::Duration;

use futures::future::LocalBoxFuture;

/// An executor that runs all its tasks on the thread it is called from.
///
/// The functions take no `self`, because openraft asks its runtime without one: an implementation
/// finds its executor through the thread it is called on. All but [`Host::block_on`] are called
/// only from tasks of the executor.
pub trait Host: 'static {
    /// Time since an arbitrary start; never goes back.
    fn now() -> Duration;

    /// Waits until `duration` has passed since this call.
    fn sleep(duration: Duration) -> LocalBoxFuture<'static, ()>;

    /// Runs a task to its end. It must not be polled inside this call: the caller may hold a borrow
    /// that the task takes as well.
    fn spawn(task: LocalBoxFuture<'static, ()>);

    /// 64 random bits.
    fn random() -> u64;

    /// Runs a future to its end on an executor of its own, on this thread; for tools and tests.
    fn block_on<F: Future>(future: F) -> F::Output;
}
