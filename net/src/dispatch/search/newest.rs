//! A search in several replicas of each shard, so that one that lags neither hides what is new nor
//! shows what is gone.
//!
//! Every replica asked gives its neighbours; of each object the newest version among these replicas
//! decides, tombstones included ([`SearchMerge`]).

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use heddle_replication::{Hit, SearchMerge};
use heddle_types::{ApiError, Clock, ObjectDigest, ObjectId};
use rustc_hash::FxHashMap;

use super::SearchRoom;
use super::merge::{Found, Spec, merge, share_of};
use super::spread::{Spread, block_queries};
use crate::core::Core;
use crate::dispatch::Deadline;
use crate::dispatch::replicas::{Replica, digests};
use crate::registry::CollectionRoute;

/// What the replicas of one shard know of the objects found there: a map for each replica asked.
type Versions = Vec<FxHashMap<ObjectId, ObjectDigest>>;

/// A search in as many replicas of each shard as there are spreads.
pub(super) struct Newest<'a> {
    pub(super) core: &'a Rc<Core>,
    pub(super) route: &'a Arc<CollectionRoute>,
    pub(super) spreads: &'a [Spread<'a>],
    pub(super) deadline: Deadline<'a>,
}

impl Newest<'_> {
    /// Searches every query; `room` has the targets of this node and gets the hits.
    pub(super) async fn search(
        &self,
        spec: Spec,
        offset: usize,
        room: &mut SearchRoom,
    ) -> Result<(), ApiError> {
        let (shards, lists) =
            (self.route.shards.len(), self.route.shards.len() * self.spreads.len());
        let first = if shards == 1 { spec } else { share_of(spec, shards) };
        let count = self.spreads[0].count();
        let step = block_queries(lists, first, count);
        let mut others: Vec<SearchRoom> =
            self.spreads[1..].iter().map(|_| SearchRoom::default()).collect();
        let mut since_ns = self.deadline.begun_ns();
        for start in (0..count).step_by(step) {
            let block = start..(start + step).min(count);
            let evaluations =
                self.search_block(block.clone(), (spec, first), room, &mut others).await?;
            let rooms: Vec<&SearchRoom> = std::iter::once(&*room).chain(others.iter()).collect();
            let versions = self.versions(&rooms, block.len()).await?;
            let best: Vec<Vec<Found>> =
                (0..block.len()).map(|query| self.merged(&rooms, &versions, query, spec)).collect();
            let now_ns = self.core.clock.monotonic_ns();
            let spent_us = now_ns.saturating_sub(since_ns) / 1_000 / block.len() as u64;
            since_ns = now_ns;
            for (best, evaluations) in best.iter().zip(evaluations) {
                room.found.extend(best.iter().skip(offset));
                room.finish_query(evaluations, spent_us);
            }
        }
        room.lists = Vec::new();
        Ok(())
    }

    async fn search_block(
        &self,
        block: Range<usize>,
        (spec, first): (Spec, Spec),
        room: &mut SearchRoom,
        others: &mut [SearchRoom],
    ) -> Result<Vec<u64>, ApiError> {
        let own = self.spreads[0].search_block(block.clone(), spec, first, room);
        let others = self.spreads[1..].iter().zip(others);
        let others =
            others.map(|(spread, room)| spread.search_block(block.clone(), spec, first, room));
        let others = futures::future::try_join_all(others);
        let (mut sums, others) = futures::future::try_join(own, others).await?;
        for evaluations in others {
            sums.iter_mut().zip(evaluations).for_each(|(sum, more)| *sum += more);
        }
        Ok(sums)
    }

    /// What every replica asked knows of all that was found in its shard, by any of them.
    async fn versions(
        &self,
        rooms: &[&SearchRoom],
        queries: usize,
    ) -> Result<Vec<Versions>, ApiError> {
        let shards = self.route.shards.len();
        let of_shard = (0..shards).map(|place| async move {
            let lists = rooms.iter().flat_map(|room| {
                (0..queries).map(move |query| &room.lists[query * shards + place])
            });
            let mut ids: Vec<ObjectId> = lists.flatten().map(|found| ObjectId(found.id)).collect();
            ids.sort_unstable();
            ids.dedup();
            let ids = &ids;
            let asked = self.spreads.iter().map(|spread| async move {
                if ids.is_empty() {
                    return Ok(FxHashMap::default());
                }
                let shard = spread.selection().at(place);
                let (core, route) = (Rc::clone(self.core), Arc::clone(self.route));
                let replica = Replica { core, route, shard };
                let versions = digests(&replica, ids, self.deadline).await?;
                let known = ids.iter().zip(versions);
                Ok::<_, ApiError>(known.filter_map(|(id, it)| Some((*id, it?))).collect())
            });
            futures::future::try_join_all(asked).await
        });
        futures::future::try_join_all(of_shard).await
    }

    /// The nearest of one query that are up to date.
    fn merged(
        &self,
        rooms: &[&SearchRoom],
        versions: &[Versions],
        query: usize,
        spec: Spec,
    ) -> Vec<Found> {
        let shards = self.route.shards.len();
        let mut all: Vec<Found> = Vec::new();
        for (place, versions) in versions.iter().enumerate() {
            let lists: Vec<&Vec<Found>> =
                rooms.iter().map(|room| &room.lists[query * shards + place]).collect();
            let hits =
                lists.iter().zip(versions).map(|(list, versions)| up_to_date(list, versions));
            let found = SearchMerge::new(hits.collect()).finish(spec.k as usize, |replica, id| {
                versions[usize::from(replica)].get(&id).copied()
            });
            let slots: Vec<FxHashMap<[u8; 16], &Found>> =
                lists.iter().map(|list| list.iter().map(|it| (it.id, it)).collect()).collect();
            all.extend(found.iter().filter_map(|(hit, asked)| {
                let found = slots[usize::from(*asked)].get(&hit.id.0)?;
                Some(Found { distance: hit.distance, ..**found })
            }));
        }
        let mut best = Vec::new();
        merge(all.iter(), spec.k, &mut best);
        best
    }
}

/// The hits of a replica that it still has, each with its version. One that was written or deleted
/// since it was found is judged as it is now.
fn up_to_date(list: &[Found], versions: &FxHashMap<ObjectId, ObjectDigest>) -> Vec<Hit> {
    let hit = |found: &Found| {
        let id = ObjectId(found.id);
        let version = versions.get(&id).filter(|version| !version.is_tombstone)?;
        Some(Hit { id, stamp: version.stamp, distance: found.distance })
    };
    list.iter().filter_map(hit).collect()
}
