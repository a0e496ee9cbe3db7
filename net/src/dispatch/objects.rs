//! Fetching whole objects from the shards that hold them, on this node and on others, so that no
//! more of them is in memory than the reply was promised room for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use heddle_core::engine::{ItemVector, Object, Want};
use heddle_types::limits::OBJECT_BATCH_MAX;
use heddle_types::{ApiError, CollectionConfig, ObjectId, ShardId, Slot, Stamp};
use heddle_wire::message::{
    ArchivedObjectColumns, ObjectView, ShardGetReply, ShardGetRequest, Want as WireWant,
};

use super::chunks::{ChunkSize, size_of_object};
use super::remote::{self, Party};
use super::replicas::Selection;
use super::{Deadline, engine_want};
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};
use crate::server::request::ReplyBudget;

/// How the objects of a request are looked up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum By {
    /// Wherever they are.
    Id,
    /// In the slot where a search found them; those that are elsewhere by now are left out.
    Slot,
}

/// One object that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Its place in what is gathered.
    pub(super) position: usize,
    pub(super) id: ObjectId,
    /// Where it was found; 0 when it is looked up by its id.
    pub(super) slot: Slot,
}

/// Objects that are wanted of one shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'w> {
    /// Position of the shard in the route.
    pub(super) place: usize,
    /// The shard at the replica that is asked.
    pub(super) shard: ShardAt,
    pub(super) wanted: &'w [Wanted],
    pub(super) by: By,
}

/// What one other node has answered, and what it has not, with the reason.
struct FromNode<'w> {
    found: Vec<(usize, Option<Object>)>,
    left: Option<(Vec<Part<'w>>, ApiError)>,
}

/// A request's objects while they come in.
pub(super) struct Gathering<'a> {
    pub(super) core: &'a Rc<Core>,
    pub(super) config: &'a CollectionConfig,
    /// `Want::bits` of the request.
    pub(super) want: u8,
    pub(super) budget: &'a ReplyBudget,
    pub(super) deadline: Deadline<'a>,
    /// Bytes that are there.
    pub(super) bytes: Cell<usize>,
}

impl Gathering<'_> {
    /// Takes room for what `count` objects are expected to weigh.
    pub(super) fn expect(&self, count: usize) -> Result<(), ApiError> {
        let want = engine_want(self.want);
        let expected = self.core.object_size.expected(self.config, want, count);
        self.budget.reserve(self.bytes.get() + expected)
    }

    /// Fetches everything, from another replica when a node fails.
    pub(super) async fn all(
        &self,
        selection: &Selection<'_>,
        mut parts: Vec<Part<'_>>,
        count: usize,
    ) -> Result<Vec<Option<Object>>, ApiError> {
        let mut found: Vec<Option<Object>> = (0..count).map(|_| None).collect();
        parts.retain(|part| !part.wanted.is_empty());
        let route = selection.route();
        loop {
            let (here, there): (Vec<Part<'_>>, _) =
                parts.into_iter().partition(|part| part.shard.is_here);
            if there.is_empty() {
                self.here(here, &mut found).await?;
                return Ok(found);
            }
            let there = Box::pin(self.there(route, there));
            let (there, here) = futures::future::join(there, self.here(here, &mut found)).await;
            here?;
            parts = Vec::new();
            for FromNode { found: objects, left } in there {
                for (position, object) in objects {
                    found[position] = object;
                }
                let Some((rest, error)) = left else { continue };
                let node = rest[0].shard.node;
                selection.leave(node, rest.iter().map(|part| part.place), error)?;
                // Where an object is in another replica nobody has said.
                for mut part in rest {
                    (part.shard, part.by) = (selection.at(part.place), By::Id);
                    parts.push(part);
                }
            }
            if parts.is_empty() {
                return Ok(found);
            }
        }
    }

    async fn here(
        &self,
        parts: Vec<Part<'_>>,
        found: &mut [Option<Object>],
    ) -> Result<(), ApiError> {
        for part in &parts {
            self.of_shard(part, usize::MAX, |position, object| found[position] = object).await?;
        }
        Ok(())
    }

    /// Reads objects of a shard of this node until they have `bytes_max` bytes in all; says how
    /// many of the wanted ones were looked up.
    pub(super) async fn of_shard(
        &self,
        part: &Part<'_>,
        bytes_max: usize,
        mut take: impl FnMut(usize, Option<Object>),
    ) -> Result<usize, ApiError> {
        let Part { shard, wanted, by, .. } = *part;
        let want = engine_want(self.want);
        let mut size = ChunkSize::new(want);
        let mut rest = wanted;
        while !rest.is_empty() && self.bytes.get() < bytes_max {
            self.deadline.check()?;
            let (chunk, later) = rest.split_at(size.objects().min(rest.len()));
            let order = order(by, shard.id, chunk, want);
            let objects = expect_reply!(self.core.call_home(shard.home, order).await?, Found)?;
            size.observe(objects.iter().flatten());
            self.count(objects.iter().flatten())?;
            for (wanted, object) in chunk.iter().zip(objects) {
                take(wanted.position, object);
            }
            rest = later;
        }
        Ok(wanted.len() - rest.len())
    }

    fn count<'o>(&self, objects: impl Iterator<Item = &'o Object> + Clone) -> Result<(), ApiError> {
        self.core.object_size.observe(engine_want(self.want), objects.clone());
        self.bytes.set(self.bytes.get() + objects.map(size_of_object).sum::<usize>());
        self.budget.reserve(self.bytes.get())
    }

    /// Fetches objects of other nodes, a request at a time from each.
    async fn there<'w>(&self, route: &CollectionRoute, parts: Vec<Part<'w>>) -> Vec<FromNode<'w>> {
        let mut nodes = BTreeMap::<_, Vec<Part<'w>>>::new();
        for part in parts {
            nodes.entry((part.shard.node, part.by)).or_default().push(part);
        }
        let asked = nodes.into_values().map(|mut parts| async move {
            let mut found = Vec::new();
            let left = match self.of_node(route, &mut parts, &mut found).await {
                Ok(()) => None,
                Err(error) => Some((parts, error)),
            };
            FromNode { found, left }
        });
        futures::future::join_all(asked).await
    }

    /// Fetches objects of some shards of one other node, request by request; `parts` are those that
    /// are left.
    async fn of_node(
        &self,
        route: &CollectionRoute,
        parts: &mut Vec<Part<'_>>,
        found: &mut Vec<(usize, Option<Object>)>,
    ) -> Result<(), ApiError> {
        while !parts.is_empty() {
            let request = self.request(route, parts);
            let shards: Vec<ShardAt> = parts.iter().map(|part| part.shard).collect();
            let party = Party { shards: &shards, ..Party::home_of(&shards[0]) };
            let reply = remote::read(self.core, party, &request, self.deadline).await?;
            let get = &reply.access::<ShardGetReply>()?.get;
            let answered = get.found.len();
            if answered == 0 || answered > request.ids.len() / 16 {
                return Err(reply.broken("it speaks of other objects than asked for"));
            }
            let objects = owned_objects(&get.objects, self.config);
            self.count(objects.iter())?;
            let mut objects = objects.into_iter();
            let wanted = parts.iter().flat_map(|part| part.wanted.iter());
            found.extend(wanted.zip(get.found.iter()).map(|(wanted, flag)| {
                (wanted.position, if *flag == 1 { objects.next() } else { None })
            }));
            leave_out(parts, answered);
        }
        Ok(())
    }

    fn request(&self, route: &CollectionRoute, parts: &[Part<'_>]) -> ShardGetRequest {
        let mut request = ShardGetRequest {
            head: remote::head(self.core, route),
            shards: Vec::new(),
            ends: Vec::new(),
            ids: Vec::new(),
            slots: Vec::new(),
            want: self.want,
        };
        let mut left = OBJECT_BATCH_MAX;
        for Part { shard, wanted, by, .. } in parts {
            let wanted = &wanted[..wanted.len().min(left)];
            left -= wanted.len();
            request.shards.push(shard.id.0);
            request.ids.extend(wanted.iter().flat_map(|it| it.id.0));
            if *by == By::Slot {
                request.slots.extend(wanted.iter().map(|it| it.slot));
            }
            request.ends.push((request.ids.len() / 16) as u32);
        }
        request
    }
}

fn order(by: By, shard: ShardId, chunk: &[Wanted], want: Want) -> CoreRequest {
    match by {
        By::Id => CoreRequest::Get { shard, ids: chunk.iter().map(|it| it.id).collect(), want },
        By::Slot => {
            let hits = chunk.iter().map(|it| (it.slot, it.id)).collect();
            CoreRequest::FetchSlots { shard, hits, want }
        }
    }
}

/// Takes the first `count` wanted objects away, and the parts of which nothing is left.
fn leave_out(parts: &mut Vec<Part<'_>>, mut count: usize) {
    for part in parts.iter_mut() {
        let gone = part.wanted.len().min(count);
        part.wanted = &part.wanted[gone..];
        count -= gone;
    }
    parts.retain(|part| !part.wanted.is_empty());
}

/// The objects of another node's reply as the engine gives them.
pub(super) fn owned_objects(
    columns: &ArchivedObjectColumns,
    config: &CollectionConfig,
) -> Vec<Object> {
    let indexes: Vec<Option<u8>> =
        columns.vectors.iter().map(|column| Some(config.vector(&column.name)?.0 as u8)).collect();
    columns.iter().map(|view| owned(&view, &indexes)).collect()
}

fn owned(view: &ObjectView<'_>, indexes: &[Option<u8>]) -> Object {
    // A vector that the definition here does not know yet is left out, as it would be on its node.
    let vectors = view.vectors_by_column().filter_map(|(column, values)| {
        Some(ItemVector { index: indexes[column]?, values: values.to_vec() })
    });
    Object {
        id: view.id(),
        created_us: view.created_us(),
        updated_us: view.updated_us(),
        stamp: Stamp { hlc: view.stamp(), ..Stamp::default() },
        properties: view.row().unwrap_or_default().to_vec(),
        vectors: vectors.collect(),
    }
}

/// The wish of a request that another node answers.
pub(super) fn wire_want(want: Want) -> u8 {
    WireWant { properties: want.properties, vectors: want.vectors, metadata: false }.bits()
}

#[cfg(test)]
mod tests {
    use heddle_types::NodeId;

    use super::*;

    #[test]
    fn what_was_answered_is_not_asked_for_again() {
        let shard = |id| ShardAt {
            id: ShardId(id),
            node: NodeId::default(),
            home: 0,
            is_here: false,
            replica: 0,
        };
        let wanted: Vec<Wanted> = (0..5)
            .map(|position| Wanted { position, id: ObjectId::from_row(position as u64), slot: 0 })
            .collect();
        let part = |id, wanted| Part { place: 0, shard: shard(id), wanted, by: By::Id };
        let mut parts = vec![part(1, &wanted[..2]), part(2, &wanted[2..])];
        leave_out(&mut parts, 1);
        assert_eq!(parts.iter().map(|it| it.wanted.len()).collect::<Vec<_>>(), [1, 3]);
        leave_out(&mut parts, 2);
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].wanted[0].position, 3);
        leave_out(&mut parts, 2);
        assert!(parts.is_empty());
    }
}
