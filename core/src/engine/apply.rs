//! From durable log records to their effect, in log order.

use std::pin::pin;
use std::rc::Rc;

use futures::future::{Either, select};
use heddle_types::{ApiError, Clock, Device, ErrorCode, Lsn};

use super::pending::{Change, Effect, Outcome, Pending, Source};
use super::yielding::yield_now;
use super::{Book, Engine, EngineError, ShardCell};
use crate::shard::{Applied, ApplyError};
use crate::wal::WalError;

/// Records that are applied before other tasks may run: about 100 us.
const APPLIES_PER_TURN: usize = 8;

impl<D: Device, C: Clock> Engine<D, C> {
    /// Writes the log and applies what is durable; no write resolves unless this runs.
    ///
    /// Returns only when a write or sync of the log failed: every waiting write got `Unknown`, none
    /// is accepted any more, reads go on, and the process has to end. Run it exactly once.
    pub async fn run_wal(&self) -> WalError {
        let flush = pin!(self.inner.wal.run());
        let apply = pin!(self.apply_durable());
        let error = match select(flush, apply).await {
            Either::Left((error, _)) | Either::Right((error, _)) => error,
        };
        self.fail_pending(&error);
        error
    }

    /// Waits until every write is durable and records that it is, so that the next start can tell
    /// damage to the end of the log from a torn write. For a clean stop, after the last
    /// [`Engine::checkpoint`]. Needs [`Engine::run_wal`] to be running.
    pub async fn seal(&self) -> Result<(), EngineError> {
        Ok(self.inner.wal.seal().await?)
    }

    async fn apply_durable(&self) -> WalError {
        loop {
            let front = || self.inner.state.borrow().pending.front().map(|first| first.lsn);
            self.inner.queued.wait_until(|| front().is_some()).await;
            let Some(lsn) = front() else { continue };
            if let Err(error) = self.inner.wal.durable(lsn).await {
                return error;
            }
            for _ in 0..APPLIES_PER_TURN {
                let durable = self.inner.wal.durable_lsn();
                let Some(pending) = self.take_durable(durable) else { break };
                self.apply(pending);
            }
            self.inner.settled.notify();
            self.inner.background.notify();
            yield_now().await;
        }
    }

    fn take_durable(&self, durable: Lsn) -> Option<Pending> {
        let mut state = self.inner.state.borrow_mut();
        let first = state.pending.pop_front_if(|first| first.lsn <= durable)?;
        state.pending_bytes -= first.log_bytes;
        Some(first)
    }

    fn apply(&self, pending: Pending) {
        let Pending { lsn, shard, id, stamp, change, log_bytes, batch, position, source } = pending;
        let created_us = match &change {
            Change::Put { created_us, .. } => *created_us,
            Change::Delete => 0,
        };
        let cell = self.inner.state.borrow().shards.get(&shard).cloned();
        let applied = cell.as_ref().map(|cell| {
            self.apply_to(cell, lsn, log_bytes, || {
                let mut shard = cell.shard.borrow_mut();
                let applied = match &change {
                    Change::Put { created_us, vectors, row } => {
                        shard.apply_put(&stamp, id, *created_us, vectors, row)
                    }
                    Change::Delete => Ok(shard.apply_delete(&stamp, id)),
                };
                self.republish(&mut shard);
                applied
            })
        });
        let result = match applied {
            Some(Ok(Applied::Done { existed })) => {
                Ok(Outcome { stamp, created_us, existed, effect: Effect::Applied })
            }
            Some(Ok(Applied::Superseded { newest })) if source == Source::Coordinator => {
                let effect = Effect::Superseded;
                Ok(Outcome { stamp: newest, created_us, existed: true, effect })
            }
            Some(Ok(Applied::Superseded { .. })) => {
                Err(ApiError::internal(format!("stamp {stamp:?} is not the newest of {id}")))
            }
            Some(Err(error)) => {
                Err(ApiError::unknown(format!("object {id} is durable and not applied: {error}")))
            }
            None => Err(super::error::no_shard(shard)),
        };
        let mut state = self.inner.state.borrow_mut();
        assert!(state.applied_lsn < lsn, "records are applied in the order of the log");
        state.applied_lsn = lsn;
        if cell.is_some() {
            state.work.insert(shard);
        }
        if let Some(busy) = state.busy.get_mut(&(shard, id)) {
            busy.in_flight -= 1;
            if busy.in_flight == 0 && !busy.merging {
                state.busy.remove(&(shard, id));
            }
        }
        drop(state);
        batch.resolve(position, result);
    }

    /// Applies one record and keeps the shard's book.
    fn apply_to(
        &self,
        cell: &Rc<ShardCell<D>>,
        lsn: Lsn,
        log_bytes: u64,
        apply: impl FnOnce() -> Result<Applied, ApplyError>,
    ) -> Result<Applied, ApplyError> {
        let applied = apply();
        let mut book = cell.book.borrow_mut();
        book.note(lsn, log_bytes);
        if let Err(error) = &applied {
            // The record stays in the log; after a restart with more memory it is applied.
            tracing::error!(shard = cell.id.0, lsn = lsn.0, %error, "durable write not applied");
            book.poisoned = true;
        }
        applied
    }

    /// The log failed: nobody waits for ever.
    fn fail_pending(&self, error: &WalError) {
        let pending = {
            let mut state = self.inner.state.borrow_mut();
            state.failed = true;
            state.busy.retain(|_, busy| {
                busy.in_flight = 0;
                busy.merging
            });
            state.pending_bytes = 0;
            std::mem::take(&mut state.pending)
        };
        for Pending { batch, position, .. } in pending {
            let mut unknown = ApiError::unknown(format!("the write may be lost: {error}"));
            unknown.code = ErrorCode::Unknown;
            batch.resolve(position, Err(unknown));
        }
        self.inner.settled.notify();
        self.release_all_writers();
    }
}

impl Book {
    /// A record took effect that no image holds yet.
    pub(super) fn note(&mut self, lsn: Lsn, log_bytes: u64) {
        self.first_unimaged.get_or_insert(lsn);
        if self.imaging {
            self.first_since_begin.get_or_insert(lsn);
        }
        self.log_bytes += log_bytes;
    }
}
