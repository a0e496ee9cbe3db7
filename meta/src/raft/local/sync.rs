//! One-shot channels, the mutex and the random numbers, as openraft names them.

use std::convert::Infallible;
use std::marker::PhantomData;

use futures::channel::oneshot;
use openraft::OptionalSend;
use openraft::async_runtime::{Mutex, Oneshot, OneshotSender as OneshotSenderTrait};
use rand_core::TryRng;

use crate::raft::Host;

/// One-shot channels of `futures`.
#[derive(Debug)]
pub struct LocalOneshot;

impl Oneshot for LocalOneshot {
    type Sender<T: OptionalSend> = OneshotSender<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::Canceled;

    fn channel<T: OptionalSend>() -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}

/// The sending end of a one-shot channel.
#[derive(Debug)]
pub struct OneshotSender<T>(oneshot::Sender<T>);

impl<T: OptionalSend> OneshotSenderTrait<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// The mutex of `futures`.
#[derive(Debug)]
pub struct LocalMutex<T>(futures::lock::Mutex<T>);

impl<T: OptionalSend + 'static> Mutex<T> for LocalMutex<T> {
    type Guard<'a> = futures::lock::MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self(futures::lock::Mutex::new(value))
    }

    fn lock(&self) -> impl Future<Output = Self::Guard<'_>> + OptionalSend {
        self.0.lock()
    }
}

/// Random numbers of the host `H`.
#[derive(Debug)]
pub struct HostRandom<H>(PhantomData<fn() -> H>);

impl<H> Default for HostRandom<H> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<H: Host> TryRng for HostRandom<H> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((H::random() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(H::random())
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        for chunk in target.chunks_mut(8) {
            chunk.copy_from_slice(&H::random().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
