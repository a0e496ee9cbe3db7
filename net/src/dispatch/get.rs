//! Reading objects by id.

use std::cell::Cell;
use std::rc::Rc;

use heddle_core::engine::{Object, Want};
use heddle_types::{ApiError, ObjectId};
use heddle_wire::message::{GetReply, GetRequest, ObjectColumns};
use heddle_wire::{Frame, access};

use super::chunks::push_object;
use super::objects::{By, Gathering, Wanted, wire_want};
use super::{Deadline, engine_want};
use crate::core::Core;
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<GetRequest>(&request.body)?;
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let gathering = Gathering {
        core,
        config: &route.config,
        want: message.want,
        by: By::Id,
        budget: &request.reply,
        deadline,
        bytes: Cell::new(0),
    };
    let count = message.ids().len();
    gathering.expect(count)?;
    let groups = by_shard(&route, message.ids());
    let found = gathering.all(&route, &groups, count).await?;
    let want = engine_want(message.want);
    let mut objects = ObjectColumns::default();
    for object in found.iter().flatten() {
        push_object(&mut objects, &route.config, object, want);
    }
    let found = found.iter().map(|object| u8::from(object.is_some())).collect();
    super::reply(request, &GetReply { found, objects })
}

/// Reads one object, wherever it is.
pub(super) async fn fetch(
    core: &Rc<Core>,
    route: &CollectionRoute,
    id: ObjectId,
    want: Want,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Option<Object>, ApiError> {
    let gathering = Gathering {
        core,
        config: &route.config,
        want: wire_want(want),
        by: By::Id,
        budget: &request.reply,
        deadline,
        bytes: Cell::new(0),
    };
    let groups = by_shard(route, std::iter::once(id));
    Ok(gathering.all(route, &groups, 1).await?.into_iter().next().flatten())
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
