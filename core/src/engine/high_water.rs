//! Stamps for writes that may go to other nodes only, and the record that outlives them.
//!
//! A write that this core applies carries its stamp in the log. One that only other nodes apply
//! leaves nothing here, and a start with the clock set back could issue an older stamp than it had.
//! So the log holds how far stamps may have gone, some time ahead: one record stands for all stamps
//! of that time. A core that only stamps its own writes has none.
//!
//! The record must not leave the log before a newer one is durable.

use heddle_types::limits::{STAMP_AHEAD_US_MAX, STAMP_HIGH_WATER_STEP_US};
use heddle_types::{ApiError, Clock, Device, ErrorCode, Hlc, Lsn, ShardId, Stamp};

use super::Engine;
use super::error::append_refused;
use crate::wal::{RecordKind, WalError};

/// What the log says about issued stamps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HighWater {
    /// Every stamp up to here may be issued: a durable record says so.
    durable: Hlc,
    /// The newest durable record in the own log.
    kept: Option<Lsn>,
    /// A record on its way.
    asked: Option<(Hlc, Lsn)>,
    /// The newest record is in a log of a run with more cores.
    is_in_old_log: bool,
}

impl HighWater {
    /// The log that goes on has a record here.
    pub(super) fn found(lsn: Lsn) -> Self {
        Self { kept: Some(lsn), ..Self::default() }
    }

    /// Another log has one.
    pub(super) fn found_in_old_log() -> Self {
        Self { is_in_old_log: true, ..Self::default() }
    }

    fn settle(&mut self, durable: Lsn) {
        if let Some((hlc, lsn)) = self.asked.take_if(|(_, lsn)| *lsn <= durable) {
            self.durable = self.durable.max(hlc);
            self.kept = Some(lsn);
            self.is_in_old_log = false;
        }
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// A stamp for a write that this core coordinates, newer than all it has issued or seen.
    ///
    /// Resolves at once while the log says that it may be issued; else, once a second of steady
    /// use at most, after a sync. Needs [`Engine::run_wal`] to be running. Errors: `ClockSkew`
    /// while the clock is too far behind stamps that were issued or seen for others to take the
    /// next one, and what the log refuses; nothing was issued.
    pub async fn issue_stamp(&self) -> Result<Stamp, ApiError> {
        let now_us = self.inner.clock.unix_us();
        let last_us = self.inner.state.borrow().stamps.last().unix_us();
        if last_us > now_us.saturating_add(STAMP_AHEAD_US_MAX) {
            let behind_ms = (last_us - now_us).div_ceil(1_000);
            let message = format!("the clock of this node is {behind_ms} ms behind its stamps");
            return Err(ApiError::transient(ErrorCode::ClockSkew, message));
        }
        let stamp = self.inner.state.borrow_mut().stamps.next(now_us);
        self.cover(stamp.hlc).await?;
        Ok(stamp)
    }

    /// Moves the core's stamps past one that was seen. One that no replica here would take is
    /// passed over.
    pub fn observe(&self, hlc: Hlc) {
        let limit_us = self.inner.clock.unix_us().saturating_add(STAMP_AHEAD_US_MAX);
        if hlc.unix_us() <= limit_us {
            self.inner.state.borrow_mut().stamps.observe(hlc);
        }
    }

    /// Waits until a durable record allows a stamp.
    async fn cover(&self, hlc: Hlc) -> Result<(), ApiError> {
        loop {
            let HighWater { durable, asked, .. } = self.high_water();
            let left_us = durable.unix_us().saturating_sub(hlc.unix_us());
            if hlc <= durable {
                if left_us < STAMP_HIGH_WATER_STEP_US / 2 && asked.is_none() {
                    // Ahead of need; if it is refused, whoever needs it asks again.
                    let _refused = self.raise_high_water(hlc);
                }
                return Ok(());
            }
            match asked {
                Some((_, lsn)) => {
                    let durable = self.inner.wal.durable(lsn).await;
                    durable.map_err(|error| append_refused(&error))?;
                }
                None => match self.raise_high_water(hlc) {
                    Ok(()) => {}
                    Err(WalError::Backlog { .. }) => self.inner.wal.room().await,
                    Err(error) => return Err(append_refused(&error)),
                },
            }
        }
    }

    fn high_water(&self) -> HighWater {
        let durable = self.inner.wal.durable_lsn();
        let mut state = self.inner.state.borrow_mut();
        state.high_water.settle(durable);
        state.high_water
    }

    /// Appends a record that allows stamps for some time after `hlc`.
    fn raise_high_water(&self, hlc: Hlc) -> Result<(), WalError> {
        let from_us = hlc.unix_us().max(self.inner.clock.unix_us());
        self.append_high_water(Hlc::from_unix_us(from_us.saturating_add(STAMP_HIGH_WATER_STEP_US)))
    }

    fn append_high_water(&self, hlc: Hlc) -> Result<(), WalError> {
        let stamp = Stamp { hlc, ..Stamp::default() };
        let lsn = self.inner.wal.append(ShardId(0), RecordKind::HighWater, &stamp, &[])?;
        self.inner.state.borrow_mut().high_water.asked = Some((hlc, lsn));
        Ok(())
    }

    /// The log that is given up must not take the newest record along: if it would, a copy is
    /// appended, and the log waits for it. The first record that has to stay.
    pub(super) fn high_water_needs_from(&self) -> Option<Lsn> {
        self.high_water().kept
    }

    /// May the logs of earlier runs go, as far as their records about stamps are concerned?
    pub(super) fn is_high_water_own(&self) -> bool {
        !self.high_water().is_in_old_log
    }

    /// Appends a copy of the newest record once everything else before `needed_from` could go.
    pub(super) fn renew_high_water(&self, needed_from: Lsn) {
        let HighWater { durable, kept, asked, is_in_old_log } = self.high_water();
        let is_in_the_way = kept.is_some_and(|lsn| lsn < needed_from) || is_in_old_log;
        if is_in_the_way && asked.is_none() {
            // What the start found counts as seen, not as issued.
            let hlc = durable.max(self.inner.state.borrow().stamps.last());
            // A log that refuses it keeps the old one; the next release tries again.
            let _refused = self.append_high_water(hlc);
        }
    }
}
