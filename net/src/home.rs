//! What a core does when another asks it: the engine's work on the shards that are at home here,
//! and its part in the life of the node.

use std::net::SocketAddr;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use futures::stream::{self, StreamExt};
use heddle_core::engine::{IndexBatch, ViewChanges};
use heddle_core::shard::ShardSpec;
use heddle_runtime::{fatal, let_others_run};
use heddle_types::{ApiError, Clock, CoreIndex, ErrorCode, FatalReason, ShardId};

use crate::core::{Core, HomeEngine};
use crate::message::{
    CoreAnswer, CoreReply, CoreRequest, ListenOrder, Publication, ViewSet, unexpected,
};
use crate::meta::shard_directory;
use crate::{background, backup, dispatch, lifecycle, peer, repair, report, server};

/// Shards of tenants that are written or loaded at the same time: their syncs become one.
const SHARDS_AT_ONCE: usize = 16;

/// Works on a request of another core (or of this one).
pub(crate) fn handle(
    core: Rc<Core>,
    _source: CoreIndex,
    request: CoreRequest,
) -> LocalBoxFuture<'static, CoreAnswer> {
    match request {
        CoreRequest::Put { .. }
        | CoreRequest::Delete { .. }
        | CoreRequest::Get { .. }
        | CoreRequest::FetchSlots { .. }
        | CoreRequest::Scan { .. }
        | CoreRequest::Count { .. }
        | CoreRequest::FilterBitmap { .. }
        | CoreRequest::ReplicaWrite { .. }
        | CoreRequest::Digests { .. }
        | CoreRequest::ReadStamped { .. } => Box::pin(handle_data(core, request)),
        CoreRequest::Conditional(order) => Box::pin(dispatch::answer_conditional(core, *order)),
        CoreRequest::CheckReplicas { collection, shard } => Box::pin(async move {
            Ok(CoreReply::Checked(repair::check_here(&core, collection, shard).await?))
        }),
        CoreRequest::SearchBatch(batch) => Box::pin(search_batch(core, *batch)),
        other => Box::pin(handle_node(core, other)),
    }
}

async fn handle_data(core: Rc<Core>, request: CoreRequest) -> CoreAnswer {
    let engine = core.engine()?;
    match request {
        CoreRequest::Put { shard, mode, durability, items } => {
            core.registry.check_writable(shard)?;
            engine.set_space(core.node.space());
            engine.set_searched(core.node.is_searched(core.clock.monotonic_ns()));
            let written = engine.put_with(shard, mode, durability, items).await?;
            publish_views(&core).await?;
            Ok(CoreReply::Written(written))
        }
        CoreRequest::Delete { shard, durability, ids } => {
            core.registry.check_writable(shard)?;
            let deleted = engine.delete_with(shard, durability, ids).await?;
            publish_views(&core).await?;
            Ok(CoreReply::Deleted(deleted))
        }
        CoreRequest::Get { shard, ids, want } => {
            Ok(CoreReply::Found(engine.get(shard, &ids, want).await?))
        }
        CoreRequest::FetchSlots { shard, hits, want } => {
            Ok(CoreReply::Found(engine.fetch_slots(shard, &hits, want).await?))
        }
        CoreRequest::Scan { shard, page } => {
            let filter = page.filter.as_deref();
            let objects = engine.scan(shard, page.after, page.limit, filter, page.want).await?;
            Ok(CoreReply::Page(objects))
        }
        CoreRequest::Count { shard, filter } => {
            Ok(CoreReply::Count(engine.count(shard, filter.as_deref()).await?))
        }
        CoreRequest::FilterBitmap { shard, filter } => {
            Ok(CoreReply::Bitmap(engine.filter_bitmap(shard, &filter).await?))
        }
        CoreRequest::ReplicaWrite { shard, durability, writes } => {
            core.registry.check_writable(shard)?;
            engine.set_space(core.node.space());
            engine.set_searched(core.node.is_searched(core.clock.monotonic_ns()));
            let written = engine.apply_stamped(shard, durability, writes).await?;
            publish_views(&core).await?;
            Ok(CoreReply::Replicated(written))
        }
        CoreRequest::Digests { shard, ids } => Ok(CoreReply::Digests(engine.digests(shard, &ids)?)),
        CoreRequest::ReadStamped { shard, ids } => {
            Ok(CoreReply::Copies(engine.read_stamped(shard, ids).await?))
        }
        _ => Err(ApiError::internal("no request to a home core")),
    }
}

async fn handle_node(core: Rc<Core>, request: CoreRequest) -> CoreAnswer {
    match request {
        CoreRequest::Open(order) => lifecycle::open(&core, *order).await,
        CoreRequest::Listen(order) => listen(&core, order),
        CoreRequest::ListenToPeers(port) => Ok(listen_to_peers(&core, port)),
        CoreRequest::CheckpointAll => {
            lifecycle::checkpoint_all(&core).await.map(|()| CoreReply::Done)
        }
        CoreRequest::Seal => {
            core.engine()?.seal().await.map_err(ApiError::from)?;
            Ok(CoreReply::Done)
        }
        CoreRequest::Drain => {
            lifecycle::drain(&core).await;
            Ok(CoreReply::Done)
        }
        CoreRequest::Report => Ok(CoreReply::Report(Box::new(report::of_core(&core)))),
        CoreRequest::FindDamaged(shards) => {
            Ok(CoreReply::Damaged(core.engine()?.not_backed_up(&shards)))
        }
        CoreRequest::BackUp { folder, shards } => backup::of_core(&core, &folder, &shards).await,
        CoreRequest::CreateShards(specs) => create_shards(&core, specs).await,
        CoreRequest::DropShards(shards) => drop_shards(&core, shards).await,
        CoreRequest::OpenShards(specs) => open_shards(&core, specs).await,
        CoreRequest::CloseShards(shards) => close_shards(&core, shards).await,
        CoreRequest::FixShardDims { shards, config } => {
            let engine = core.engine()?;
            for shard in shards {
                match engine.fix_dims(shard, std::sync::Arc::clone(&config)) {
                    // One that is not served has no index to make; the others go on.
                    Err(error) if error.code == ErrorCode::Corrupt => {}
                    fixed => fixed?,
                }
            }
            publish_views(&core).await.map(|()| CoreReply::Done)
        }
        CoreRequest::Publish(publication) => {
            core.registry.install(publication);
            Ok(CoreReply::Done)
        }
        _ => Err(ApiError::internal("no request to a data core")),
    }
}

async fn create_shards(core: &Rc<Core>, specs: Vec<ShardSpec>) -> CoreAnswer {
    let engine = core.engine()?;
    // Those of an attempt that did not come to its end are there.
    let specs = specs.into_iter().filter(|spec| !engine.has_shard(spec.id));
    engine.create_shards(specs.collect()).await?;
    publish_views(core).await.map(|()| CoreReply::Done)
}

async fn drop_shards(core: &Rc<Core>, shards: Vec<ShardId>) -> CoreAnswer {
    let engine = core.engine()?;
    // What is not here is closed, was never made, or a drop before has come this far.
    let (open, closed): (Vec<ShardId>, Vec<ShardId>) =
        shards.into_iter().partition(|shard| engine.has_shard(*shard));
    let dropped = if open.is_empty() { Ok(()) } else { engine.drop_shards(&open).await };
    let closed: Vec<_> = closed.into_iter().map(|id| (id, shard_directory(id))).collect();
    let removed = engine.remove_closed(&closed).await;
    dropped.and(removed).map(|()| CoreReply::Done)
}

async fn open_shards(core: &Rc<Core>, specs: Vec<ShardSpec>) -> CoreAnswer {
    let engine = core.engine()?;
    let opened = engine.open_shards(specs).await?;
    publish_views(core).await?;
    if !opened.lost.is_empty() {
        let lost = Publication::Lost(opened.lost);
        let request = |_| CoreRequest::Publish(lost.clone());
        core.call_all(0..core.data_cores, request).await?;
    }
    if opened.has_rebuilds {
        background::start_rebuild(core, &engine);
    }
    Ok(CoreReply::Done)
}

/// Closes what can be closed. Errors: the first one; that shard stays as it is, the others are
/// closed.
async fn close_shards(core: &Rc<Core>, shards: Vec<ShardId>) -> CoreAnswer {
    let engine = core.engine()?;
    if !shards.iter().any(|shard| engine.has_shard(*shard)) {
        return Ok(CoreReply::Done);
    }
    let closing = stream::iter(shards.iter().map(|shard| engine.close_shard(*shard)));
    let closed: Vec<_> = closing.buffer_unordered(SHARDS_AT_ONCE).collect().await;
    // A damaged one takes no memory worth the name, and its files stay as they are.
    let is_serious = |error: &ApiError| error.code != ErrorCode::Corrupt;
    let first = closed.into_iter().filter_map(Result::err).find(is_serious);
    if let Some(shard) = shards.first() {
        engine.settle_closed(&shard_directory(*shard)).await?;
    }
    publish_views(core).await?;
    first.map_or(Ok(CoreReply::Done), Err)
}

fn listen(core: &Rc<Core>, order: ListenOrder) -> CoreAnswer {
    let open = |port| {
        let address = SocketAddr::new(core.node.config.listen, port);
        match server::listen(core, address) {
            Ok(local) => local.port(),
            Err(error) => fatal(FatalReason::Listen, format_args!("{address}: {error}")),
        }
    };
    let (native_port, core_port) = (open(order.native_port), open(order.core_port));
    Ok(CoreReply::Listening { native_port, core_port })
}

/// Answers what other nodes ask about shards.
fn listen_to_peers(core: &Rc<Core>, port: u16) -> CoreReply {
    let answering = Rc::clone(core);
    let handler: peer::Handler = Rc::new(move |call| {
        let core = Rc::clone(&answering);
        match repair::answers(call.header.type_number) {
            true => Box::pin(repair::answer(core, call)),
            false => Box::pin(dispatch::answer_peer(core, call)),
        }
    });
    let address = SocketAddr::new(core.node.config.listen, port);
    if let Err(error) = peer::listen(core, address, handler) {
        fatal(FatalReason::Listen, format_args!("{address}: {error}"));
    }
    CoreReply::Done
}

/// The views of this core's shards as they are now.
pub(crate) fn views_of(engine: &HomeEngine) -> ViewSet {
    // The version first: views that are newer than it are only published once more.
    let version = engine.view_version();
    ViewSet { version, views: engine.views(), gone: Vec::new() }
}

/// Tells every data core when an arena of a shard has moved, and waits until all of them know.
///
/// Before a write is acknowledged, so that any core finds what was written. Cost when nothing has
/// moved: a comparison.
pub(crate) async fn publish_views(core: &Rc<Core>) -> Result<(), ApiError> {
    let engine = core.engine()?;
    if core.published_version() >= engine.view_version() {
        return Ok(());
    }
    // The version first, as above; what every core knows already is not sent again.
    let version = engine.view_version();
    let ViewChanges { views, gone } = engine.views_since(core.published_version());
    let set = ViewSet { version, views, gone };
    let request = |_| CoreRequest::Publish(Publication::Views(set.clone()));
    for reply in core.call_all(0..core.data_cores, request).await? {
        let CoreReply::Done = reply else { return Err(unexpected(&reply)) };
    }
    core.set_published_version(version);
    Ok(())
}

/// Finds neighbours for vectors of some shard of the node, one vector a step.
async fn search_batch(core: Rc<Core>, batch: IndexBatch) -> CoreAnswer {
    let _pin = core.reader.pin();
    let mut scratch = core.take_link_scratch();
    let count = batch.len();
    let mut indexed = Vec::with_capacity(count);
    for single in batch.split(count) {
        indexed.push(single.search(&mut scratch));
        let_others_run().await;
    }
    core.give_link_scratch(scratch);
    Ok(CoreReply::Indexed(indexed))
}
