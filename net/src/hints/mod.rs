//! Writes that a replica did not take, for when it is back.

use heddle_core::engine::StampedWrite;
use heddle_types::CollectionId;

use crate::core::Core;
use crate::registry::ShardAt;

/// What one replica of a shard lacks.
#[derive(Debug)]
pub(crate) struct Hint {
    pub(crate) collection: CollectionId,
    /// The shard at that replica.
    pub(crate) shard: ShardAt,
    /// The writes, with their stamps.
    pub(crate) writes: Vec<StampedWrite>,
}

/// A replica lacks some writes. It gets them from the other replicas when these compare what they
/// have; here they are counted.
pub(crate) fn keep(core: &Core, hint: Hint) {
    let Hint { collection, shard, writes } = hint;
    core.metrics.hints_wanted.add(writes.len() as u64);
    tracing::trace!(%collection, shard = %shard.id, node = %shard.node, "a replica lacks writes");
}
