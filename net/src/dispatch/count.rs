//! Counting objects.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use heddle_types::{ApiError, Consistency, Filter, NodeId};
use heddle_wire::message::{
    ArchivedCountRequest, CountAtReply, CountAtRequest, CountReply, CountRequest, ShardCountReply,
    ShardCountRequest,
};
use heddle_wire::{Frame, access};

use super::Deadline;
use super::remote::{self, Party};
use super::replicas::Selection;
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};
use crate::server::request::RequestFrame;

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<CountRequest>(&request.body)?;
    let count = count(core, request, message, (Consistency::One, deadline)).await?;
    super::reply(request, &CountReply { count })
}

pub(super) async fn answer_at(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let at = access::<CountAtRequest>(&request.body)?;
    let count = count(core, request, &at.count, (at.level(), deadline)).await?;
    super::reply(request, &CountAtReply { count: CountReply { count } })
}

/// Counts in as many replicas of each shard as a level asks for, and takes the median of what they
/// say of it, the higher one of two.
async fn count(
    core: &Rc<Core>,
    request: &RequestFrame,
    message: &ArchivedCountRequest,
    (level, deadline): (Consistency, Deadline<'_>),
) -> Result<u64, ApiError> {
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let filter = super::decode_filter(&route.config, &message.filter)?;
    let counting = Counting {
        core,
        route: &route,
        filter: filter.as_ref(),
        filter_bytes: &message.filter,
        deadline,
    };
    let selections = Selection::several(core, &route, level)?;
    let mut counts: Vec<Vec<u64>> = vec![Vec::with_capacity(selections.len()); route.shards.len()];
    let all = selections.iter().map(|selection| counting.over(selection));
    for of_selection in futures::future::try_join_all(all).await? {
        for (counts, count) in counts.iter_mut().zip(of_selection) {
            counts.push(count);
        }
    }
    let median = |mut counts: Vec<u64>| {
        counts.sort_unstable();
        counts.get(counts.len() / 2).copied().unwrap_or_default()
    };
    Ok(counts.into_iter().map(median).sum())
}

/// What is counted.
struct Counting<'a> {
    core: &'a Rc<Core>,
    route: &'a CollectionRoute,
    filter: Option<&'a Arc<Filter>>,
    /// The filter as it came.
    filter_bytes: &'a [u8],
    deadline: Deadline<'a>,
}

impl Counting<'_> {
    /// The count of each shard at the replicas selected.
    async fn over(&self, selection: &Selection<'_>) -> Result<Vec<u64>, ApiError> {
        let mut counts = vec![0; self.route.shards.len()];
        let mut rest: Vec<usize> = (0..counts.len()).collect();
        while !rest.is_empty() {
            let (here, there): (Vec<usize>, Vec<usize>) =
                rest.into_iter().partition(|place| selection.at(*place).is_here);
            let mut nodes = BTreeMap::<NodeId, Vec<usize>>::new();
            for place in there {
                nodes.entry(selection.at(place).node).or_default().push(place);
            }
            let there = nodes.into_iter().map(|(node, places)| async move {
                let at = places.iter().map(|place| selection.at(*place));
                let shards: Vec<ShardAt> = at.collect();
                let counted = Box::pin(self.there(&shards)).await;
                (node, places, counted)
            });
            let there = futures::future::join_all(there);
            let (counted, there) = futures::future::join(self.here(selection, &here), there).await;
            here.iter().zip(counted?).for_each(|(place, count)| counts[*place] = count);
            rest = Vec::new();
            for (node, places, counted) in there {
                match counted {
                    Ok(found) => {
                        places.iter().zip(found).for_each(|(place, count)| counts[*place] = count);
                    }
                    Err(error) => {
                        selection.leave(node, places.iter().copied(), error)?;
                        rest.extend(places);
                    }
                }
            }
        }
        Ok(counts)
    }

    async fn here(
        &self,
        selection: &Selection<'_>,
        places: &[usize],
    ) -> Result<Vec<u64>, ApiError> {
        let calls = places.iter().map(|place| {
            let shard = selection.at(*place);
            let order = CoreRequest::Count { shard: shard.id, filter: self.filter.cloned() };
            async move {
                self.deadline.check()?;
                expect_reply!(self.core.call_home(shard.home, order).await?, Count)
            }
        });
        futures::future::try_join_all(calls).await
    }

    /// Counts the objects of some shards of another node.
    async fn there(&self, shards: &[ShardAt]) -> Result<Vec<u64>, ApiError> {
        let request = ShardCountRequest {
            head: remote::head(self.core, self.route),
            shards: shards.iter().map(|shard| shard.id.0).collect(),
            filter: self.filter_bytes.to_vec(),
        };
        let party = Party { shards, ..Party::home_of(&shards[0]) };
        let reply = remote::read(self.core, party, &request, self.deadline).await?;
        let counts = reply.access::<ShardCountReply>()?.counts();
        if counts.len() != shards.len() {
            return Err(reply.broken("not one count a shard"));
        }
        Ok(counts.to_vec())
    }
}
