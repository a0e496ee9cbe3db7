//! Sending hints to their node.

use std::rc::Rc;
use std::time::Duration;

use heddle_core::engine::{Durability, Replicated, StampedWrite};
use heddle_core::hints::{Hint, HintBatch, HintPosition};
use heddle_types::limits::OBJECT_BATCH_MAX;
use heddle_types::{ApiError, CollectionId, ErrorCode, NodeId, Retry, ShardId};
use heddle_wire::message::{
    Durability as WireDurability, ReplicaWriteReply, ReplicaWriteRequest, ShardHead,
};
use heddle_wire::{Body, decode, encode_body};

use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::peer::{Lane, Target};
use crate::registry::ShardAt;

/// How long a node may take for one message of hints.
const PATIENCE: Duration = Duration::from_secs(30);

/// The end of a delivery.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) target: NodeId,
    /// The folder of the log that it was taken from.
    pub(super) log: String,
    pub(super) bytes: u64,
    pub(super) end: HintPosition,
    /// Hints that the node has now and that nobody can use any more; or why it failed.
    pub(super) result: Result<Tally, ApiError>,
}

/// What became of hints.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) dropped: u64,
}

/// Sends a batch, shard by shard. One that fails is sent again as a whole, which does no harm.
pub(super) async fn deliver(
    core: Rc<Core>,
    target: NodeId,
    log: String,
    batch: HintBatch,
) -> Delivered {
    let HintBatch { mut hints, bytes, end } = batch;
    // Of each object the newer stamp wins, so the order between shards does not matter.
    hints.sort_by_key(|hint| hint.shard);
    let mut tally = Tally::default();
    let mut result = Ok(());
    for same in hints.chunk_by(|left, right| left.shard == right.shard) {
        for part in same.chunks(OBJECT_BATCH_MAX) {
            result = send(&core, target, part, &mut tally).await;
            if result.is_err() {
                break;
            }
        }
        if result.is_err() {
            break;
        }
    }
    Delivered { target, log, bytes, end, result: result.map(|()| tally) }
}

/// Where a node has a shard by now, and of which collection it is; none when the shard is gone, has
/// moved away, or rests with its tenant.
fn place_of(core: &Core, target: NodeId, shard: ShardId) -> Option<(CollectionId, ShardAt)> {
    let route = core.registry.route_with(shard)?;
    let place = &route.shards[route.position(shard)?];
    let replica = place.replicas.iter().position(|replica| replica.node == target)?;
    Some((route.id, place.at(replica)))
}

async fn send(
    core: &Rc<Core>,
    target: NodeId,
    hints: &[Hint],
    tally: &mut Tally,
) -> Result<(), ApiError> {
    let Some((collection, shard)) = place_of(core, target, hints[0].shard) else {
        tally.dropped += hints.len() as u64;
        return Ok(());
    };
    let results = if shard.is_here {
        write_here(core, shard, hints).await?
    } else {
        write_there(core, collection, shard, hints).await?
    };
    if results.len() != hints.len() {
        return Err(ApiError::internal("a replica did not answer for each hint"));
    }
    for result in results {
        match result {
            Ok(()) => tally.delivered += 1,
            Err(error) if is_final(&error) => {
                tracing::debug!(shard = %shard.id, %error, "a hint is not taken");
                tally.dropped += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the same write is refused for ever: by its content, or because it is below the floor of
/// the shard.
fn is_final(error: &ApiError) -> bool {
    error.code == ErrorCode::BelowFloor
        || (error.retry == Retry::Never
            && !matches!(error.code, ErrorCode::DiskFull | ErrorCode::MemoryFull))
}

async fn write_here(
    core: &Rc<Core>,
    shard: ShardAt,
    hints: &[Hint],
) -> Result<Vec<Result<(), ApiError>>, ApiError> {
    let decoded = |hint: &Hint| {
        let wrong = |error| ApiError::internal(format!("a hint cannot be read: {error}"));
        StampedWrite::decode(&hint.write).map_err(wrong)
    };
    let writes: Vec<StampedWrite> = hints.iter().map(decoded).collect::<Result<_, _>>()?;
    let order = CoreRequest::ReplicaWrite { shard: shard.id, durability: Durability::Sync, writes };
    let results = expect_reply!(core.write_home(shard.home, order).await?, Replicated)?;
    Ok(results.into_iter().map(|result: Result<Replicated, _>| result.map(|_| ())).collect())
}

async fn write_there(
    core: &Rc<Core>,
    collection: CollectionId,
    shard: ShardAt,
    hints: &[Hint],
) -> Result<Vec<Result<(), ApiError>>, ApiError> {
    let nodes = core.registry.nodes();
    let address = nodes.get(shard.node).and_then(|node| node.peer_address(shard.home));
    let Some(address) = address else {
        let message = "the cluster does not say where the node is reached";
        return Err(ApiError::transient(ErrorCode::Unavailable, message));
    };
    let mut message = ReplicaWriteRequest {
        head: ShardHead { collection: collection.0.into_bytes(), epoch: core.registry.epoch().0 },
        shard: shard.id.0,
        durability: WireDurability::Sync as u8,
        ends: Vec::with_capacity(hints.len()),
        writes: Vec::new(),
    };
    for hint in hints {
        message.writes.extend_from_slice(&hint.write);
        message.ends.push(message.writes.len() as u32);
    }
    let target = Target { node: Some(shard.node), address };
    let kind = ReplicaWriteRequest::NUMBER;
    let body = encode_body(&message)?;
    let answer = core.links.call(&target, Lane::Repair, kind, body, PATIENCE).await?;
    if answer.header.type_number != ReplicaWriteReply::NUMBER {
        return Err(ApiError::internal("a replica answered something else than asked for"));
    }
    let reply = decode::<ReplicaWriteReply>(&answer.body);
    let reply = reply.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(reply.into_results().into_iter().map(|result| result.map(|_| ())).collect())
}
