//! A replica that takes part in a comparison: the engine here, or a home core of another node.

use std::rc::Rc;

use heddle_core::engine::{Durability, StampedWrite};
use heddle_replication::{LeafSet, TreeLeaves};
use heddle_types::{ApiError, ErrorCode, Hlc, ObjectDigest, ObjectId, ShardId};
use heddle_wire::message::{
    Copies, RepairBeginReply, RepairBeginRequest, RepairCheckReply, RepairCheckRequest,
    RepairFloorReply, RepairFloorRequest, RepairPageReply, RepairPageRequest, RepairReadReply,
    RepairReadRequest, RepairRequest, RepairWriteReply, RepairWriteRequest, ShardComparison,
    ShardHead,
};
use heddle_wire::{AlignedVec, Body, access, decode, encode_body};

use super::add_copy;
use crate::core::{Core, HomeEngine};
use crate::home::publish_views;
use crate::limits::{PEER_PATIENCE, PEER_REPLY_BYTES, REPAIR_PAGE_ENTRIES, REPAIR_READ_OBJECTS};
use crate::peer::{Lane, Target};
use crate::registry::{CollectionRoute, ShardAt};

/// One of the replicas.
pub(super) enum Side<'a> {
    Own { core: &'a Rc<Core>, engine: &'a HomeEngine, shard: ShardId },
    Other { core: &'a Rc<Core>, head: ShardHead, at: ShardAt },
}

impl<'a> Side<'a> {
    pub(super) fn own(core: &'a Rc<Core>, engine: &'a HomeEngine, shard: ShardId) -> Self {
        Self::Own { core, engine, shard }
    }

    pub(super) fn other(core: &'a Rc<Core>, route: &CollectionRoute, at: ShardAt) -> Self {
        let head =
            ShardHead { collection: route.id.0.into_bytes(), epoch: core.registry.epoch().0 };
        Self::Other { core, head, at }
    }

    /// Its hybrid time before anything else, its floor, its leaves.
    pub(super) async fn begin(&self) -> Result<(Hlc, Hlc, TreeLeaves), ApiError> {
        let (core, head, at) = match self {
            Self::Own { engine, shard, .. } => return begin_here(engine, *shard).await,
            Self::Other { core, head, at } => (core, *head, at),
        };
        let body = ask(core, at, &RepairBeginRequest { head, shard: at.id.0 }).await?;
        let reply = access::<RepairBeginReply>(&body)?;
        let leaves = TreeLeaves::from_sums(reply.sums()).ok_or_else(|| broken("no tree"))?;
        Ok((Hlc(reply.hlc.to_native()), Hlc(reply.floor.to_native()), leaves))
    }

    /// The next versions of some leaves.
    pub(super) async fn page(
        &self,
        leaves: &LeafSet,
        after: Option<ObjectId>,
    ) -> Result<Vec<(ObjectId, ObjectDigest)>, ApiError> {
        let (core, head, at) = match self {
            Self::Own { engine, shard, .. } => {
                return engine.entries(*shard, leaves, after, REPAIR_PAGE_ENTRIES).await;
            }
            Self::Other { core, head, at } => (core, *head, at),
        };
        let request = RepairPageRequest {
            head,
            shard: at.id.0,
            height: leaves.height(),
            leaves: leaves.words().to_vec(),
            after: after.map(|id| id.0.to_vec()).unwrap_or_default(),
            limit: REPAIR_PAGE_ENTRIES as u32,
        };
        let body = ask(core, at, &request).await?;
        let entries = access::<RepairPageReply>(&body)?.entries();
        if entries.len() > REPAIR_PAGE_ENTRIES {
            return Err(broken("a page is longer than asked for"));
        }
        Ok(entries)
    }

    /// Exact copies of the first of some objects, and of how many, one at least.
    pub(super) async fn read(&self, ids: &[ObjectId]) -> Result<(usize, Copies), ApiError> {
        let (core, head, at) = match self {
            Self::Own { engine, shard, .. } => return read_here(engine, *shard, ids).await,
            Self::Other { core, head, at } => (core, *head, at),
        };
        let ids_sent = ids.iter().flat_map(|id| id.0).collect();
        let request = RepairReadRequest { head, shard: at.id.0, ids: ids_sent };
        let body = ask(core, at, &request).await?;
        let RepairReadReply { answered, copies } = decode::<RepairReadReply>(&body)?;
        let answered = answered as usize;
        core.repair.bytes.add(copies.bytes.len() as u64);
        if answered == 0 || answered > ids.len() || copies.ends.len() > answered {
            return Err(broken("copies of what was not asked for"));
        }
        Ok((answered, copies))
    }

    /// Gives it copies; how many it did not take.
    pub(super) async fn write(&self, copies: Copies) -> Result<usize, ApiError> {
        let (core, head, at) = match self {
            Self::Own { core, engine, shard } => {
                let writes = decoded(copies.ends.iter().copied(), &copies.bytes)?;
                return write_here(core, engine, *shard, writes).await;
            }
            Self::Other { core, head, at } => (core, *head, at),
        };
        if copies.ends.is_empty() {
            return Ok(0);
        }
        core.repair.bytes.add(copies.bytes.len() as u64);
        let body = ask(core, at, &RepairWriteRequest { head, shard: at.id.0, copies }).await?;
        Ok(access::<RepairWriteReply>(&body)?.refused.to_native() as usize)
    }

    /// Lets it compare its shard with the other replicas.
    pub(super) async fn check(&self) -> Result<ShardComparison, ApiError> {
        let (core, head, at) = match self {
            Self::Own { .. } => return Err(ApiError::internal("a core does not ask itself")),
            Self::Other { core, head, at } => (core, *head, at),
        };
        let body = ask(core, at, &RepairCheckRequest { head, shard: at.id.0 }).await?;
        Ok(decode::<RepairCheckReply>(&body)?.found)
    }

    /// Tells it up to where all replicas are the same.
    pub(super) async fn raise_floor(&self, floor: Hlc) -> Result<(), ApiError> {
        let (core, head, at) = match self {
            Self::Own { engine, shard, .. } => {
                return engine.set_repaired_through(*shard, floor).await;
            }
            Self::Other { core, head, at } => (core, *head, at),
        };
        let request = RepairFloorRequest { head, shard: at.id.0, floor: floor.0 };
        let body = ask(core, at, &request).await?;
        access::<RepairFloorReply>(&body)?;
        Ok(())
    }
}

/// What [`Side::begin`] says of a replica on this core.
pub(super) async fn begin_here(
    engine: &HomeEngine,
    shard: ShardId,
) -> Result<(Hlc, Hlc, TreeLeaves), ApiError> {
    let hlc = engine.hybrid_time();
    let floor = engine.repaired_through(shard)?;
    Ok((hlc, floor, engine.tree(shard).await?))
}

/// What [`Side::read`] says of a replica on this core: as many objects as fit one message,
/// whichever way it goes. Memory: that message, and the largest objects of one part.
pub(super) async fn read_here(
    engine: &HomeEngine,
    shard: ShardId,
    ids: &[ObjectId],
) -> Result<(usize, Copies), ApiError> {
    let (mut copies, mut answered) = (Copies::default(), 0);
    for part in ids.chunks(REPAIR_READ_OBJECTS) {
        for copy in engine.read_stamped(shard, part.to_vec()).await? {
            answered += 1;
            if let Some(copy) = copy {
                add_copy(&mut copies, &copy);
            }
            if copies.bytes.len() >= PEER_REPLY_BYTES {
                return Ok((answered, copies));
            }
        }
    }
    Ok((answered, copies))
}

/// Takes copies into a replica on this core; how many were refused. Those that lose to what is
/// there have arrived.
pub(super) async fn write_here(
    core: &Rc<Core>,
    engine: &HomeEngine,
    shard: ShardId,
    writes: Vec<StampedWrite>,
) -> Result<usize, ApiError> {
    core.registry.check_writable(shard)?;
    engine.set_space(core.node.space());
    let results = engine.apply_stamped(shard, Durability::Sync, writes).await?;
    publish_views(core).await?;
    let refused = results.iter().filter_map(|result| result.as_ref().err());
    if let Some(error) = refused.clone().next() {
        tracing::debug!(shard = shard.0, %error, "a copy is refused");
    }
    Ok(refused.count())
}

/// Encoded writes, each up to its end.
pub(super) fn decoded(
    ends: impl Iterator<Item = u32>,
    bytes: &[u8],
) -> Result<Vec<StampedWrite>, ApiError> {
    let mut start = 0;
    let writes = ends.map(|end| {
        let copy = bytes.get(start..end as usize).ok_or_else(|| broken("copies overlap"))?;
        start = end as usize;
        StampedWrite::decode(copy).map_err(|error| broken(&error.to_string()))
    });
    writes.collect()
}

fn broken(what: &str) -> ApiError {
    ApiError::new(ErrorCode::Protocol, format!("a replica's message: {what}"), "")
}

/// Asks the home core of a replica on another node.
async fn ask<M: RepairRequest>(
    core: &Rc<Core>,
    at: &ShardAt,
    message: &M,
) -> Result<AlignedVec<16>, ApiError> {
    let nodes = core.registry.nodes();
    let address = nodes.get(at.node).and_then(|node| node.peer_address(at.home));
    let Some(address) = address else {
        let message = format!("the cluster does not say where node {} is reached", at.node);
        return Err(ApiError::transient(ErrorCode::Unavailable, message));
    };
    let target = Target { node: Some(at.node), address };
    let body = encode_body(message)?;
    let answer = core.links.call(&target, Lane::Repair, M::NUMBER, body, PEER_PATIENCE).await?;
    let (found, expected) = (answer.header.type_number, M::Reply::NUMBER);
    if found != expected {
        return Err(broken(&format!("type {found:#06x} instead of {expected:#06x}")));
    }
    Ok(answer.body)
}
