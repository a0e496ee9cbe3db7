//! Nearest neighbours: searched on the core that got the request, against the published views, and
//! on the other nodes that hold shards of the collection.
//!
//! Several shards of a collection are searched with a share of `ef` and `k`; then only those are
//! searched again in full whose worst hit would still be among the best, because they may hold more
//! of them. Filters are evaluated by the home cores, which hold the property indexes; the bitmap
//! they return is read in place.

mod fetch;
mod local;
mod merge;
mod newest;
mod peer;
mod spread;

use std::rc::Rc;

use heddle_core::engine::Want;
use heddle_core::validate;
use heddle_runtime::yield_if_needed;
use heddle_types::{ApiError, Clock, Consistency, ErrorCode, ObjectId};
use heddle_wire::message::{
    ArchivedSearchRequest, ObjectColumns, SearchAtReply, SearchAtRequest, SearchReply,
    SearchRequest, Want as WireWant,
};
use heddle_wire::{Frame, access};

use self::local::{Query, Target, Workspace, open_targets, search_shard, step_evaluations};
use self::merge::{Found, Spec, may_hold_more, merge, share_of};
use self::newest::Newest;
use self::spread::Spread;
use super::Deadline;
use super::get::fetch;
use super::replicas::Selection;
use crate::core::Core;
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

pub(super) use self::peer::answer as answer_peer;

/// Most neighbours of all queries of one request together: their ids and distances are 20 MB.
const HITS_MAX: usize = 1_000_000;
/// Bytes of a neighbour while the reply is gathered.
const FOUND_BYTES: usize = size_of::<Found>();

/// Memory of a search request, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct SearchRoom {
    workspace: Workspace,
    targets: Vec<Target>,
    // What each shard found for the query at hand, and the best of all.
    lists: Vec<Vec<Found>>,
    best: Vec<Found>,
    // The hits of all queries.
    found: Vec<Found>,
    reply: SearchReply,
}

impl SearchRoom {
    /// Forgets the request; the memory stays.
    fn clear(&mut self) {
        let Self { workspace, targets, lists, best, found, reply } = self;
        workspace.clear();
        targets.clear();
        lists.iter_mut().for_each(Vec::clear);
        best.clear();
        found.clear();
        let SearchReply { ends, ids, distances, objects, evaluations, server_us, queue_us } = reply;
        ends.clear();
        ids.clear();
        distances.clear();
        *objects = ObjectColumns::default();
        evaluations.clear();
        server_us.clear();
        *queue_us = 0;
    }

    /// Closes the part of a query: its hits are the last ones found.
    fn finish_query(&mut self, evaluations: u64, spent_us: u64) {
        self.reply.ends.push(self.found.len() as u32);
        self.reply.evaluations.push(u32::try_from(evaluations).unwrap_or(u32::MAX));
        self.reply.server_us.push(u32::try_from(spent_us).unwrap_or(u32::MAX));
    }
}

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<SearchRequest>(&request.body)?;
    let mut room = core.take_search_room();
    let terms = (Consistency::One, deadline);
    let answered = match answer_in(core, request, message, terms, &mut room).await {
        Ok(()) => super::reply(request, &room.reply),
        Err(error) => Err(error),
    };
    room.clear();
    core.give_search_room(room);
    answered
}

pub(super) async fn answer_at(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let at = access::<SearchAtRequest>(&request.body)?;
    let mut room = core.take_search_room();
    let terms = (at.level(), deadline);
    let answered = match answer_in(core, request, &at.search, terms, &mut room).await {
        Ok(()) => {
            let reply = SearchAtReply { search: std::mem::take(&mut room.reply) };
            super::reply(request, &reply)
        }
        Err(error) => Err(error),
    };
    room.clear();
    core.give_search_room(room);
    answered
}

async fn answer_in(
    core: &Rc<Core>,
    request: &RequestFrame,
    message: &ArchivedSearchRequest,
    (level, deadline): (Consistency, Deadline<'_>),
    room: &mut SearchRoom,
) -> Result<(), ApiError> {
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let filter = super::decode_filter(&route.config, &message.filter)?;
    let near = match message.near_id() {
        Some(id) => {
            let near = near_vector(core, &route, message, id, request, deadline);
            Some(Box::pin(near).await?)
        }
        None => None,
    };
    let queries = near.as_deref().unwrap_or_else(|| message.queries());
    let count = message.query_count();
    let spec = check(&route, message, queries, count)?;
    let offset = message.offset.to_native() as usize;
    let mut since_ns = deadline.begun_ns();
    room.reply.queue_us = (since_ns.saturating_sub(request.arrived_ns) / 1_000) as u32;
    request.reply.reserve(spec.k as usize * count * FOUND_BYTES)?;
    // Taken before the filters and the views: what they name is not reused while it is held.
    let pin = core.reader.pin();
    let selections = match (level, route.is_replicated) {
        (Consistency::One, _) | (_, false) => vec![Selection::of(core, &route)],
        _ => Selection::several(core, &route, level)?,
    };
    let selection = &selections[0];
    open_targets(core, &selection.places(), filter.as_ref(), &mut room.targets).await?;
    if selections.len() == 1 && selection.is_all_here() {
        for (number, values) in queries.chunks_exact(queries.len() / count).enumerate() {
            if number > 0 {
                yield_if_needed().await;
                deadline.check()?;
            }
            let evaluations = search_all(core, Query { values, deadline }, spec, room).await?;
            room.found.extend(room.best.iter().skip(offset));
            let now_ns = core.clock.monotonic_ns();
            let spent_us = now_ns.saturating_sub(since_ns) / 1_000;
            since_ns = now_ns;
            room.finish_query(evaluations, spent_us);
        }
    } else {
        let (vector, filter) = (&message.vector, &message.filter);
        let spread =
            |selection| Spread::new(core, selection, (vector, filter), (queries, count), deadline);
        if selections.len() == 1 {
            Box::pin(spread(selection).search(spec, offset, room)).await?;
        } else {
            let spreads: Vec<Spread<'_>> = selections.iter().map(spread).collect();
            let newest = Newest { core, route: &route, spreads: &spreads, deadline };
            Box::pin(newest.search(spec, offset, room)).await?;
        }
    }
    core.metrics.queries.add(count as u64);
    drop(pin);
    let want = WireWant::from_bits(message.want);
    if want.any() {
        Box::pin(fetch::attach_objects(core, selection, room, message.want, request, deadline))
            .await?;
    }
    for hit in &room.found {
        room.reply.ids.extend_from_slice(&hit.id);
        room.reply.distances.push(hit.distance);
    }
    Ok(())
}

/// Everything that can be refused before any work is done.
fn check(
    route: &CollectionRoute,
    message: &ArchivedSearchRequest,
    queries: &[f32],
    count: usize,
) -> Result<Spec, ApiError> {
    let config = &route.config;
    let vector = validate::vector_index(config, &message.vector)?;
    let k = message.k.to_native() + message.offset.to_native();
    let ef = message.ef.to_native();
    if message.autocut.to_native() != 0 {
        return Err(ApiError::new(ErrorCode::Unsupported, "autocut is not supported", "autocut 0"));
    }
    if k as usize * count > HITS_MAX {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("{count} queries with {k} neighbours each"),
            format!("at most {HITS_MAX} neighbours together"),
        ));
    }
    let dims = queries.len() / count;
    for query in queries.chunks_exact(dims) {
        validate::check_search(config, vector, query, k, ef)?;
    }
    let ef = if ef == 0 { config.vectors[vector].index.ef } else { ef };
    Ok(Spec {
        vector,
        k,
        ef: ef.max(k),
        max_distance: message.max_distance(),
        step_evaluations: step_evaluations(dims),
    })
}

/// The stored vector of an object.
async fn near_vector(
    core: &Rc<Core>,
    route: &CollectionRoute,
    message: &ArchivedSearchRequest,
    id: ObjectId,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Vec<f32>, ApiError> {
    let vector = validate::vector_index(&route.config, &message.vector)?;
    let want = Want { properties: false, vectors: true };
    let Some(object) = fetch(core, route, id, want, request, deadline).await? else {
        let message = format!("object {id} does not exist");
        return Err(ApiError::new(ErrorCode::ObjectNotFound, message, "an existing object"));
    };
    let mut vectors = object.vectors.into_iter();
    let Some(near) = vectors.find(|other| usize::from(other.index) == vector) else {
        let name = &route.config.vectors[vector].name;
        let message = format!("object {id} has no vector {name:?}");
        return Err(ApiError::new(ErrorCode::InvalidVector, message, "an object that has it"));
    };
    Ok(near.values)
}

/// Searches every shard, all of them on this node, and merges into `room.best`; says how many
/// distances that took.
async fn search_all(
    core: &Rc<Core>,
    query: Query<'_>,
    spec: Spec,
    room: &mut SearchRoom,
) -> Result<u64, ApiError> {
    let SearchRoom { workspace, targets, lists, best, .. } = room;
    let shards = targets.len();
    let first = if shards == 1 { spec } else { share_of(spec, shards) };
    let mut evaluations = 0;
    lists.resize_with(shards, Vec::new);
    for (target, list) in targets.iter().zip(&mut *lists) {
        list.clear();
        evaluations += search_shard(core, target, query, first, workspace, list).await?.evaluations;
    }
    merge(lists.iter().flatten(), spec.k, best);
    if first.k < spec.k || first.ef < spec.ef {
        let mut again = false;
        for (target, list) in targets.iter().zip(&mut *lists) {
            if may_hold_more(list, first.k, best, spec.k) {
                let looked = search_shard(core, target, query, spec, workspace, list).await?;
                evaluations += looked.evaluations;
                again = true;
            }
        }
        if again {
            merge(lists.iter().flatten(), spec.k, best);
        }
    }
    Ok(evaluations)
}
