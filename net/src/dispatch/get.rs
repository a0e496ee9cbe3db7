//! Reading objects by id.

use std::rc::Rc;

use heddle_core::engine::{Object, Want};
use heddle_types::{ApiError, ObjectId};
use heddle_wire::message::{GetReply, GetRequest, ObjectColumns, Want as WireWant};
use heddle_wire::{Frame, access};

use super::Deadline;
use super::chunks::{ChunkSize, push_object, size_of_object};
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

pub(super) fn engine_want(bits: u8) -> Want {
    let want = WireWant::from_bits(bits);
    Want { properties: want.properties, vectors: want.vectors }
}

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<GetRequest>(&request.body)?;
    let route = super::route(core, &message.collection, &message.tenant)?;
    let want = engine_want(message.want);
    let mut found: Vec<Option<Object>> = (0..message.ids().len()).map(|_| None).collect();
    let mut bytes = 0;
    request.reply.reserve(core.object_size.expected(&route.config, want, found.len()))?;
    for (place, wanted) in by_shard(&route, message.ids()).into_iter().enumerate() {
        let mut size = ChunkSize::new(want);
        let mut rest = &wanted[..];
        while !rest.is_empty() {
            deadline.check()?;
            let (chunk, later) = rest.split_at(size.objects().min(rest.len()));
            let ids = chunk.iter().map(|(_, id)| *id).collect();
            let objects = fetch(core, &route, place, ids, want).await?;
            size.observe(objects.iter().flatten());
            bytes += objects.iter().flatten().map(size_of_object).sum::<usize>();
            core.object_size.observe(want, objects.iter().flatten());
            request.reply.reserve(bytes)?;
            for ((position, _), object) in chunk.iter().zip(objects) {
                found[*position] = object;
            }
            rest = later;
        }
    }
    let mut objects = ObjectColumns::default();
    for object in found.iter().flatten() {
        push_object(&mut objects, &route.config, object, want);
    }
    let found = found.iter().map(|object| u8::from(object.is_some())).collect();
    super::reply(request, &GetReply { found, objects })
}

/// Reads objects of one shard.
pub(super) async fn fetch(
    core: &Rc<Core>,
    route: &CollectionRoute,
    place: usize,
    ids: Vec<ObjectId>,
    want: Want,
) -> Result<Vec<Option<Object>>, ApiError> {
    let (shard, home) = route.shards[place];
    let order = CoreRequest::Get { shard, ids, want };
    expect_reply!(core.call(home, order).await?, Found)
}

/// Deals ids to the shards of a collection, each with its position in the request.
pub(super) fn by_shard(
    route: &CollectionRoute,
    ids: impl Iterator<Item = ObjectId>,
) -> Vec<Vec<(usize, ObjectId)>> {
    let mut groups = vec![Vec::new(); route.shards.len()];
    for (position, id) in ids.enumerate() {
        groups[route.place_of(&id)].push((position, id));
    }
    groups
}
