//! Handles of tasks, and futures with a deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::channel::oneshot;
use futures::future::LocalBoxFuture;

/// The task was dropped before it ended: its executor is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the task was dropped before it ended")]
pub struct TaskLost;

/// The deadline passed before the future ended; the future was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("timed out")]
pub struct TimedOut;

/// Waits for the value of a task, which runs on when this is dropped.
#[derive(Debug)]
pub struct LocalJoinHandle<T>(oneshot::Receiver<T>);

impl<T> LocalJoinHandle<T> {
    pub(super) fn new(receiver: oneshot::Receiver<T>) -> Self {
        Self(receiver)
    }
}

impl<T> Future for LocalJoinHandle<T> {
    type Output = Result<T, TaskLost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|value| value.map_err(|_canceled| TaskLost))
    }
}

/// A future that is given up at a deadline. Cost: one allocation.
pub struct LocalTimeout<F> {
    future: Pin<Box<F>>,
    deadline: LocalBoxFuture<'static, ()>,
}

impl<F> LocalTimeout<F> {
    pub(super) fn new(future: F, deadline: LocalBoxFuture<'static, ()>) -> Self {
        Self { future: Box::pin(future), deadline }
    }
}

impl<F: Future> Future for LocalTimeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        self.deadline.as_mut().poll(context).map(|()| Err(TimedOut))
    }
}
