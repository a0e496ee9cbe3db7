//! The node's wish to stop, seen by every core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

#[expect(
    clippy::disallowed_types,
    reason = "taken once in the life of the process, never waited on"
)]
type SenderSlot = std::sync::Mutex<Option<oneshot::Sender<()>>>;

/// A flag that is raised once and never lowered. Cheap to clone; may be sent to any thread.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: Arc<AtomicBool>,
    sender: Arc<SenderSlot>,
    waiting: Shared<oneshot::Receiver<()>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        let (sender, receiver) = oneshot::channel();
        Self {
            requested: Arc::new(AtomicBool::new(false)),
            sender: Arc::new(SenderSlot::new(Some(sender))),
            waiting: receiver.shared(),
        }
    }

    /// Asks every core to finish what it has begun and end. Again is fine.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        let sender = match self.sender.lock() {
            Ok(mut slot) => slot.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        if let Some(sender) = sender {
            // The receiver lives in this very struct.
            let _ = sender.send(());
        }
    }

    /// Was it requested? Cost: one load.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Waits until it is requested.
    pub async fn requested(&self) {
        let _ = self.waiting.clone().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_waiter_sees_the_request() {
        let shutdown = Shutdown::new();
        assert!(shutdown.requested().now_or_never().is_none());
        let other = shutdown.clone();
        other.request();
        other.request();
        assert!(shutdown.is_requested());
        assert_eq!(shutdown.requested().now_or_never(), Some(()));
        assert_eq!(other.requested().now_or_never(), Some(()));
    }
}
