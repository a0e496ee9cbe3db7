//! Fetching the neighbours that were found.

use std::cell::Cell;
use std::rc::Rc;

use heddle_types::{ApiError, ObjectId};

use super::{FOUND_BYTES, SearchRoom};
use crate::core::Core;
use crate::dispatch::chunks::push_object;
use crate::dispatch::objects::{By, Gathering, Part, Wanted};
use crate::dispatch::replicas::Selection;
use crate::dispatch::{Deadline, engine_want};
use crate::server::request::RequestFrame;

/// Fetches the neighbours themselves; those that were deleted meanwhile are left out.
pub(super) async fn attach_objects(
    core: &Rc<Core>,
    selection: &Selection<'_>,
    room: &mut SearchRoom,
    want: u8,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<(), ApiError> {
    let SearchRoom { found, reply, .. } = room;
    let route = selection.route();
    let gathering = Gathering {
        core,
        config: &route.config,
        want,
        budget: &request.reply,
        deadline,
        bytes: Cell::new(found.len() * FOUND_BYTES),
    };
    gathering.expect(found.len())?;
    // The hits of each replica of each shard.
    let width = route.shards.iter().map(|shard| shard.replicas.len()).max().unwrap_or(1);
    let mut groups: Vec<Vec<Wanted>> = vec![Vec::new(); route.shards.len() * width];
    for (position, hit) in found.iter().enumerate() {
        let group = usize::from(hit.place) * width + usize::from(hit.replica);
        groups[group].push(Wanted { position, id: ObjectId(hit.id), slot: hit.slot });
    }
    let parts = groups.iter().enumerate().filter(|(_, wanted)| !wanted.is_empty());
    let parts = parts.map(|(group, wanted)| {
        let (place, replica) = (group / width, group % width);
        Part { place, shard: route.shards[place].at(replica), wanted, by: By::Slot }
    });
    let objects = gathering.all(selection, parts.collect(), found.len()).await?;
    let want = engine_want(want);
    let mut at = 0;
    found.retain(|_| {
        let object = &objects[at];
        at += 1;
        if let Some(object) = object {
            push_object(&mut reply.objects, &route.config, object, want);
        }
        object.is_some()
    });
    // Where each query's part ends once those before it have lost some.
    let mut kept = objects.iter().map(Option::is_some);
    let (mut before, mut left) = (0, 0);
    for end in &mut reply.ends {
        let part = kept.by_ref().take((*end - before) as usize);
        before = *end;
        left += part.filter(|kept| *kept).count() as u32;
        *end = left;
    }
    Ok(())
}
