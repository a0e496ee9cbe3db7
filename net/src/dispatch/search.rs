//! Nearest neighbours: searched on the core that got the request, against the published views.
//!
//! Several shards of a collection are searched one after the other with a share of `ef` and `k`;
//! then only those are searched again in full whose worst hit would still be among the best,
//! because they may hold more of them. Filters are evaluated by the home cores, which hold the
//! property indexes; the bitmap they return is read in place.

use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::{Object, Want};
use heddle_core::shard::ShardView;
use heddle_core::validate;
use heddle_index::{
    Hit, Scratch, SearchRequest as IndexRequest, SearchStats, SlotBitmap, SlotDirectory, VectorView,
};
use heddle_runtime::yield_if_needed;
use heddle_types::{ApiError, Clock, ErrorCode, Filter, ObjectId, Slot};
use heddle_wire::message::{
    ArchivedSearchRequest, ObjectColumns, SearchReply, SearchRequest, Want as WireWant,
};
use heddle_wire::{Frame, access};
use rustc_hash::FxHashSet;

use super::Deadline;
use super::chunks::{ChunkSize, push_object, size_of_object};
use super::get::{engine_want, fetch};
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::CollectionRoute;
use crate::server::connection::RequestFrame;

/// Most neighbours of all queries of one request together: their ids and distances are 20 MB.
const HITS_MAX: usize = 1_000_000;
/// Bytes of a neighbour while the reply is gathered.
const FOUND_BYTES: usize = size_of::<Found>();
/// Time between two offers to yield, nanoseconds.
const STEP_NS: u64 = heddle_types::limits::STEP_US_MAX * 1_000;
/// Cost of one distance besides its components: a cache miss and the bookkeeping, nanoseconds.
const DISTANCE_NS: u64 = 40;
/// Components that a kernel takes in a nanosecond, about.
const COMPONENTS_PER_NS: u64 = 8;
/// Standard deviations by which a shard's share of `ef` and `k` is above its expectation.
const SHARE_DEVIATIONS: f64 = 2.0;

/// One shard, ready to be searched.
struct Target {
    view: Arc<ShardView>,
    bitmap: Option<Arc<SlotBitmap>>,
}

/// What is asked of every query.
#[derive(Clone, Copy)]
struct Spec {
    vector: usize,
    k: u32,
    ef: u32,
    max_distance: Option<f32>,
    step_evaluations: u64,
}

/// One neighbour.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Found {
    distance: f32,
    id: [u8; 16],
    slot: Slot,
    /// Position of its shard in the route.
    place: usize,
}

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let began_ns = core.clock.monotonic_ns();
    let message = access::<SearchRequest>(&request.body)?;
    let route = super::route(core, &message.collection, &message.tenant)?;
    let filter = super::decode_filter(&route.config, &message.filter)?;
    let near = near_vector(core, &route, message).await?;
    let queries = near.as_deref().unwrap_or_else(|| message.queries());
    let count = message.query_count();
    let spec = check(&route, message, queries, count)?;
    let offset = message.offset.to_native() as usize;
    let mut reply = SearchReply {
        queue_us: (began_ns.saturating_sub(request.arrived_ns) / 1_000) as u32,
        ..SearchReply::default()
    };
    request.reply.reserve(spec.k as usize * count * FOUND_BYTES)?;
    // Taken before the filters and the views: what they name is not reused while it is held.
    let pin = core.reader.pin();
    let targets = open_targets(core, &route, filter.as_ref()).await?;
    let mut found = Vec::new();
    for query in queries.chunks_exact(queries.len() / count) {
        deadline.check()?;
        let query_ns = core.clock.monotonic_ns();
        let (mut best, evaluations) = search_all(core, &targets, query, spec, deadline).await?;
        best.drain(..offset.min(best.len()));
        found.push(best);
        let spent_us = core.clock.monotonic_ns().saturating_sub(query_ns) / 1_000;
        reply.evaluations.push(u32::try_from(evaluations).unwrap_or(u32::MAX));
        reply.server_us.push(u32::try_from(spent_us).unwrap_or(u32::MAX));
        yield_if_needed().await;
    }
    drop(pin);
    let want = WireWant::from_bits(message.want);
    if want.any() {
        let want = engine_want(message.want);
        reply.objects = attach_objects(core, &route, &mut found, want, request, deadline).await?;
    }
    for best in &found {
        for hit in best {
            reply.ids.extend_from_slice(&hit.id);
            reply.distances.push(hit.distance);
        }
        reply.ends.push(reply.distances.len() as u32);
    }
    super::reply(request, &reply)
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
    let distance_ns = DISTANCE_NS + dims as u64 / COMPONENTS_PER_NS;
    Ok(Spec {
        vector,
        k,
        ef: ef.max(k),
        max_distance: message.max_distance(),
        step_evaluations: (STEP_NS / distance_ns).max(1),
    })
}

/// The stored vector of the object that the query names.
async fn near_vector(
    core: &Rc<Core>,
    route: &CollectionRoute,
    message: &ArchivedSearchRequest,
) -> Result<Option<Vec<f32>>, ApiError> {
    let Some(id) = message.near_id() else { return Ok(None) };
    let vector = validate::vector_index(&route.config, &message.vector)?;
    let want = Want { properties: false, vectors: true };
    let found = fetch(core, route, route.place_of(&id), vec![id], want).await?;
    let Some(object) = found.into_iter().flatten().next() else {
        let message = format!("object {id} does not exist");
        return Err(ApiError::new(ErrorCode::ObjectNotFound, message, "an existing object"));
    };
    let mut vectors = object.vectors.into_iter();
    let Some(near) = vectors.find(|other| usize::from(other.index) == vector) else {
        let name = &route.config.vectors[vector].name;
        let message = format!("object {id} has no vector {name:?}");
        return Err(ApiError::new(ErrorCode::InvalidVector, message, "an object that has it"));
    };
    Ok(Some(near.values))
}

async fn open_targets(
    core: &Rc<Core>,
    route: &CollectionRoute,
    filter: Option<&Arc<Filter>>,
) -> Result<Vec<Target>, ApiError> {
    let targets = route.shards.iter().map(|(shard, home)| async move {
        let bitmap = match filter {
            None => None,
            Some(filter) => {
                let order = CoreRequest::FilterBitmap { shard: *shard, filter: Arc::clone(filter) };
                Some(expect_reply!(core.call(*home, order).await?, Bitmap)?)
            }
        };
        Ok(Target { view: core.registry.view(*shard)?, bitmap })
    });
    futures::future::try_join_all(targets).await
}

/// Searches every shard and merges; also says how many distances that took.
async fn search_all(
    core: &Rc<Core>,
    targets: &[Target],
    query: &[f32],
    spec: Spec,
    deadline: Deadline<'_>,
) -> Result<(Vec<Found>, u64), ApiError> {
    let mut scratch = core.take_scratch();
    let searched = search_shards(core, targets, query, spec, deadline, &mut scratch).await;
    core.give_scratch(scratch);
    searched
}

async fn search_shards(
    core: &Rc<Core>,
    targets: &[Target],
    query: &[f32],
    spec: Spec,
    deadline: Deadline<'_>,
    scratch: &mut Scratch,
) -> Result<(Vec<Found>, u64), ApiError> {
    let first = if targets.len() == 1 { spec } else { share_of(spec, targets.len()) };
    let mut evaluations = 0;
    let mut lists = Vec::with_capacity(targets.len());
    for (place, target) in targets.iter().enumerate() {
        let (list, stats) =
            search_shard(core, place, target, query, first, deadline, scratch).await?;
        evaluations += stats.evaluations;
        lists.push(list);
    }
    if first.k < spec.k || first.ef < spec.ef {
        let merged = merge(lists.iter().flatten(), spec.k);
        for (place, target) in targets.iter().enumerate() {
            if !may_hold_more(&lists[place], first.k, &merged, spec.k) {
                continue;
            }
            let (list, stats) =
                search_shard(core, place, target, query, spec, deadline, scratch).await?;
            evaluations += stats.evaluations;
            lists[place].extend(list);
        }
    }
    core.metrics.queries.add(1);
    core.metrics.distance_evaluations.add(evaluations);
    Ok((merge(lists.iter().flatten(), spec.k), evaluations))
}

/// What one of `shards` equal shards is asked for at first.
fn share_of(spec: Spec, shards: usize) -> Spec {
    let share = |count: u32| {
        let expected = f64::from(count) / shards as f64;
        let spread = SHARE_DEVIATIONS * (expected * (1.0 - 1.0 / shards as f64)).sqrt();
        ((expected + spread).ceil() as u32).clamp(1, count)
    };
    let k = share(spec.k);
    Spec { k, ef: share(spec.ef).max(k), ..spec }
}

/// Did a shard give all it was asked for, and is its worst hit among the best of all?
fn may_hold_more(list: &[Found], asked: u32, merged: &[Found], k: u32) -> bool {
    let Some(worst) = list.last().filter(|_| list.len() >= asked as usize) else { return false };
    match merged.last() {
        Some(last) if merged.len() >= k as usize => worst.distance <= last.distance,
        _ => true,
    }
}

/// The `k` nearest of all, each object once. An object that is being replaced may be found in its
/// old and its new slot; the nearer one stays.
fn merge<'a>(lists: impl Iterator<Item = &'a Found>, k: u32) -> Vec<Found> {
    let mut all: Vec<Found> = lists.copied().collect();
    all.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then_with(|| a.id.cmp(&b.id)));
    let mut seen = FxHashSet::with_capacity_and_hasher(k as usize, Default::default());
    all.retain(|found| seen.len() < k as usize && seen.insert(found.id));
    all
}

/// An index and the directory of its slots, both as they are now.
type OpenIndex = (Arc<VectorView>, Arc<SlotDirectory>);

/// The newest index of a shard and the directory of its slots; the caller holds a pin. `None`
/// without a dimension: then there is no index, and no object either.
///
/// Errors: `InvalidVector`. The dimension may have been fixed by a first insert after the query was
/// checked against the definition, so the index itself has the last word.
fn open_index(
    view: &ShardView,
    vector: usize,
    query: &[f32],
) -> Result<Option<OpenIndex>, ApiError> {
    let Some(vectors) = view.vector(vector) else { return Ok(None) };
    // An outgrown view may show slots that were reused since. The directory comes second: it grows
    // first, so it knows every slot that the index holds by now.
    let (vectors, directory) = (vectors.latest(), view.directory.latest());
    let dims = vectors.params().dims as usize;
    if query.len() != dims {
        return Err(ApiError::new(
            ErrorCode::InvalidVector,
            format!("query has {} dimensions", query.len()),
            format!("{dims}, as of the first vector stored"),
        ));
    }
    Ok(Some((vectors, directory)))
}

/// Searches one shard in steps, offering to yield between them.
async fn search_shard(
    core: &Core,
    place: usize,
    target: &Target,
    query: &[f32],
    spec: Spec,
    deadline: Deadline<'_>,
    scratch: &mut Scratch,
) -> Result<(Vec<Found>, SearchStats), ApiError> {
    let Target { view, bitmap } = target;
    let Some((vectors, directory)) = open_index(view, spec.vector, query)? else {
        return Ok((Vec::new(), SearchStats::default()));
    };
    let request = IndexRequest {
        k: spec.k,
        ef: spec.ef,
        filter: bitmap.as_deref(),
        max_distance: spec.max_distance,
    };
    let mut task = vectors.start(&directory, query, request, scratch);
    while task.step(spec.step_evaluations).is_pending() {
        yield_if_needed().await;
        deadline.check()?;
    }
    let mut hits = Vec::new();
    let stats = task.finish(&mut hits);
    core.metrics.queries_exact.add(u64::from(stats.exact));
    // Extreme components overflow to infinity, and two of those may cancel to no number at all.
    let numbers = hits.into_iter().filter(|hit| !hit.distance.is_nan());
    let found = numbers.map(|Hit { slot, distance }| {
        let id = directory.id(slot);
        Found { distance, id, slot, place }
    });
    Ok((found.collect(), stats))
}

/// Fetches the neighbours themselves; those that were deleted meanwhile are left out of `found`.
async fn attach_objects(
    core: &Rc<Core>,
    route: &CollectionRoute,
    found: &mut [Vec<Found>],
    want: Want,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<ObjectColumns, ApiError> {
    let total: usize = found.iter().map(Vec::len).sum();
    let mut objects: Vec<Option<Object>> = (0..total).map(|_| None).collect();
    let mut bytes = total * FOUND_BYTES;
    request.reply.reserve(bytes + core.object_size.expected(&route.config, want, total))?;
    for (place, (shard, home)) in route.shards.iter().enumerate() {
        let all = found.iter().flatten().enumerate();
        let here: Vec<(usize, Found)> =
            all.filter(|(_, hit)| hit.place == place).map(|(at, hit)| (at, *hit)).collect();
        let mut size = ChunkSize::new(want);
        let mut rest = &here[..];
        while !rest.is_empty() {
            deadline.check()?;
            let (chunk, later) = rest.split_at(size.objects().min(rest.len()));
            let hits = chunk.iter().map(|(_, hit)| (hit.slot, ObjectId(hit.id))).collect();
            let order = CoreRequest::FetchSlots { shard: *shard, hits, want };
            let fetched = expect_reply!(core.call(*home, order).await?, Found)?;
            size.observe(fetched.iter().flatten());
            bytes += fetched.iter().flatten().map(size_of_object).sum::<usize>();
            core.object_size.observe(want, fetched.iter().flatten());
            request.reply.reserve(bytes)?;
            for ((at, _), object) in chunk.iter().zip(fetched) {
                objects[*at] = object;
            }
            rest = later;
        }
    }
    let mut columns = ObjectColumns::default();
    let mut at = 0;
    for best in found {
        best.retain(|_| {
            let object = objects[at].take();
            at += 1;
            if let Some(object) = &object {
                push_object(&mut columns, &route.config, object, want);
            }
            object.is_some()
        });
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use heddle_index::{DirectoryWriter, IndexParams, Metric, Quiescence, VectorWriter};
    use heddle_types::{CollectionId, ShardId};

    use super::*;

    #[test]
    fn a_query_that_was_checked_before_the_first_insert_is_refused_after_it() {
        let directory = DirectoryWriter::new(0, Quiescence::new(1)).unwrap();
        let index = VectorWriter::new(IndexParams::new(8, Metric::Dot)).unwrap();
        let mut view = ShardView {
            id: ShardId(1),
            collection: CollectionId::default(),
            config: Arc::default(),
            directory: directory.view(),
            vectors: vec![None],
        };
        assert!(open_index(&view, 0, &[0.0; 4]).unwrap().is_none());
        view.vectors[0] = Some(index.view());
        assert_eq!(open_index(&view, 0, &[0.0; 4]).unwrap_err().code, ErrorCode::InvalidVector);
        assert!(open_index(&view, 0, &[0.0; 8]).unwrap().is_some());
    }

    fn found(distance: f32, row: u64) -> Found {
        Found { distance, id: ObjectId::from_row(row).0, slot: row as u32, place: 0 }
    }

    #[test]
    fn merged_hits_are_sorted_and_each_object_comes_once() {
        let lists = [
            vec![found(1.0, 1), found(3.0, 2), found(5.0, 3)],
            vec![found(0.5, 4), found(1.0, 0), found(4.0, 1)],
        ];
        let rows: Vec<u32> =
            merge(lists.iter().flatten(), 4).iter().map(|found| found.slot).collect();
        assert_eq!(rows, [4, 0, 1, 2]);
    }

    #[test]
    fn only_a_shard_whose_worst_hit_counts_is_asked_again() {
        let merged = [found(1.0, 1), found(2.0, 2)];
        let full_and_good = [found(1.0, 1), found(2.0, 2)];
        let full_and_bad = [found(1.0, 1), found(2.5, 3)];
        assert!(may_hold_more(&full_and_good, 2, &merged, 2));
        assert!(!may_hold_more(&full_and_bad, 2, &merged, 2));
        assert!(!may_hold_more(&full_and_good[..1], 2, &merged, 2), "it has no more to give");
        assert!(may_hold_more(&full_and_bad, 2, &merged, 3), "the best are not complete");
        assert!(!may_hold_more(&[], 1, &merged, 2));
    }

    #[test]
    fn shares_cover_the_expectation_and_never_exceed_the_whole() {
        let spec = Spec { vector: 0, k: 10, ef: 100, max_distance: None, step_evaluations: 1 };
        for shards in [2, 3, 8, 64, 512] {
            let share = share_of(spec, shards);
            assert!(share.ef >= share.k && share.ef <= 100 && share.k <= 10, "{shards} shards");
            assert!(share.ef as usize * shards >= 100, "{shards} shards");
        }
        assert_eq!(share_of(spec, 2).ef, 60);
    }
}
