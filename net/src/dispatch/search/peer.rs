//! Searching shards of this node for another one.

use std::rc::Rc;

use heddle_core::validate;
use heddle_runtime::yield_if_needed;
use heddle_types::{ApiError, ErrorCode};
use heddle_wire::message::{ArchivedShardSearchRequest, ShardSearchReply};

use super::local::{Looked, Query, open_targets, search_shard, step_evaluations};
use super::merge::{Found, Spec};
use super::{FOUND_BYTES, SearchRoom};
use crate::core::Core;
use crate::dispatch::{Deadline, decode_filter};
use crate::limits::PEER_HITS_MAX;
use crate::registry::{CollectionRoute, ShardAt};
use crate::server::request::ReplyBudget;

/// Searches every pair of a request; `shards` are those that it names, in its order.
pub(in crate::dispatch) async fn answer(
    core: &Rc<Core>,
    route: &CollectionRoute,
    shards: &[ShardAt],
    message: &ArchivedShardSearchRequest,
    budget: &ReplyBudget,
    deadline: Deadline<'_>,
) -> Result<ShardSearchReply, ApiError> {
    let mut room = core.take_search_room();
    let answered = answer_in(core, route, shards, message, (budget, deadline), &mut room).await;
    room.clear();
    core.give_search_room(room);
    answered
}

async fn answer_in(
    core: &Rc<Core>,
    route: &CollectionRoute,
    shards: &[ShardAt],
    message: &ArchivedShardSearchRequest,
    (budget, deadline): (&ReplyBudget, Deadline<'_>),
    room: &mut SearchRoom,
) -> Result<ShardSearchReply, ApiError> {
    let (spec, pairs) = check(route, message)?;
    budget.reserve(spec.k as usize * pairs * FOUND_BYTES)?;
    let filter = decode_filter(&route.config, &message.filter)?;
    // Taken before the filters and the views: what they name is not reused while it is held.
    let _pin = core.reader.pin();
    let SearchRoom { workspace, targets, found, .. } = room;
    open_targets(core, shards, filter.as_ref(), targets).await?;
    let mut reply = ShardSearchReply::default();
    let dims = message.dims.to_native() as usize;
    let mut start = 0;
    for (number, values) in message.queries().chunks_exact(dims).enumerate() {
        let end = message.ends().get(number).map_or(shards.len(), |end| *end as usize);
        let count = if message.ends().is_empty() { shards.len() } else { end - start };
        for at in 0..count {
            let place = match message.places().get(start + at) {
                Some(place) => usize::from(*place),
                None => at,
            };
            found.clear();
            let query = Query { values, deadline };
            let looked = search_shard(core, &targets[place], query, spec, workspace, found).await?;
            push_pair(&mut reply, found, looked);
            yield_if_needed().await;
            deadline.check()?;
        }
        start = end;
    }
    Ok(reply)
}

/// Checks what the definition says about a request; says also how many pairs it has.
fn check(
    route: &CollectionRoute,
    message: &ArchivedShardSearchRequest,
) -> Result<(Spec, usize), ApiError> {
    let config = &route.config;
    let vector = validate::vector_index(config, &message.vector)?;
    let (k, ef, dims) =
        (message.k.to_native(), message.ef.to_native(), message.dims.to_native() as usize);
    let queries = message.queries().len() / dims;
    let all = queries * message.shards().len();
    let pairs = if message.ends().is_empty() { all } else { message.places().len() };
    if k as usize * pairs > PEER_HITS_MAX.max(k as usize) {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("{pairs} queries in shards with {k} neighbours each"),
            format!("at most {PEER_HITS_MAX} neighbours together"),
        ));
    }
    for query in message.queries().chunks_exact(dims) {
        validate::check_search(config, vector, query, k, ef)?;
    }
    let max_distance = message.max_distance();
    let step_evaluations = step_evaluations(dims);
    Ok((Spec { vector, k, ef: ef.max(k), max_distance, step_evaluations }, pairs))
}

fn push_pair(reply: &mut ShardSearchReply, found: &[Found], looked: Looked) {
    for hit in found {
        reply.ids.extend_from_slice(&hit.id);
        reply.slots.push(hit.slot);
        reply.distances.push(hit.distance);
    }
    reply.ends.push(reply.distances.len() as u32);
    reply.evaluations.push(u32::try_from(looked.evaluations).unwrap_or(u32::MAX));
    reply.exact.push(u8::from(looked.exact));
}
