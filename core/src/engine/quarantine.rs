//! Shards that lost durable records: they are not served, everything else is.
//!
//! A log is shared by the shards of its core. Where it is damaged, an image that covers the damaged
//! positions saves its shard, and an intact record header tells whose a damaged record was; every
//! other shard of the log may have lost something, and serving it would pass off old data as new.

use std::collections::BTreeMap;

use heddle_types::{ApiError, Clock, Device, ErrorCode, Lsn, ShardId};

use super::config::{EngineConfig, OnDataLoss, OpenReport};
use super::recover::{Covered, IsOwn, Opened};
use super::{Engine, ShardCell};
use crate::objects::segment_path;
use crate::wal::Damage;

/// A shard that is not served.
#[derive(Clone, Debug)]
pub(super) struct Quarantined {
    pub(super) reason: String,
    /// Its directory.
    pub(super) directory: String,
    /// The log has to keep everything from here on.
    pub(super) needs_log_from: Lsn,
}

/// Why a request to a quarantined shard is refused.
#[must_use]
pub fn refusal(shard: ShardId, reason: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Corrupt,
        format!("shard {shard} is quarantined: {reason}"),
        "a directory restored from a backup, or a start with --accept-data-loss",
    )
}

/// What a shard lost in one log.
pub(super) struct LostRecords {
    shard: ShardId,
    reason: String,
}

/// The shards that the damage of a log concerns.
///
/// An image written after an old log was replayed holds all of it; one that covers the damaged
/// positions of its own log needs none of them.
pub(super) fn concerned<D: Device>(
    opened: &BTreeMap<ShardId, Opened<D>>,
    log_index: u32,
    is_own: IsOwn,
    damage: &[Damage],
) -> Vec<LostRecords> {
    let covers = |covered: Option<Covered>| match covered {
        Some(covered) if covered.log_index == log_index => covered.covers,
        Some(_) if is_own == IsOwn::No => Lsn(u64::MAX),
        _ => Lsn(0),
    };
    let mut lost = Vec::new();
    for (shard, opened) in opened {
        let covers = covers(opened.covered);
        let concerns =
            |damage: &&Damage| damage.last_lost_by(*shard).is_some_and(|last| last > covers);
        if let Some(damage) = damage.iter().find(concerns) {
            lost.push(LostRecords { shard: *shard, reason: damage.error().to_string() });
        }
    }
    lost
}

/// The shards that are not served, and each as it was opened: it has to be cleared away.
pub(super) type SetApart<D> = (BTreeMap<ShardId, Quarantined>, Vec<Opened<D>>);

/// Takes the shards that lost records out of what will be served, or notes that they are served
/// without them.
pub(super) fn set_apart<D: Device>(
    opened: &mut BTreeMap<ShardId, Opened<D>>,
    lost: Vec<LostRecords>,
    config: &EngineConfig,
    report: &mut OpenReport,
) -> SetApart<D> {
    let own = config.log_indexes.first().copied().unwrap_or_default();
    let (mut quarantined, mut closed) = (BTreeMap::new(), Vec::new());
    for LostRecords { shard, reason } in lost {
        match config.on_data_loss {
            OnDataLoss::Accept => {
                let Some(opened) = opened.get(&shard) else { continue };
                // Once an image holds what is left, the damaged log is needed no more.
                opened.cell.book.borrow_mut().needs_image = true;
                report.accepted_losses.push((shard, reason));
            }
            OnDataLoss::Quarantine => {
                let Some(opened) = opened.remove(&shard) else { continue };
                let own = opened.covered.filter(|covered| covered.log_index == own);
                let needs_log_from = own.map_or(Lsn(1), |covered| Lsn(covered.covers.0 + 1));
                let directory = opened.cell.shard.borrow().spec.directory.clone();
                report.quarantined.push((shard, reason.clone()));
                quarantined.insert(shard, Quarantined { reason, directory, needs_log_from });
                closed.push(opened);
            }
        }
    }
    (quarantined, closed)
}

/// Removes the rows of a shard that this run wrote, once the shard is not going to be served: it
/// stays as it was found, and starts that end so do not fill the disk with copies of the same rows.
/// What was there before stays, although the log may have it too: it may be all that is left.
pub(super) async fn remove_written<D: Device>(device: &D, cell: &ShardCell<D>) {
    let (directory, numbers) = {
        let shard = cell.shard.borrow();
        (shard.spec.directory.clone(), shard.objects.written_segments())
    };
    if numbers.is_empty() {
        return;
    }
    let removed = async {
        for number in numbers {
            device.remove(&segment_path(&directory, number)).await?;
        }
        device.sync_dir(&directory).await
    };
    if let Err(error) = removed.await {
        tracing::warn!(shard = cell.id.0, %error, "rows of a shard that is not served are left");
    }
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// The shards that are not served because durable records of theirs are damaged, each with the
    /// reason.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(ShardId, String)> {
        let state = self.inner.state.borrow();
        state.quarantined.iter().map(|(shard, it)| (*shard, it.reason.clone())).collect()
    }

    /// Is the shard here, served or not?
    #[must_use]
    pub fn has_shard(&self, shard: ShardId) -> bool {
        let state = self.inner.state.borrow();
        state.shards.contains_key(&shard)
            || state.absent.contains_key(&shard)
            || state.quarantined.contains_key(&shard)
    }

    /// The first record that a quarantined shard still needs.
    pub(super) fn quarantine_needs_from(&self) -> Option<Lsn> {
        let state = self.inner.state.borrow();
        state.quarantined.values().map(|quarantined| quarantined.needs_log_from).min()
    }

    /// What a request to a shard that is not served is told, for the first of those; `None` when
    /// all are.
    #[must_use]
    pub fn unserved(&self) -> Option<ApiError> {
        let state = self.inner.state.borrow();
        let absent = state.absent.iter().map(|(shard, absent)| absent.error(*shard)).next();
        let quarantined = state.quarantined.iter().next();
        absent.or_else(|| quarantined.map(|(shard, it)| refusal(*shard, &it.reason)))
    }

    /// The first record that a shard needs which is not served, for whatever reason.
    pub(super) fn unserved_need_from(&self) -> Option<Lsn> {
        self.quarantine_needs_from().into_iter().chain(self.absent_need_from()).min()
    }

    /// Forgets a quarantined shard; its directory.
    pub(super) fn forget_quarantined(&self, id: ShardId) -> Option<String> {
        let removed = self.inner.state.borrow_mut().quarantined.remove(&id);
        removed.map(|Quarantined { directory, .. }| directory)
    }
}
