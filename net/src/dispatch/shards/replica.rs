//! What a replica of this node does for the cores that coordinate.

use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::StampedWrite;
use heddle_types::{ApiError, ErrorCode, ObjectId};
use heddle_wire::message::{
    ArchivedReplicaConditionalRequest, ArchivedReplicaDigestRequest, ArchivedReplicaReadRequest,
    ArchivedReplicaWriteRequest, ReplicaConditionalReply, ReplicaDigestReply, ReplicaReadReply,
    ReplicaWriteReply,
};

use super::Job;
use crate::core::Core;
use crate::dispatch::durability;
use crate::dispatch::replicas::{Conditional, item_of, outcome_of};
use crate::limits::{PEER_REPLY_BYTES, READ_CHUNK_OBJECTS};
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};

fn decoded(bytes: &[u8]) -> Result<StampedWrite, ApiError> {
    StampedWrite::decode(bytes).map_err(|error| {
        let message = format!("a write between replicas cannot be read: {error}");
        ApiError::new(ErrorCode::Protocol, message, "a stamped write")
    })
}

/// Takes writes that have their stamps.
pub(super) async fn write(
    core: &Rc<Core>,
    shard: ShardAt,
    message: &ArchivedReplicaWriteRequest,
) -> Result<ReplicaWriteReply, ApiError> {
    let writes: Vec<StampedWrite> = message.writes().map(decoded).collect::<Result<_, _>>()?;
    let durability = durability(message.durability());
    let order = CoreRequest::ReplicaWrite { shard: shard.id, durability, writes };
    let written = expect_reply!(core.write_home(shard.home, order).await?, Replicated)?;
    let mut reply = ReplicaWriteReply::default();
    written.iter().for_each(|result| reply.push(result.as_ref().map(outcome_of)));
    Ok(reply)
}

/// Says which versions there are.
pub(super) async fn digests(
    core: &Rc<Core>,
    shard: ShardAt,
    message: &ArchivedReplicaDigestRequest,
) -> Result<ReplicaDigestReply, ApiError> {
    let order = CoreRequest::Digests { shard: shard.id, ids: message.ids().collect() };
    let digests = expect_reply!(core.call_home(shard.home, order).await?, Digests)?;
    let mut reply = ReplicaDigestReply::default();
    digests.into_iter().for_each(|digest| reply.push(digest));
    Ok(reply)
}

/// Gives exact copies until the reply is large.
pub(super) async fn copies(
    job: &Job<'_>,
    shard: ShardAt,
    message: &ArchivedReplicaReadRequest,
) -> Result<ReplicaReadReply, ApiError> {
    let ids: Vec<ObjectId> = message.ids().collect();
    let mut reply = ReplicaReadReply::default();
    for ids in ids.chunks(READ_CHUNK_OBJECTS) {
        job.deadline.check()?;
        let order = CoreRequest::ReadStamped { shard: shard.id, ids: ids.to_vec() };
        let copies = expect_reply!(job.core.call_home(shard.home, order).await?, Copies)?;
        for copy in copies {
            if let Some(copy) = copy {
                copy.encode(&mut reply.copies);
            }
            reply.ends.push(reply.copies.len() as u32);
            if reply.copies.len() >= PEER_REPLY_BYTES {
                break;
            }
        }
        job.budget.reserve(reply.copies.len())?;
        if reply.copies.len() >= PEER_REPLY_BYTES {
            break;
        }
    }
    Ok(reply)
}

/// Coordinates writes that depend on what is there.
pub(super) async fn conditional(
    job: &Job<'_>,
    route: &Arc<CollectionRoute>,
    shard: ShardAt,
    message: &ArchivedReplicaConditionalRequest,
) -> Result<ReplicaConditionalReply, ApiError> {
    let conditions = message.terms.conditions();
    let merge = message.merge == 1;
    let mut items = Vec::with_capacity(conditions.len());
    for (position, bytes) in message.writes().enumerate() {
        let condition = conditions.get(position).copied().unwrap_or_default();
        items.push(item_of(decoded(bytes)?, condition, merge));
    }
    let place = route.position(shard.id);
    let place = place.ok_or_else(|| ApiError::internal("a shard of another collection"))?;
    let left_us = job.deadline.left().map_or(0, |left| left.as_micros().max(1));
    let order = CoreRequest::Conditional(Box::new(Conditional {
        route: Arc::clone(route),
        place,
        level: message.terms.level(),
        durability: durability(message.terms.durability()),
        ticket: message.stamp(),
        items,
        budget_us: u32::try_from(left_us).unwrap_or(u32::MAX),
    }));
    let made = expect_reply!(job.core.write_home(shard.home, order).await?, Stamped)?;
    let mut reply = ReplicaConditionalReply::default();
    made.iter().for_each(|outcome| reply.push(outcome.as_ref().copied()));
    Ok(reply)
}
