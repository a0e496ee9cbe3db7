//! Reading objects by id.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::{Object, StampedChange, StampedWrite, Want};
use heddle_types::{ApiError, Consistency, ObjectId};
use heddle_wire::message::{
    ArchivedGetRequest, GetAtReply, GetAtRequest, GetReply, GetRequest, ObjectColumns,
};
use heddle_wire::{Frame, access};

use super::chunks::{push_object, size_of_object};
use super::objects::{By, Gathering, Part, Wanted, wire_want};
use super::replicas::{self, Selection};
use super::{Deadline, engine_want};
use crate::core::Core;
use crate::registry::CollectionRoute;
use crate::server::request::{ReplyBudget, RequestFrame};

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<GetRequest>(&request.body)?;
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let found = if route.is_replicated {
        let reading = Reading { core, route: &route, budget: &request.reply, deadline };
        reading.newest(message, Consistency::Quorum).await?
    } else {
        one_each(core, &route, message, &request.reply, deadline).await?
    };
    super::reply(request, &reply_of(&route, message, &found))
}

pub(super) async fn answer_at(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let at = access::<GetAtRequest>(&request.body)?;
    let message = &at.get;
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let reading = Reading { core, route: &route, budget: &request.reply, deadline };
    let found = reading.newest(message, at.level()).await?;
    let stamps = found.iter().flatten().flat_map(|object| object.stamp.encode()).collect();
    super::reply(request, &GetAtReply { get: reply_of(&route, message, &found), stamps })
}

fn reply_of(
    route: &CollectionRoute,
    message: &ArchivedGetRequest,
    found: &[Option<Object>],
) -> GetReply {
    let want = engine_want(message.want);
    let mut objects = ObjectColumns::default();
    for object in found.iter().flatten() {
        push_object(&mut objects, &route.config, object, want);
    }
    GetReply { found: found.iter().map(|object| u8::from(object.is_some())).collect(), objects }
}

/// Reads each object from one replica of its shard.
async fn one_each(
    core: &Rc<Core>,
    route: &CollectionRoute,
    message: &ArchivedGetRequest,
    budget: &ReplyBudget,
    deadline: Deadline<'_>,
) -> Result<Vec<Option<Object>>, ApiError> {
    let config = &route.config;
    let bytes = Cell::new(0);
    let gathering = Gathering { core, config, want: message.want, budget, deadline, bytes };
    let count = message.ids().len();
    gathering.expect(count)?;
    let groups = by_shard(route, message.ids());
    let selection = Selection::of(core, route);
    gathering.all(&selection, parts_of(&selection, &groups), count).await
}

/// The groups of a request, each at the replica that is read.
fn parts_of<'w>(selection: &Selection<'_>, groups: &'w [Vec<Wanted>]) -> Vec<Part<'w>> {
    let groups = groups.iter().enumerate().filter(|(_, wanted)| !wanted.is_empty());
    let part = |(place, wanted)| Part {
        place,
        shard: selection.at(place),
        wanted: Vec::as_slice(wanted),
        by: By::Id,
    };
    groups.map(part).collect()
}

/// Reads of objects that have to be the newest of several replicas.
struct Reading<'a> {
    core: &'a Rc<Core>,
    route: &'a Arc<CollectionRoute>,
    budget: &'a ReplyBudget,
    deadline: Deadline<'a>,
}

impl Reading<'_> {
    /// The newest version of each object that a level knows.
    ///
    /// Errors: the first one, of whichever object.
    async fn newest(
        &self,
        message: &ArchivedGetRequest,
        level: Consistency,
    ) -> Result<Vec<Option<Object>>, ApiError> {
        let want = engine_want(message.want);
        let groups = by_shard(self.route, message.ids());
        let bytes = Cell::new(0);
        let reads = groups.iter().enumerate().filter(|(_, group)| !group.is_empty());
        let reads = reads.map(|(place, group)| async move {
            let ids: Vec<ObjectId> = group.iter().map(|wanted| wanted.id).collect();
            let terms = (level, self.deadline);
            (group, replicas::read(self.core, self.route, place, &ids, terms).await)
        });
        let mut found: Vec<Option<Object>> = (0..message.ids().len()).map(|_| None).collect();
        for (group, copies) in futures::future::join_all(reads).await {
            for (wanted, copy) in group.iter().zip(copies) {
                let object = copy?.and_then(|copy| object_of(copy, want));
                if let Some(object) = &object {
                    bytes.set(bytes.get() + size_of_object(object));
                }
                found[wanted.position] = object;
            }
            self.budget.reserve(bytes.get())?;
        }
        Ok(found)
    }
}

/// The object of a copy, with the parts that are wanted; none of a deletion.
fn object_of(copy: StampedWrite, want: Want) -> Option<Object> {
    let StampedChange::Put { created_us, vectors, properties } = copy.change else { return None };
    Some(Object {
        id: copy.id,
        created_us,
        updated_us: i64::try_from(copy.stamp.hlc.unix_us()).unwrap_or(i64::MAX),
        stamp: copy.stamp,
        properties: if want.properties { properties } else { Vec::new() },
        vectors: if want.vectors { vectors } else { Vec::new() },
    })
}

/// Reads one object, from one replica.
pub(super) async fn fetch(
    core: &Rc<Core>,
    route: &CollectionRoute,
    id: ObjectId,
    want: Want,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Option<Object>, ApiError> {
    let (config, budget) = (&route.config, &request.reply);
    let (want, bytes) = (wire_want(want), Cell::new(0));
    let gathering = Gathering { core, config, want, budget, deadline, bytes };
    let groups = by_shard(route, std::iter::once(id));
    let selection = Selection::of(core, route);
    let parts = parts_of(&selection, &groups);
    Ok(gathering.all(&selection, parts, 1).await?.into_iter().next().flatten())
}

/// Deals ids to the shards of a collection, each with its position in the request.
pub(super) fn by_shard(
    route: &CollectionRoute,
    ids: impl Iterator<Item = ObjectId>,
) -> Vec<Vec<Wanted>> {
    let mut groups = vec![Vec::new(); route.shards.len()];
    for (position, id) in ids.enumerate() {
        groups[route.place_of(&id)].push(Wanted { position, id, slot: 0 });
    }
    groups
}
