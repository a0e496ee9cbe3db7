//! What a replica answers to one that drives a comparison.

use std::rc::Rc;

use heddle_replication::LeafSet;
use heddle_types::{ApiError, Clock, CollectionId, ErrorCode, Hlc, ObjectId, ShardId};
use heddle_wire::message::{
    ArchivedShardHead, RepairBeginReply, RepairBeginRequest, RepairCheckReply, RepairCheckRequest,
    RepairFloorReply, RepairFloorRequest, RepairPageReply, RepairPageRequest, RepairReadReply,
    RepairReadRequest, RepairWriteReply, RepairWriteRequest,
};
use heddle_wire::{AlignedVec, Body, MessageError, RepairMessage, access, encode_body};
use uuid::Uuid;

use super::check::check_here;
use super::side::{begin_here, decoded, read_here, write_here};
use crate::core::{Core, HomeEngine};
use crate::limits::REPAIR_PAGE_ENTRIES;
use crate::peer::PeerCall;

/// A reply: its type and body.
type Reply = (u16, AlignedVec<16>);

/// Is a request between nodes one about repair?
pub(crate) fn answers(number: u16) -> bool {
    RepairMessage::from_number(number).is_some()
}

/// Answers a request of the replica that drives.
///
/// Errors: `UnknownMessage` for any other request, `StaleEpoch` when no replica of the shard is at
/// home on this core, and what the engine refuses.
pub(crate) async fn answer(core: Rc<Core>, call: PeerCall) -> Result<Reply, ApiError> {
    let number = call.header.type_number;
    let Some(kind) = RepairMessage::from_number(number) else {
        return Err(MessageError::UnknownType { number }.into());
    };
    core.metrics.executed_for_peers.add(1);
    let body = &call.body;
    match kind {
        RepairMessage::Begin => {
            let message = access::<RepairBeginRequest>(body)?;
            let (engine, shard) = replica(&core, &message.head, message.shard.to_native())?;
            core.repair.note_begun(shard, core.clock.monotonic_ns());
            let (hlc, floor, leaves) = begin_here(&engine, shard).await?;
            let sums = leaves.sums().iter().flat_map(|sum| sum.to_le_bytes()).collect();
            reply(&RepairBeginReply { hlc: hlc.0, floor: floor.0, sums })
        }
        RepairMessage::Page => {
            let message = access::<RepairPageRequest>(body)?;
            let (engine, shard) = replica(&core, &message.head, message.shard.to_native())?;
            let leaves = LeafSet::from_words(message.height, message.leaves().to_vec());
            let Some(leaves) = leaves else {
                let message = "a set of leaves that no tree has";
                return Err(ApiError::new(ErrorCode::Protocol, message, "leaves of the tree"));
            };
            let limit = (message.limit.to_native() as usize).min(REPAIR_PAGE_ENTRIES);
            let entries = engine.entries(shard, &leaves, message.after(), limit).await?;
            reply(&RepairPageReply::of(&entries))
        }
        RepairMessage::Read => {
            let message = access::<RepairReadRequest>(body)?;
            let (engine, shard) = replica(&core, &message.head, message.shard.to_native())?;
            let ids: Vec<ObjectId> = message.ids().collect();
            let (answered, copies) = read_here(&engine, shard, &ids).await?;
            reply(&RepairReadReply { answered: answered as u32, copies })
        }
        RepairMessage::Write => {
            let message = access::<RepairWriteRequest>(body)?;
            let (engine, shard) = replica(&core, &message.head, message.shard.to_native())?;
            let ends = message.copies.ends.iter().map(|end| end.to_native());
            let writes = decoded(ends, &message.copies.bytes)?;
            let refused = write_here(&core, &engine, shard, writes).await?;
            reply(&RepairWriteReply { refused: refused as u32 })
        }
        RepairMessage::Check => {
            let message = access::<RepairCheckRequest>(body)?;
            let collection = CollectionId(Uuid::from_bytes(message.head.collection));
            let shard = ShardId(message.shard.to_native());
            reply(&RepairCheckReply { found: check_here(&core, collection, shard).await? })
        }
        RepairMessage::Floor => {
            let message = access::<RepairFloorRequest>(body)?;
            let (engine, shard) = replica(&core, &message.head, message.shard.to_native())?;
            engine.set_repaired_through(shard, Hlc(message.floor.to_native())).await?;
            reply(&RepairFloorReply { floor: engine.repaired_through(shard)?.0 })
        }
    }
}

fn reply<M: Body>(message: &M) -> Result<Reply, ApiError> {
    Ok((M::NUMBER, encode_body(message)?))
}

/// The engine that holds a replica of the shard on this core.
fn replica(
    core: &Core,
    head: &ArchivedShardHead,
    shard: u64,
) -> Result<(HomeEngine, ShardId), ApiError> {
    let (collection, shard) = (CollectionId(Uuid::from_bytes(head.collection)), ShardId(shard));
    let route = core.registry.route_of(collection);
    let here = route.and_then(|route| {
        let place = &route.shards[route.position(shard)?];
        Some(place.replicas[place.here()?])
    });
    if here.is_none_or(|here| here.home != core.index) {
        let message = format!("shard {shard} is not at home on this core");
        return Err(ApiError::transient(ErrorCode::StaleEpoch, message));
    }
    Ok((core.engine()?, shard))
}
