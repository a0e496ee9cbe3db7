//! Writing objects: dealt to their home cores, acknowledged when durable and searchable everywhere,
//! or as soon as the logs have taken them when the request says so.

use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::{Durability, ItemVector, PutItem, PutMode, Written};
use heddle_core::validate;
use heddle_runtime::yield_if_needed;
use heddle_types::{ApiError, Distance, ErrorCode, Hlc, ObjectId, Stamp};
use heddle_wire::message::{
    ArchivedPutRequest, PutAtReply, PutAtRequest, PutMode as WireMode, PutReply, PutRequest,
    PutWithReply, PutWithRequest, ShardPutReply, ShardPutRequest,
};
use heddle_wire::{Frame, access};

use super::Deadline;
use super::delete::all_refused;
use super::remote::{self, Party};
use super::replicas::{ConditionalChange, ConditionalItem, Coordination};
use super::terms::Terms;
use crate::admission;
use crate::core::Core;
use crate::message::{CoreReply, CoreRequest, expect_reply, unexpected};
use crate::registry::{CollectionRoute, ShardAt};
use crate::server::request::RequestFrame;

/// Bytes copied out of a request between two offers to yield (256 KiB, about 30 us).
pub(super) const COPY_BYTES: usize = 256 << 10;

/// What is sent to one shard.
enum Parcel {
    /// To a core of this node.
    Here(Vec<PutItem>),
    /// To another node.
    There(PutRequest),
}

/// The objects of one shard, with their positions in the request.
struct Group {
    positions: Vec<usize>,
    parcel: Parcel,
}

/// What a shard answered, object by object.
pub(super) enum Outcomes {
    Here(Vec<Result<Written, ApiError>>),
    There(Vec<Result<Hlc, ApiError>>),
}

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    admission::of_node(core, request.kind)?;
    let message = access::<PutRequest>(&request.body)?;
    let terms = Terms::plain(Durability::Sync);
    let outcomes = put(core, request, message, &terms, deadline).await?;
    super::reply(request, &plain_reply(&outcomes))
}

pub(super) async fn answer_with(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    admission::of_node(core, request.kind)?;
    let message = access::<PutWithRequest>(&request.body)?;
    let durability = message.durability();
    let asked = super::durability(durability);
    let outcomes = put(core, request, &message.put, &Terms::plain(asked), deadline).await?;
    super::reply(request, &PutWithReply::new(durability, plain_reply(&outcomes)))
}

pub(super) async fn answer_at(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    admission::of_node(core, request.kind)?;
    let message = access::<PutAtRequest>(&request.body)?;
    let terms = Terms::of(core, &message.terms)?;
    let outcomes = put(core, request, &message.put, &terms, deadline).await?;
    let mut reply = PutAtReply::default();
    outcomes.iter().for_each(|outcome| reply.push(outcome.as_ref().copied()));
    super::reply(request, &reply)
}

fn plain_reply(outcomes: &[Result<Stamp, ApiError>]) -> PutReply {
    let mut reply = PutReply::default();
    let hlcs = outcomes.iter().map(|outcome| outcome.as_ref().map(|stamp| stamp.hlc));
    hlcs.for_each(|outcome| reply.push(outcome));
    reply
}

async fn put(
    core: &Rc<Core>,
    request: &RequestFrame,
    message: &ArchivedPutRequest,
    terms: &Terms,
    deadline: Deadline<'_>,
) -> Result<Vec<Result<Stamp, ApiError>>, ApiError> {
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let columns = columns_of(&route, message)?;
    let route = with_dims(core, route, message, &columns).await?;
    let is_coordinated = terms.are_coordinated(&route);
    let groups = deal(&route, message, &columns, is_coordinated).await;
    let (mode, durability) = (put_mode(message), terms.durability);
    if mode == PutMode::Merge && terms.ticket.is_some() {
        // What a merge makes depends on what it finds: sent again it would be another write under
        // the same stamp, and replicas could not tell the two apart.
        let message = "a merge brings a ticket";
        return Err(ApiError::new(ErrorCode::InvalidArgument, message, "no ticket, or whole puts"));
    }
    if is_coordinated {
        let coordination = Coordination { core, route: &route, terms, deadline };
        return coordinate(&coordination, groups, (message.len(), mode)).await;
    }
    let calls =
        groups.into_iter().zip(&route.firsts).filter(|(group, _)| !group.positions.is_empty());
    let route = &*route;
    let calls = calls.map(|(group, shard)| async move {
        let Group { positions, parcel } = group;
        let outcomes = match parcel {
            Parcel::Here(items) => {
                let order = CoreRequest::Put { shard: shard.id, mode, durability, items };
                let reply = core.write_home(shard.home, order).await;
                reply.and_then(|reply| expect_reply!(reply, Written)).map(Outcomes::Here)
            }
            Parcel::There(put) => {
                Box::pin(put_there(core, route, shard, durability, put, deadline)).await
            }
        };
        (positions, outcomes)
    });
    let replies = futures::future::join_all(calls).await;
    if let Some(error) = all_refused(replies.iter().map(|(_, reply)| reply)) {
        return Err(error);
    }
    Ok(merge(message.len(), replies))
}

/// Writes to shards that are coordinated.
async fn coordinate(
    coordination: &Coordination<'_>,
    groups: Vec<Group>,
    (count, mode): (usize, PutMode),
) -> Result<Vec<Result<Stamp, ApiError>>, ApiError> {
    let groups = groups.into_iter().enumerate();
    let calls = groups.filter(|(_, group)| !group.positions.is_empty()).map(|(place, group)| {
        let Group { positions, parcel } = group;
        let Parcel::Here(items) = parcel else {
            unreachable!("objects of a coordinated request are dealt to this node")
        };
        let items = items.into_iter().zip(&positions).map(|(item, position)| ConditionalItem {
            condition: coordination.terms.condition(*position),
            id: item.id,
            change: match mode {
                PutMode::Replace => ConditionalChange::Replace(item),
                PutMode::Merge => ConditionalChange::Merge(item),
            },
        });
        let items: Vec<ConditionalItem> = items.collect();
        async move { (positions, coordination.shard(place, items).await) }
    });
    let replies = futures::future::join_all(calls).await;
    if let Some(error) = all_refused(replies.iter().map(|(_, reply)| reply)) {
        return Err(error);
    }
    let missing = || Err(ApiError::internal("a coordinated write was not decided"));
    let mut outcomes: Vec<Result<Stamp, ApiError>> = (0..count).map(|_| missing()).collect();
    for (positions, reply) in replies {
        let results = match reply {
            Ok(results) => results,
            Err(error) => positions.iter().map(|_| Err(error.clone())).collect(),
        };
        for (position, result) in positions.iter().zip(results) {
            outcomes[*position] = result.map(|(stamp, _)| stamp);
        }
    }
    Ok(outcomes)
}

/// Position in the definition of the vector of each column.
pub(super) fn columns_of(
    route: &CollectionRoute,
    message: &ArchivedPutRequest,
) -> Result<Vec<usize>, ApiError> {
    let columns = message.vectors.iter();
    columns.map(|column| validate::vector_index(&route.config, &column.name)).collect()
}

/// The engine's word for what a put does to objects that exist.
pub(super) fn put_mode(message: &ArchivedPutRequest) -> PutMode {
    match message.mode() {
        WireMode::Replace => PutMode::Replace,
        WireMode::Merge => PutMode::Merge,
    }
}

/// Writes objects of a shard of another node.
async fn put_there(
    core: &Core,
    route: &CollectionRoute,
    shard: &ShardAt,
    durability: Durability,
    put: PutRequest,
    deadline: Deadline<'_>,
) -> Result<Outcomes, ApiError> {
    let message = ShardPutRequest {
        head: remote::head(core, route),
        shard: shard.id.0,
        durability: super::wire_durability(durability) as u8,
        put,
    };
    let reply = remote::write(core, Party::home_of(shard), &message, deadline).await?;
    // Whatever is wrong with the answer, the other node has worked on the request.
    let decoded = reply.decode::<ShardPutReply>();
    let put = decoded.map_err(|error| ApiError::unknown(error.message))?.put;
    if put.outcomes.len() != message.put.len() {
        return Err(ApiError::unknown(reply.broken("not one outcome an object").message));
    }
    Ok(Outcomes::There(put.into_results()))
}

type ShardReply = (Vec<usize>, Result<Outcomes, ApiError>);

fn merge(count: usize, replies: Vec<ShardReply>) -> Vec<Result<Stamp, ApiError>> {
    let mut outcomes: Vec<Option<Result<Stamp, ApiError>>> = vec![None; count];
    for (positions, reply) in replies {
        match reply {
            Ok(Outcomes::Here(results)) => {
                for (position, result) in positions.iter().zip(results) {
                    outcomes[*position] = Some(result.map(|written| written.stamp));
                }
            }
            Ok(Outcomes::There(results)) => {
                for (position, result) in positions.iter().zip(results) {
                    // The other node tells of the time alone.
                    let stamp = result.map(|hlc| Stamp { hlc, ..Stamp::default() });
                    outcomes[*position] = Some(stamp);
                }
            }
            Err(error) => {
                positions.iter().for_each(|at| outcomes[*at] = Some(Err(error.clone())));
            }
        }
    }
    let missing = || ApiError::internal("a home core did not answer for each object");
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(missing()))).collect()
}

/// Copies the objects out of the request, each to the group of its shard.
async fn deal(
    route: &CollectionRoute,
    message: &ArchivedPutRequest,
    columns: &[usize],
    is_coordinated: bool,
) -> Vec<Group> {
    let parcel = |shard: &ShardAt| match shard.is_here || is_coordinated {
        true => Parcel::Here(Vec::new()),
        false => Parcel::There(PutRequest::new("", "", 0, message.mode())),
    };
    let group = |shard| Group { positions: Vec::new(), parcel: parcel(shard) };
    let mut groups: Vec<Group> = route.firsts.iter().map(group).collect();
    let mut copied = 0;
    for (position, id) in message.ids().enumerate() {
        let group = &mut groups[route.place_of(&id)];
        group.positions.push(position);
        match &mut group.parcel {
            Parcel::Here(items) => {
                let item = item_at(message, columns, position, id);
                copied += size_of_item(&item);
                items.push(item);
            }
            Parcel::There(put) => copied += copy_object(message, position, id, put),
        }
        if copied >= COPY_BYTES {
            copied = 0;
            yield_if_needed().await;
        }
    }
    groups
}

/// An object of a request as the engine takes it.
pub(super) fn item_at(
    message: &ArchivedPutRequest,
    columns: &[usize],
    position: usize,
    id: ObjectId,
) -> PutItem {
    let vectors = message.vectors_of(position);
    let vectors = vectors.map(|(column, values)| ItemVector {
        index: columns[column] as u8,
        values: values.to_vec(),
    });
    PutItem { id, properties: message.row(position).to_vec(), vectors: vectors.collect() }
}

pub(super) fn size_of_item(item: &PutItem) -> usize {
    item.properties.len() + item.vectors.iter().map(|vector| 4 * vector.values.len()).sum::<usize>()
}

/// Copies an object into the request to another node; says how many bytes that were.
fn copy_object(
    message: &ArchivedPutRequest,
    position: usize,
    id: ObjectId,
    put: &mut PutRequest,
) -> usize {
    let row = message.row(position);
    put.push(&id, row);
    let mut copied = row.len();
    for (column, values) in message.vectors_of(position) {
        let fits = put.push_vector(&message.vectors[column].name, values);
        assert!(fits, "a column of a checked request has vectors of one length");
        copied += 4 * values.len();
    }
    copied
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
        CoreReply::Collection(_, fixed) if fixed.tenants.is_some() => {
            // The tenant may have been deactivated meanwhile.
            super::tenant::settled(&fixed, message.tenant.as_str())
        }
        CoreReply::Collection(_, route) => Ok(route),
        CoreReply::Done => {
            Err(ApiError::transient(ErrorCode::Unavailable, "the collection was dropped meanwhile"))
        }
        other => Err(unexpected(&other)),
    }
}
