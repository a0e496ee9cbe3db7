//! Connections by address, opened when first needed and again after they broke.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::Connection;
use crate::backoff;
use crate::error::ClientError;
use crate::limits::{CONNECT_SHARE, CONNECT_TIMEOUT};

/// One address: its connection, if there is one, and how it went lately.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    in_flight: AtomicUsize,
    /// Did the last attempt to connect fail?
    is_down: AtomicBool,
    /// Is somebody finding out whether it still is?
    is_probed: AtomicBool,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    failures: u32,
    /// Until then new attempts fail with what the last one met.
    closed_until: Option<(Instant, ClientError)>,
}

/// The connections of a client.
pub(crate) struct Pool {
    slots: watch::Sender<Arc<BTreeMap<String, Arc<Slot>>>>,
    announced: Arc<AtomicU64>,
}

/// A connection in use; counts as in flight for its address until dropped.
pub(crate) struct Lease {
    pub(crate) connection: Connection,
    _in_flight: InFlight,
}

struct InFlight(Arc<Slot>);

impl InFlight {
    fn begin(slot: Arc<Slot>) -> Self {
        slot.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(slot)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// `announced` is raised to every epoch that a server announces.
    pub(crate) fn new(announced: Arc<AtomicU64>) -> Self {
        Self { slots: watch::Sender::new(Arc::new(BTreeMap::new())), announced }
    }

    fn slot(&self, address: &str) -> Arc<Slot> {
        if let Some(slot) = self.slots.borrow().get(address) {
            return Arc::clone(slot);
        }
        self.slots.send_modify(|slots| {
            Arc::make_mut(slots).entry(address.to_owned()).or_default();
        });
        Arc::clone(&self.slots.borrow()[address])
    }

    /// Requests in flight to an address.
    pub(crate) fn in_flight(&self, address: &str) -> usize {
        let slots = self.slots.borrow();
        slots.get(address).map_or(0, |slot| slot.in_flight.load(Ordering::Relaxed))
    }

    /// Did the last attempt to connect to an address fail? Then somebody else finds out, after a
    /// pause, whether it still does.
    pub(crate) fn is_down(&self, address: &str) -> bool {
        let Some(slot) = self.slots.borrow().get(address).cloned() else { return false };
        let is_down = slot.is_down.load(Ordering::Relaxed);
        if is_down && !slot.is_probed.swap(true, Ordering::Relaxed) {
            let (address, announced) = (address.to_owned(), Arc::clone(&self.announced));
            tokio::spawn(async move {
                let pause = slot.state.lock().await.closed_until.as_ref().map(|(until, _)| *until);
                sleep_until(pause.unwrap_or_else(Instant::now)).await;
                let deadline = Instant::now() + CONNECT_TIMEOUT;
                // How it went is in the slot.
                let _ = connect(&slot, &address, deadline, &announced).await;
                slot.is_probed.store(false, Ordering::Relaxed);
            });
        }
        is_down
    }

    /// A connection to `address`, opened if there is none. Callers that come while it is being
    /// opened wait for the same attempt.
    ///
    /// Errors: [`ClientError::Connection`], [`ClientError::Timeout`]; nothing was sent.
    pub(crate) async fn lease(
        &self,
        address: &str,
        deadline: Instant,
    ) -> Result<Lease, ClientError> {
        let started = Instant::now();
        let in_flight = InFlight::begin(self.slot(address));
        let connecting = connect(&in_flight.0, address, deadline, &self.announced);
        let Ok(connected) = timeout_at(deadline, connecting).await else {
            return Err(ClientError::Timeout { after: started.elapsed() });
        };
        Ok(Lease { connection: connected?, _in_flight: in_flight })
    }
}

async fn connect(
    slot: &Slot,
    address: &str,
    deadline: Instant,
    announced: &Arc<AtomicU64>,
) -> Result<Connection, ClientError> {
    let mut state = slot.state.lock().await;
    if let Some(connection) = &state.connection {
        if !connection.is_closed() {
            return Ok(connection.clone());
        }
        state.connection = None;
    }
    if let Some((until, error)) = &state.closed_until
        && Instant::now() < *until
    {
        return Err(error.clone());
    }
    let now = Instant::now();
    let limit = now + attempt_limit(deadline.saturating_duration_since(now));
    let opened = Connection::open(address, limit, announced).await;
    slot.is_down.store(opened.is_err(), Ordering::Relaxed);
    match opened {
        Ok(connection) => {
            *state = State { connection: Some(connection.clone()), ..State::default() };
            Ok(connection)
        }
        Err(error) => {
            state.failures += 1;
            let salt = address.len() as u64;
            let until = Instant::now() + backoff::pause(state.failures, salt);
            state.closed_until = Some((until, error.clone()));
            Err(error)
        }
    }
}

/// How long one attempt to connect may take: a caller with much time waits for a slow network, and
/// still has time left to try another address.
fn attempt_limit(left: Duration) -> Duration {
    CONNECT_TIMEOUT.max(left / CONNECT_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_time_waits_longer_for_a_connection() {
        assert_eq!(attempt_limit(Duration::from_secs(1)), CONNECT_TIMEOUT);
        assert_eq!(attempt_limit(Duration::from_secs(60)), Duration::from_secs(20));
    }
}
