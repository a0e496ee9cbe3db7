//! A search whose shards are on several nodes.
//!
//! Each node is sent one request for all of its shards, and the shards of this node are searched
//! meanwhile. A second request goes only to nodes with shards that may hold more, and names these
//! with the queries for which they may. A node that fails is left for other replicas of its shards,
//! and one that takes long is not waited for alone. A shard that cannot be asked anywhere fails the
//! search: a silent partial result would look like a worse index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use futures::future::Either;
use heddle_runtime::timeout;
use heddle_types::{ApiError, Clock, ErrorCode, NodeId};
use heddle_wire::message::{ArchivedShardSearchReply, ShardSearchReply, ShardSearchRequest};

use super::SearchRoom;
use super::local::{Query, Target, Workspace, search_shard};
use super::merge::{Found, Spec, may_hold_more, merge, share_of};
use crate::core::Core;
use crate::dispatch::Deadline;
use crate::dispatch::remote::{self, Party};
use crate::dispatch::replicas::Selection;
use crate::limits::PEER_HITS_MAX;
use crate::registry::{CollectionRoute, ShardAt};

/// Hits that are gathered before they are merged: 10 MB.
const BLOCK_HITS: usize = 256 << 10;

/// Queries of a block, so that its hits stay bounded.
pub(super) fn block_queries(lists: usize, first: Spec, count: usize) -> usize {
    (BLOCK_HITS / (lists * first.k as usize)).clamp(1, count)
}

/// A query of a block and the shard in which it is searched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Pair {
    query: usize,
    /// Position of the shard in the route.
    place: usize,
}

/// What was found for a pair.
struct PairFound {
    pair: Pair,
    hits: Vec<Found>,
    evaluations: u64,
}

/// A search over nodes.
pub(super) struct Spread<'a> {
    core: &'a Rc<Core>,
    selection: &'a Selection<'a>,
    route: &'a CollectionRoute,
    vector: &'a str,
    filter: &'a [u8],
    queries: &'a [f32],
    dims: usize,
    deadline: Deadline<'a>,
}

impl<'a> Spread<'a> {
    pub(super) fn new(
        core: &'a Rc<Core>,
        selection: &'a Selection<'a>,
        (vector, filter): (&'a str, &'a [u8]),
        (queries, count): (&'a [f32], usize),
        deadline: Deadline<'a>,
    ) -> Self {
        let (route, dims) = (selection.route(), queries.len() / count);
        Self { core, selection, route, vector, filter, queries, dims, deadline }
    }

    /// How many queries there are.
    pub(super) fn count(&self) -> usize {
        self.queries.len() / self.dims
    }

    /// Where the shards are read now.
    pub(super) fn selection(&self) -> &'a Selection<'a> {
        self.selection
    }

    /// Searches every query in every shard; `room` has the targets of this node and gets the hits.
    pub(super) async fn search(
        &self,
        spec: Spec,
        offset: usize,
        room: &mut SearchRoom,
    ) -> Result<(), ApiError> {
        let shards = self.route.shards.len();
        let first = if shards == 1 { spec } else { share_of(spec, shards) };
        let count = self.count();
        let step = block_queries(shards, first, count);
        let mut since_ns = self.deadline.begun_ns();
        for start in (0..count).step_by(step) {
            let block = start..(start + step).min(count);
            let evaluations = self.search_block(block.clone(), spec, first, room).await?;
            let now_ns = self.core.clock.monotonic_ns();
            // Its queries were searched side by side.
            let spent_us = now_ns.saturating_sub(since_ns) / 1_000 / block.len() as u64;
            since_ns = now_ns;
            for (query, evaluations) in evaluations.into_iter().enumerate() {
                let lists = &room.lists[query * shards..(query + 1) * shards];
                merge(lists.iter().flatten(), spec.k, &mut room.best);
                room.found.extend(room.best.iter().skip(offset));
                room.finish_query(evaluations, spent_us);
            }
        }
        // There may have been very many; a search on this node needs a few.
        room.lists = Vec::new();
        Ok(())
    }

    /// Searches some queries in two rounds; leaves the hits of each pair in `room.lists`, query by
    /// query, and says how many distances each query took.
    pub(super) async fn search_block(
        &self,
        block: Range<usize>,
        spec: Spec,
        first: Spec,
        room: &mut SearchRoom,
    ) -> Result<Vec<u64>, ApiError> {
        let shards = self.route.shards.len();
        let SearchRoom { workspace, targets, lists, best, .. } = room;
        lists.resize_with(block.len() * shards, Vec::new);
        lists.iter_mut().for_each(Vec::clear);
        let queries = &self.queries[block.start * self.dims..block.end * self.dims];
        let pair = |query| (0..shards).map(move |place| Pair { query, place });
        let mut pairs: Vec<Pair> = (0..block.len()).flat_map(pair).collect();
        let mut evaluations = vec![0; block.len()];
        let mut asked = first;
        loop {
            let round = Round { spread: self, queries, spec: asked };
            for PairFound { pair, mut hits, evaluations: count } in
                round.search(&pairs, targets, workspace).await?
            {
                lists[pair.query * shards + pair.place].append(&mut hits);
                evaluations[pair.query] += count;
            }
            if asked.k == spec.k && asked.ef == spec.ef {
                return Ok(evaluations);
            }
            pairs.clear();
            for query in 0..block.len() {
                let lists = &lists[query * shards..(query + 1) * shards];
                merge(lists.iter().flatten(), spec.k, best);
                let more = |place: &usize| may_hold_more(&lists[*place], first.k, best, spec.k);
                pairs.extend((0..shards).filter(more).map(|place| Pair { query, place }));
            }
            if pairs.is_empty() {
                return Ok(evaluations);
            }
            asked = spec;
        }
    }
}

/// One round of a search: the same `k` and `ef` for all pairs.
struct Round<'a> {
    spread: &'a Spread<'a>,
    /// The queries of the block.
    queries: &'a [f32],
    spec: Spec,
}

impl Round<'_> {
    async fn search(
        &self,
        pairs: &[Pair],
        targets: &[Target],
        workspace: &mut Workspace,
    ) -> Result<Vec<PairFound>, ApiError> {
        let selection = self.spread.selection;
        // A reply that is full of hits still fits into a frame.
        let pairs_max = (PEER_HITS_MAX / self.spec.k as usize).max(1);
        let mut here = Some(self.search_here(pairs, targets, workspace));
        let mut found = Vec::new();
        let is_there = |pair: &&Pair| !selection.at(pair.place).is_here;
        let mut rest: Vec<Pair> = pairs.iter().filter(is_there).copied().collect();
        loop {
            let mut nodes = BTreeMap::<NodeId, Vec<Pair>>::new();
            for pair in rest.drain(..) {
                nodes.entry(selection.at(pair.place).node).or_default().push(pair);
            }
            let asked = nodes.values().flat_map(|pairs| pairs.chunks(pairs_max));
            let asked = asked.map(|pairs| async move {
                let node = selection.at(pairs[0].place).node;
                (node, pairs, self.ask(pairs).await)
            });
            let there = futures::future::join_all(asked);
            // Requests leave first: the other nodes work while this one does.
            let there = match here.take() {
                Some(here) => {
                    let (there, here) = futures::future::join(there, here).await;
                    found.extend(here?);
                    there
                }
                None => there.await,
            };
            for (node, pairs, answered) in there {
                match answered {
                    Ok(answered) => found.extend(answered),
                    Err(error) => {
                        selection.leave(node, pairs.iter().map(|pair| pair.place), error)?;
                        rest.extend(pairs);
                    }
                }
            }
            if rest.is_empty() {
                return Ok(found);
            }
        }
    }

    async fn search_here(
        &self,
        pairs: &[Pair],
        targets: &[Target],
        workspace: &mut Workspace,
    ) -> Result<Vec<PairFound>, ApiError> {
        let Spread { core, selection, dims, deadline, .. } = *self.spread;
        let mut found = Vec::new();
        for pair in pairs.iter().filter(|pair| selection.at(pair.place).is_here) {
            let target = targets.iter().find(|target| target.place == pair.place);
            let target = target.ok_or_else(|| {
                let shard = selection.at(pair.place).id;
                let message = format!("shard {shard} is not served here any more");
                ApiError::transient(ErrorCode::Unavailable, message)
            })?;
            let values = &self.queries[pair.query * dims..(pair.query + 1) * dims];
            let mut hits = Vec::new();
            let query = Query { values, deadline };
            let looked = search_shard(core, target, query, self.spec, workspace, &mut hits).await?;
            found.push(PairFound { pair: *pair, hits, evaluations: looked.evaluations });
            heddle_runtime::yield_if_needed().await;
            deadline.check()?;
        }
        Ok(found)
    }

    /// Sends pairs of one node there, and to other replicas as well when it takes long.
    async fn ask(&self, pairs: &[Pair]) -> Result<Vec<PairFound>, ApiError> {
        let Spread { core, selection, .. } = *self.spread;
        let mut places: Vec<usize> = pairs.iter().map(|pair| pair.place).collect();
        places.sort_unstable();
        places.dedup();
        let shards: Vec<ShardAt> = places.iter().map(|place| selection.at(*place)).collect();
        let mut first = std::pin::pin!(self.ask_at(pairs, &places, &shards));
        if !self.spread.route.is_replicated {
            return first.await;
        }
        if let Ok(answered) = timeout(core.latencies.hedge_after(), first.as_mut()).await {
            return answered;
        }
        let Some(others) = selection.seconds(&places) else { return first.await };
        core.metrics.hedges.add(1);
        let second = std::pin::pin!(self.ask_seconds(pairs, &places, &others));
        match futures::future::select(first, second).await {
            Either::Left((Ok(found), _)) => Ok(found),
            Either::Right((Ok(found), _)) => {
                core.metrics.hedges_won.add(1);
                Ok(found)
            }
            Either::Left((Err(_), second)) => second.await,
            Either::Right((Err(_), first)) => first.await,
        }
    }

    /// Sends pairs to other replicas of their shards, whichever nodes these are on.
    async fn ask_seconds(
        &self,
        pairs: &[Pair],
        places: &[usize],
        others: &[ShardAt],
    ) -> Result<Vec<PairFound>, ApiError> {
        let mut nodes = BTreeMap::<NodeId, (Vec<usize>, Vec<ShardAt>)>::new();
        for (place, shard) in places.iter().zip(others) {
            let (places, shards) = nodes.entry(shard.node).or_default();
            places.push(*place);
            shards.push(*shard);
        }
        let asked = nodes.values().map(|(places, shards)| async move {
            let own = pairs.iter().filter(|pair| places.contains(&pair.place));
            let own: Vec<Pair> = own.copied().collect();
            self.ask_at(&own, places, shards).await
        });
        Ok(futures::future::try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// Sends pairs to one node; `shards` are those of `places`, all of them there.
    async fn ask_at(
        &self,
        pairs: &[Pair],
        places: &[usize],
        shards: &[ShardAt],
    ) -> Result<Vec<PairFound>, ApiError> {
        let Spread { core, deadline, .. } = *self.spread;
        let request = self.request(pairs, places);
        let party = Party::any_of(core, shards);
        let begun_ns = core.clock.monotonic_ns();
        let reply = remote::read(core, party, &request, deadline).await?;
        let took_ns = core.clock.monotonic_ns().saturating_sub(begun_ns);
        core.latencies.note(Duration::from_nanos(took_ns));
        let found = reply.access::<ShardSearchReply>()?;
        if found.ends().len() != pairs.len() {
            return Err(reply.broken("not one list of hits a query and shard"));
        }
        let replica = |place: usize| {
            let at = places.binary_search(&place);
            shards[at.expect("the places are those of the pairs")].replica
        };
        Ok(pair_hits(pairs, replica, found))
    }

    fn request(&self, pairs: &[Pair], places: &[usize]) -> ShardSearchRequest {
        let Spread { core, route, vector, filter, dims, .. } = *self.spread;
        let mut request = ShardSearchRequest {
            head: remote::head(core, route),
            vector: vector.to_owned(),
            queries: Vec::new(),
            dims: dims as u32,
            shards: places.iter().map(|place| route.shards[*place].id.0).collect(),
            ends: Vec::new(),
            places: Vec::with_capacity(pairs.len()),
            k: self.spec.k,
            ef: self.spec.ef,
            max_distance: self.spec.max_distance.unwrap_or(f32::NAN),
            filter: filter.to_vec(),
        };
        for of_query in pairs.chunk_by(|a, b| a.query == b.query) {
            let query = of_query[0].query;
            request.queries.extend_from_slice(&self.queries[query * dims..(query + 1) * dims]);
            request.places.extend(of_query.iter().map(|pair| {
                let at = places.binary_search(&pair.place);
                at.expect("the places are those of the pairs") as u16
            }));
            request.ends.push(request.places.len() as u32);
        }
        if request.places.len() == request.ends.len() * places.len() {
            // Every query in every shard.
            request.places.clear();
            request.ends.clear();
        }
        request
    }
}

fn pair_hits(
    pairs: &[Pair],
    replica: impl Fn(usize) -> u8,
    found: &ArchivedShardSearchReply,
) -> Vec<PairFound> {
    let (ids, slots, distances) = (found.ids(), found.slots(), found.distances());
    let mut start = 0;
    let each = pairs.iter().zip(found.ends()).zip(found.evaluations());
    each.map(|((pair, end), evaluations)| {
        let range = start..*end as usize;
        start = range.end;
        let replica = replica(pair.place);
        let hit = |at: usize| Found {
            distance: distances[at],
            id: ids[at],
            slot: slots[at],
            place: pair.place as u16,
            replica,
        };
        PairFound {
            pair: *pair,
            hits: range.map(hit).collect(),
            evaluations: u64::from(*evaluations),
        }
    })
    .collect()
}
