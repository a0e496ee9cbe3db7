//! Writing what a shard holds into another log, for shards that are cut in another way.

use heddle_types::{ApiError, Clock, Device, ErrorCode, ObjectId, ShardId, Stamp};

use super::types::Want;
use super::{Engine, EngineError};
use crate::shard::record::encode_put_head;
use crate::wal::{RecordKind, Wal, WalError};

/// Objects and tombstones that are read at once.
const PAGE: usize = 256;

impl<D: Device, C: Clock> Engine<D, C> {
    /// Appends every object and every remembered deletion of a shard to a log, with the stamps and
    /// creation times that they have, each for the shard that `route` names; how many. Those that
    /// it names none for are passed over.
    ///
    /// The log's [`Wal::run`] has to be running; the records are durable after [`Wal::seal`]. Write
    /// nothing to the shard meanwhile. Errors: `Unavailable` for an unknown shard, `Corrupt` when a
    /// stored row is damaged, and what the log refuses.
    pub async fn copy_to_log<E: Device>(
        &self,
        shard: ShardId,
        log: &Wal<E>,
        route: impl Fn(&ObjectId) -> Option<ShardId>,
    ) -> Result<u64, ApiError> {
        let cell = self.cell(shard)?;
        let mut copied = 0;
        let mut after = None;
        loop {
            let page = self.scan(shard, after, PAGE, None, Want::ALL).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for object in &page {
                let Some(target) = route(&object.id) else { continue };
                let mut head = Vec::new();
                let row = &object.properties;
                let (id, created_us) = (&object.id, object.created_us);
                encode_put_head(id, created_us, &object.vectors, row.len(), &mut head);
                let payload = [&head[..], row];
                append(log, target, RecordKind::Put, &object.stamp, &payload).await?;
                copied += 1;
            }
        }
        let tombstones = cell.shard.borrow().all_tombstones();
        for (id, stamp) in tombstones {
            let Some(target) = route(&id) else { continue };
            append(log, target, RecordKind::Delete, &stamp, &[&id.0]).await?;
            copied += 1;
        }
        Ok(copied)
    }
}

/// Appends once the log has room.
async fn append<D: Device>(
    log: &Wal<D>,
    shard: ShardId,
    kind: RecordKind,
    stamp: &Stamp,
    payload: &[&[u8]],
) -> Result<(), ApiError> {
    loop {
        match log.append(shard, kind, stamp, payload) {
            Ok(_position) => return Ok(()),
            Err(WalError::Backlog { .. }) => log.room().await,
            Err(WalError::Full) => {
                return Err(ApiError::transient(ErrorCode::DiskFull, WalError::Full.to_string()));
            }
            Err(error) => return Err(EngineError::from(error).into()),
        }
    }
}
