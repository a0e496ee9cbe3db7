//! What a replica shows to others that compare themselves with it.

use heddle_replication::{LeafSet, TreeLeaves};
use heddle_types::{ApiError, Clock, Device, Hlc, ObjectDigest, ObjectId, ShardId};

use super::Engine;
use super::yielding::yield_now;
use crate::validate::check_batch;

/// Objects that are hashed before other tasks may run: about 100 us.
const HASHES_PER_TURN: usize = 512;

impl<D: Device, C: Clock> Engine<D, C> {
    /// The hash tree of a shard, over objects and tombstones that are durable and visible.
    ///
    /// The first call since the start builds it, while writes go on, and it is kept from then on;
    /// a shard that is never asked has none. Later ones cost a copy of the leaves: 256 bytes to
    /// 256 KiB. Errors: `Unavailable` for an unknown shard, also one that is dropped meanwhile.
    pub async fn tree(&self, shard: ShardId) -> Result<TreeLeaves, ApiError> {
        loop {
            let cell = self.cell(shard)?;
            let is_building = cell.shard.borrow_mut().build_tree(HASHES_PER_TURN);
            if !is_building && let Some(leaves) = cell.shard.borrow().tree() {
                return Ok(leaves.clone());
            }
            drop(cell);
            yield_now().await;
        }
    }

    /// Objects and tombstones of some leaves with ids above `after`, ascending, `limit` at most;
    /// fewer only when there are no more.
    ///
    /// Errors: `TooLarge`, and `Unavailable` for an unknown shard. Cost: every id of the shard
    /// behind `after` is looked at until enough are found.
    pub async fn entries(
        &self,
        shard: ShardId,
        leaves: &LeafSet,
        after: Option<ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, ObjectDigest)>, ApiError> {
        check_batch(limit)?;
        let mut entries = Vec::new();
        let mut after = after;
        while entries.len() < limit {
            let cell = self.cell(shard)?;
            let look_at = HASHES_PER_TURN;
            let last = cell.shard.borrow().entries_in(leaves, after, look_at, limit, &mut entries);
            if last.is_none() {
                break;
            }
            after = last;
            drop(cell);
            yield_now().await;
        }
        Ok(entries)
    }

    /// The hybrid time of now: no stamp that was issued or seen here is newer.
    #[must_use]
    pub fn hybrid_time(&self) -> Hlc {
        let now = Hlc::from_unix_us(self.inner.clock.unix_us());
        now.max(self.inner.state.borrow().stamps.last())
    }
}
