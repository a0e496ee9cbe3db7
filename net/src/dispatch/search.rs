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
    Hit, Scratch, SearchRequest as IndexRequest, SlotBitmap, SlotDirectory, VectorView,
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
use crate::server::request::RequestFrame;

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

/// Time that a request works through before it lets later ones of its queue go on: most end within
/// it, and in turn they end sooner than all at once.
const PATIENCE_NS: u64 = 2_000_000;
/// Hits among which equal ids are found without a table.
const FEW_HITS: usize = 64;

/// One shard, ready to be searched.
#[derive(Debug)]
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

/// Memory of a search request, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct SearchRoom {
    scratch: Scratch,
    hits: Vec<Hit>,
    targets: Vec<Target>,
    // What each shard found for the query at hand, and the best of all.
    lists: Vec<Vec<Found>>,
    best: Vec<Found>,
    // The hits of all queries.
    found: Vec<Found>,
    reply: SearchReply,
}

impl SearchRoom {
    /// Forgets the request; the memory stays.
    fn clear(&mut self) {
        let Self { hits, targets, lists, best, found, reply, scratch: _ } = self;
        hits.clear();
        targets.clear();
        lists.iter_mut().for_each(Vec::clear);
        best.clear();
        found.clear();
        let SearchReply { ends, ids, distances, objects, evaluations, server_us, queue_us } = reply;
        ends.clear();
        ids.clear();
        distances.clear();
        *objects = ObjectColumns::default();
        evaluations.clear();
        server_us.clear();
        *queue_us = 0;
    }
}

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let mut room = core.take_search_room();
    let answered = answer_in(core, request, deadline, &mut room).await;
    room.clear();
    core.give_search_room(room);
    answered
}

async fn answer_in(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
    room: &mut SearchRoom,
) -> Result<Frame, ApiError> {
    let message = access::<SearchRequest>(&request.body)?;
    let route = super::route(core, &message.collection, &message.tenant)?;
    let filter = super::decode_filter(&route.config, &message.filter)?;
    let near = match message.near_id() {
        Some(id) => Some(Box::pin(near_vector(core, &route, message, id)).await?),
        None => None,
    };
    let queries = near.as_deref().unwrap_or_else(|| message.queries());
    let count = message.query_count();
    let spec = check(&route, message, queries, count)?;
    let offset = message.offset.to_native() as usize;
    let mut since_ns = deadline.begun_ns();
    room.reply.queue_us = (since_ns.saturating_sub(request.arrived_ns) / 1_000) as u32;
    request.reply.reserve(spec.k as usize * count * FOUND_BYTES)?;
    // Taken before the filters and the views: what they name is not reused while it is held.
    let pin = core.reader.pin();
    open_targets(core, &route, filter.as_ref(), &mut room.targets).await?;
    for (number, values) in queries.chunks_exact(queries.len() / count).enumerate() {
        if number > 0 {
            yield_if_needed().await;
            deadline.check()?;
        }
        let evaluations = search_all(core, Query { values, deadline }, spec, room).await?;
        room.found.extend(room.best.iter().skip(offset));
        let now_ns = core.clock.monotonic_ns();
        let spent_us = now_ns.saturating_sub(since_ns) / 1_000;
        since_ns = now_ns;
        room.reply.ends.push(room.found.len() as u32);
        room.reply.evaluations.push(u32::try_from(evaluations).unwrap_or(u32::MAX));
        room.reply.server_us.push(u32::try_from(spent_us).unwrap_or(u32::MAX));
    }
    drop(pin);
    let want = WireWant::from_bits(message.want);
    if want.any() {
        let want = engine_want(message.want);
        Box::pin(attach_objects(core, &route, room, want, request, deadline)).await?;
    }
    for hit in &room.found {
        room.reply.ids.extend_from_slice(&hit.id);
        room.reply.distances.push(hit.distance);
    }
    super::reply(request, &room.reply)
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

/// The stored vector of an object.
async fn near_vector(
    core: &Rc<Core>,
    route: &CollectionRoute,
    message: &ArchivedSearchRequest,
    id: ObjectId,
) -> Result<Vec<f32>, ApiError> {
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
    Ok(near.values)
}

/// Puts every shard of a collection into `targets`.
async fn open_targets(
    core: &Rc<Core>,
    route: &CollectionRoute,
    filter: Option<&Arc<Filter>>,
    targets: &mut Vec<Target>,
) -> Result<(), ApiError> {
    let Some(filter) = filter else {
        for (shard, _) in &route.shards {
            targets.push(Target { view: core.registry.view(*shard)?, bitmap: None });
        }
        return Ok(());
    };
    let opened = route.shards.iter().map(|(shard, home)| async move {
        let order = CoreRequest::FilterBitmap { shard: *shard, filter: Arc::clone(filter) };
        let bitmap = expect_reply!(core.call(*home, order).await?, Bitmap)?;
        Ok::<_, ApiError>(Target { view: core.registry.view(*shard)?, bitmap: Some(bitmap) })
    });
    targets.extend(Box::pin(futures::future::try_join_all(opened)).await?);
    Ok(())
}

/// A query vector, and when its answer is of no use any more.
#[derive(Clone, Copy)]
struct Query<'a> {
    values: &'a [f32],
    deadline: Deadline<'a>,
}

/// Searches every shard and merges into `room.best`; says how many distances that took.
async fn search_all(
    core: &Rc<Core>,
    query: Query<'_>,
    spec: Spec,
    room: &mut SearchRoom,
) -> Result<u64, ApiError> {
    let shards = room.targets.len();
    let first = if shards == 1 { spec } else { share_of(spec, shards) };
    let mut evaluations = 0;
    room.lists.resize_with(shards, Vec::new);
    for place in 0..shards {
        room.lists[place].clear();
        evaluations += search_shard(core, place, query, first, room).await?;
    }
    merge(room.lists.iter().flatten(), spec.k, &mut room.best);
    if first.k < spec.k || first.ef < spec.ef {
        let mut again = false;
        for place in 0..shards {
            if may_hold_more(&room.lists[place], first.k, &room.best, spec.k) {
                evaluations += search_shard(core, place, query, spec, room).await?;
                again = true;
            }
        }
        if again {
            merge(room.lists.iter().flatten(), spec.k, &mut room.best);
        }
    }
    core.metrics.queries.add(1);
    core.metrics.distance_evaluations.add(evaluations);
    Ok(evaluations)
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

/// Puts the `k` nearest of all into `best`, each object once. An object that is being replaced may
/// be found in its old and its new slot; the nearer one stays.
fn merge<'a>(lists: impl Iterator<Item = &'a Found>, k: u32, best: &mut Vec<Found>) {
    best.clear();
    best.extend(lists);
    best.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then_with(|| a.id.cmp(&b.id)));
    let k = k as usize;
    if best.len() > FEW_HITS {
        let mut seen = FxHashSet::with_capacity_and_hasher(k, Default::default());
        best.retain(|found| seen.len() < k && seen.insert(found.id));
        return;
    }
    let mut kept = 0;
    for at in 0..best.len() {
        let found = best[at];
        if kept < k && best[..kept].iter().all(|other| other.id != found.id) {
            best[kept] = found;
            kept += 1;
        }
    }
    best.truncate(kept);
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

/// Searches one shard in steps, offering to yield between them, and adds what it finds to its list.
async fn search_shard(
    core: &Core,
    place: usize,
    query: Query<'_>,
    spec: Spec,
    room: &mut SearchRoom,
) -> Result<u64, ApiError> {
    let SearchRoom { scratch, hits, targets, lists, .. } = room;
    let Target { view, bitmap } = &targets[place];
    let Some((vectors, directory)) = open_index(view, spec.vector, query.values)? else {
        return Ok(0);
    };
    let request = IndexRequest {
        k: spec.k,
        ef: spec.ef,
        filter: bitmap.as_deref(),
        max_distance: spec.max_distance,
    };
    let mut task = vectors.start(&directory, query.values, request, scratch);
    while task.step(spec.step_evaluations).is_pending() {
        offer_core(core, query.deadline).await?;
    }
    hits.clear();
    let stats = task.finish(hits);
    core.metrics.queries_exact.add(u64::from(stats.exact));
    // Extreme components overflow to infinity, and two of those may cancel to no number at all.
    let numbers = hits.iter().filter(|hit| !hit.distance.is_nan());
    lists[place].extend(numbers.map(|&Hit { slot, distance }| {
        let id = directory.id(slot);
        Found { distance, id, slot, place }
    }));
    Ok(stats.evaluations)
}

/// Lets other work go on between two steps. Errors: the deadline's.
async fn offer_core(core: &Core, deadline: Deadline<'_>) -> Result<(), ApiError> {
    let now_ns = core.clock.monotonic_ns();
    // Replies that are done do not wait for the end of a long search.
    core.server.workers.send_overdue(now_ns);
    if now_ns.saturating_sub(deadline.begun_ns()) < PATIENCE_NS {
        core.server.workers.offer_core().await;
    } else {
        yield_if_needed().await;
    }
    deadline.check()
}

/// Fetches the neighbours themselves; those that were deleted meanwhile are left out.
async fn attach_objects(
    core: &Rc<Core>,
    route: &CollectionRoute,
    room: &mut SearchRoom,
    want: Want,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<(), ApiError> {
    let SearchRoom { found, reply, .. } = room;
    let total = found.len();
    let mut objects: Vec<Option<Object>> = (0..total).map(|_| None).collect();
    let mut bytes = total * FOUND_BYTES;
    request.reply.reserve(bytes + core.object_size.expected(&route.config, want, total))?;
    for (place, (shard, home)) in route.shards.iter().enumerate() {
        let all = found.iter().enumerate();
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
        let mut best = vec![found(9.0, 9)];
        merge(lists.iter().flatten(), 4, &mut best);
        let rows: Vec<u32> = best.iter().map(|found| found.slot).collect();
        assert_eq!(rows, [4, 0, 1, 2]);
        merge(lists.iter().flatten(), 2, &mut best);
        assert_eq!(best.len(), 2);
    }

    #[test]
    fn many_hits_merge_like_few() {
        // Every object twice, at two distances, in an order of no meaning.
        let all: Vec<Found> = (0..200)
            .map(|place: u64| (place * 77) % 200)
            .map(|place| found(place as f32, place / 2))
            .collect();
        let mut best = Vec::new();
        merge(all.iter(), 30, &mut best);
        let rows: Vec<u32> = best.iter().map(|found| found.slot).collect();
        assert_eq!(rows, (0..30).collect::<Vec<u32>>());
        let few: Vec<Found> = all.into_iter().filter(|found| found.slot < 30).collect();
        let mut best_of_few = Vec::new();
        merge(few.iter(), 30, &mut best_of_few);
        assert_eq!(best, best_of_few);
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
