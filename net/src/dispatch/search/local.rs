//! Searching the shards of this node, against their published views.

use std::rc::Rc;
use std::sync::Arc;

use heddle_core::shard::ShardView;
use heddle_index::{
    Hit, Scratch, SearchRequest as IndexRequest, SlotBitmap, SlotDirectory, VectorView,
};
use heddle_runtime::yield_if_needed;
use heddle_types::{ApiError, Clock, ErrorCode, Filter};

use super::merge::{Found, Spec};
use crate::core::Core;
use crate::dispatch::Deadline;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::ShardAt;

/// Time between two offers to yield, nanoseconds.
const STEP_NS: u64 = heddle_types::limits::STEP_US_MAX * 1_000;
/// Cost of one distance besides its components: a cache miss and the bookkeeping, nanoseconds.
const DISTANCE_NS: u64 = 40;
/// Components that a kernel takes in a nanosecond, about.
const COMPONENTS_PER_NS: u64 = 8;
/// Time that a request works through before it lets later ones of its queue go on: most end within
/// it, and in turn they end sooner than all at once.
const PATIENCE_NS: u64 = 2_000_000;

/// One shard, ready to be searched.
#[derive(Debug)]
pub(super) struct Target {
    /// Its position in the route.
    pub(super) place: usize,
    replica: u8,
    view: Arc<ShardView>,
    bitmap: Option<Arc<SlotBitmap>>,
}

/// Memory of a walk through an index.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    scratch: Scratch,
    hits: Vec<Hit>,
}

impl Workspace {
    pub(super) fn clear(&mut self) {
        self.hits.clear();
    }
}

/// A query vector, and when its answer is of no use any more.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) values: &'a [f32],
    pub(super) deadline: Deadline<'a>,
}

/// What a walk through one shard cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looked {
    pub(super) evaluations: u64,
    /// Was every row looked at?
    pub(super) exact: bool,
}

/// Distances of vectors of `dims` components that fit into a step.
pub(super) fn step_evaluations(dims: usize) -> u64 {
    (STEP_NS / (DISTANCE_NS + dims as u64 / COMPONENTS_PER_NS)).max(1)
}

/// Puts those of some shards that are on this node into `targets`. The caller holds a pin.
pub(super) async fn open_targets(
    core: &Rc<Core>,
    shards: &[ShardAt],
    filter: Option<&Arc<Filter>>,
    targets: &mut Vec<Target>,
) -> Result<(), ApiError> {
    let here = shards.iter().enumerate().filter(|(_, shard)| shard.is_here);
    let Some(filter) = filter else {
        for (place, shard) in here {
            let (view, replica) = (core.registry.view(shard.id)?, shard.replica);
            targets.push(Target { place, replica, view, bitmap: None });
        }
        return Ok(());
    };
    let opened = here.map(|(place, shard)| async move {
        let order = CoreRequest::FilterBitmap { shard: shard.id, filter: Arc::clone(filter) };
        let bitmap = expect_reply!(core.call_home(shard.home, order).await?, Bitmap)?;
        let view = core.registry.view(shard.id)?;
        let replica = shard.replica;
        Ok::<_, ApiError>(Target { place, replica, view, bitmap: Some(bitmap) })
    });
    targets.extend(Box::pin(futures::future::try_join_all(opened)).await?);
    Ok(())
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

/// Searches one shard in steps, offering to yield between them, and adds what it finds to `list`.
pub(super) async fn search_shard(
    core: &Core,
    target: &Target,
    query: Query<'_>,
    spec: Spec,
    workspace: &mut Workspace,
    list: &mut Vec<Found>,
) -> Result<Looked, ApiError> {
    let Workspace { scratch, hits } = workspace;
    let Some((vectors, directory)) = open_index(&target.view, spec.vector, query.values)? else {
        return Ok(Looked::default());
    };
    let request = IndexRequest {
        k: spec.k,
        ef: spec.ef,
        filter: target.bitmap.as_deref(),
        max_distance: spec.max_distance,
    };
    let mut task = vectors.start(&directory, query.values, request, scratch);
    while task.step(spec.step_evaluations).is_pending() {
        offer_core(core, query.deadline).await?;
    }
    hits.clear();
    let stats = task.finish(hits);
    core.node.note_search(query.deadline.begun_ns());
    core.metrics.queries_exact.add(u64::from(stats.exact));
    core.metrics.distance_evaluations.add(stats.evaluations);
    // Extreme components overflow to infinity, and two of those may cancel to no number at all.
    let numbers = hits.iter().filter(|hit| !hit.distance.is_nan());
    let (place, replica) = (target.place as u16, target.replica);
    list.extend(numbers.map(|&Hit { slot, distance }| {
        let id = directory.id(slot);
        Found { distance, id, slot, place, replica }
    }));
    Ok(Looked { evaluations: stats.evaluations, exact: stats.exact })
}

/// Lets other work go on between two steps. Errors: the deadline's.
async fn offer_core(core: &Core, deadline: Deadline<'_>) -> Result<(), ApiError> {
    let now_ns = core.clock.monotonic_ns();
    // Replies that are done do not wait for the end of a long search.
    core.server.workers.send_overdue(now_ns);
    let is_young = now_ns.saturating_sub(deadline.begun_ns()) < PATIENCE_NS;
    if is_young && deadline.is_of_client() {
        core.server.workers.offer_core().await;
    } else {
        yield_if_needed().await;
    }
    deadline.check()
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
}
