//! Writing objects: dealt to their home cores, acknowledged when durable and searchable everywhere,
//! or as soon as the logs have taken them when the request says so.

use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::{Durability, ItemVector, PutItem, PutMode, Written};
use heddle_core::validate;
use heddle_runtime::yield_if_needed;
use heddle_types::{ApiError, Distance, ErrorCode};
use heddle_wire::message::{
    ArchivedPutRequest, PutMode as WireMode, PutReply, PutRequest, PutWithReply, PutWithRequest,
};
use heddle_wire::{Frame, access};

use super::delete::all_refused;
use crate::admission;
use crate::core::Core;
use crate::message::{CoreReply, CoreRequest, expect_reply, unexpected};
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

/// Bytes copied out of a request between two offers to yield (256 KiB, about 30 us).
const COPY_BYTES: usize = 256 << 10;

/// The objects of one shard, with their positions in the request.
#[derive(Default)]
struct Group {
    positions: Vec<usize>,
    items: Vec<PutItem>,
}

pub(super) async fn answer(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    admission::of_node(core, request.kind)?;
    let message = access::<PutRequest>(&request.body)?;
    super::reply(request, &put(core, message, Durability::Sync).await?)
}

pub(super) async fn answer_with(
    core: &Rc<Core>,
    request: &RequestFrame,
) -> Result<Frame, ApiError> {
    admission::of_node(core, request.kind)?;
    let message = access::<PutWithRequest>(&request.body)?;
    let durability = message.durability();
    let put = put(core, &message.put, super::durability(durability)).await?;
    super::reply(request, &PutWithReply::new(durability, put))
}

async fn put(
    core: &Rc<Core>,
    message: &ArchivedPutRequest,
    durability: Durability,
) -> Result<PutReply, ApiError> {
    let route = super::route(core, &message.collection, &message.tenant)?;
    let columns = message
        .vectors
        .iter()
        .map(|column| validate::vector_index(&route.config, &column.name))
        .collect::<Result<Vec<usize>, ApiError>>()?;
    let route = with_dims(core, route, message, &columns).await?;
    let mode = match message.mode() {
        WireMode::Replace => PutMode::Replace,
        WireMode::Merge => PutMode::Merge,
    };
    let groups = deal(&route, message, &columns).await;
    let calls = groups.into_iter().zip(&route.shards).filter(|(group, _)| !group.items.is_empty());
    let calls = calls.map(|(group, (shard, home))| async move {
        let Group { positions, items } = group;
        let order = CoreRequest::Put { shard: *shard, mode, durability, items };
        let reply = core.call_write(*home, order).await;
        (positions, reply.and_then(|reply| expect_reply!(reply, Written)))
    });
    let replies = futures::future::join_all(calls).await;
    if let Some(error) = all_refused(replies.iter().map(|(_, reply)| reply)) {
        return Err(error);
    }
    Ok(merge(message.len(), replies))
}

type ShardReply = (Vec<usize>, Result<Vec<Result<Written, ApiError>>, ApiError>);

fn merge(count: usize, replies: Vec<ShardReply>) -> PutReply {
    let mut outcomes: Vec<Option<Result<Written, ApiError>>> = vec![None; count];
    for (positions, reply) in replies {
        match reply {
            Ok(results) => {
                for (position, result) in positions.iter().zip(results) {
                    outcomes[*position] = Some(result);
                }
            }
            Err(error) => {
                positions.iter().for_each(|at| outcomes[*at] = Some(Err(error.clone())));
            }
        }
    }
    let mut reply = PutReply::default();
    let missing = ApiError::internal("a home core did not answer for each object");
    for outcome in &outcomes {
        reply.push(match outcome {
            Some(Ok(written)) => Ok(written.stamp.hlc),
            Some(Err(error)) => Err(error),
            None => Err(&missing),
        });
    }
    reply
}

/// Copies the objects out of the request, each to the group of its shard.
async fn deal(
    route: &CollectionRoute,
    message: &ArchivedPutRequest,
    columns: &[usize],
) -> Vec<Group> {
    let mut groups: Vec<Group> = route.shards.iter().map(|_| Group::default()).collect();
    let mut copied = 0;
    for (position, id) in message.ids().enumerate() {
        let properties = message.row(position).to_vec();
        let vectors: Vec<ItemVector> = message
            .vectors_of(position)
            .map(|(column, values)| ItemVector {
                index: columns[column] as u8,
                values: values.to_vec(),
            })
            .collect();
        copied += properties.len();
        copied += vectors.iter().map(|vector| 4 * vector.values.len()).sum::<usize>();
        let group = &mut groups[route.place_of(&id)];
        group.positions.push(position);
        group.items.push(PutItem { id, properties, vectors });
        if copied >= COPY_BYTES {
            copied = 0;
            yield_if_needed().await;
        }
    }
    groups
}

/// Fixes the dimensions that the collection leaves open, by the vectors of this request.
async fn with_dims(
    core: &Rc<Core>,
    route: Arc<CollectionRoute>,
    message: &ArchivedPutRequest,
    columns: &[usize],
) -> Result<Arc<CollectionRoute>, ApiError> {
    let mut dims = Vec::new();
    for (column, index) in message.vectors.iter().zip(columns) {
        let declared = &route.config.vectors[*index];
        let width = column.dims.to_native();
        // Vectors that would be refused anyway must not decide: a vector of zeros has no direction,
        // and that matters to the cosine alone.
        let zeros_count = declared.distance != Distance::Cosine;
        let usable = column.values().chunks_exact(width as usize).any(|vector| {
            vector.iter().all(|x| x.is_finite())
                && (zeros_count || vector.iter().any(|x| *x != 0.0))
        });
        if declared.dims.is_none() && usable {
            dims.push((declared.name.clone(), width));
        }
    }
    if dims.is_empty() {
        return Ok(route);
    }
    let order = CoreRequest::FixDims { collection: route.id, dims };
    match core.call(core.meta_index(), order).await? {
        CoreReply::Collection(_, route) => Ok(route),
        CoreReply::Done => {
            Err(ApiError::transient(ErrorCode::Unavailable, "the collection was dropped meanwhile"))
        }
        other => Err(unexpected(&other)),
    }
}
