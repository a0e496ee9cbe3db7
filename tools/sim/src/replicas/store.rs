//! What a node of the world keeps: the seam between its replicas and what holds them.

use futures::future::LocalBoxFuture;
use heddle_core::engine::{Replicated, StampedWrite};
use heddle_replication::{LeafSet, TreeLeaves};
use heddle_types::{ApiError, Hlc, ObjectDigest, ObjectId, ShardId, Stamp};

/// What each write of a batch came to, or why nothing was applied.
pub(crate) type Applied = Result<Vec<Result<Replicated, ApiError>>, ApiError>;

/// Copies of objects, deletions too.
pub(crate) type Copies = Result<Vec<Option<StampedWrite>>, ApiError>;

/// Ids with what is known of them.
pub(crate) type Entries = Vec<(ObjectId, ObjectDigest)>;

/// The replicas of one node while it runs; the real engine, or a model of it.
pub(crate) trait ReplicaStore {
    /// A stamp newer than all that were issued or seen.
    fn issue(&self) -> LocalBoxFuture<'_, Result<Stamp, ApiError>>;

    /// Moves the stamps past one that was seen.
    fn observe(&self, hlc: Hlc);

    /// Applies writes; what is applied is durable.
    fn apply(&self, shard: ShardId, writes: Vec<StampedWrite>) -> LocalBoxFuture<'_, Applied>;

    /// What is durable of some ids.
    fn digests(
        &self,
        shard: ShardId,
        ids: &[ObjectId],
    ) -> Result<Vec<Option<ObjectDigest>>, ApiError>;

    /// Exact copies of some ids.
    fn read(&self, shard: ShardId, ids: Vec<ObjectId>) -> LocalBoxFuture<'_, Copies>;

    /// The hybrid time of the node: at or above every stamp it issued or saw.
    fn time(&self) -> Hlc;

    /// The leaves of a shard's tree.
    fn tree(&self, shard: ShardId) -> LocalBoxFuture<'_, Result<TreeLeaves, ApiError>>;

    /// What some leaves hold above an id, in the order of ids.
    fn entries(
        &self,
        shard: ShardId,
        leaves: LeafSet,
        after: Option<ObjectId>,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<Entries, ApiError>>;

    /// Up to where all replicas are equal.
    fn floor(&self, shard: ShardId) -> Hlc;

    /// Raises the floor; durable when it returns.
    fn set_floor(&self, shard: ShardId, floor: Hlc) -> LocalBoxFuture<'_, Result<(), ApiError>>;

    /// Forgets the deletions that may be forgotten; those it forgot.
    fn purge(&self, shard: ShardId) -> LocalBoxFuture<'_, Vec<(ObjectId, Stamp)>>;

    /// Everything, deletions too, in the order of ids.
    fn dump(&self, shard: ShardId) -> LocalBoxFuture<'_, Entries>;
}
