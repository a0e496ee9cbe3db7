//! Work of a home core that nobody waits for: linking vectors, sweeping, checkpoints.
//!
//! Each is a task in a low queue that works in short steps and yields between them.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use heddle_core::engine::{IndexedBatch, LinkProgress, RowBatch, ScrubStep};
use heddle_runtime::stats::thread_cpu_ns;
use heddle_runtime::{Queue, let_others_run, sleep, spawn, yield_now};
use heddle_types::{Clock, ShardId};

use crate::core::{Core, HomeEngine};
use crate::home::publish_views;
use crate::message::{CoreRequest, Publication, expect_reply};
use crate::repair;

/// Vectors searched against one state of the graph, by all data cores together.
const BATCH_SLOTS_PER_CORE: usize = 32;
/// Rows looked at between two offers to yield: one that is full takes some 10 us.
const LINK_ROWS: usize = 16;
/// Shortest and longest time between two looks at writers that are held back: the first one may
/// come late by as much as the last.
const HOLD_MIN: Duration = Duration::from_millis(1);
const HOLD_MAX: Duration = Duration::from_millis(5);
/// Pause while a checkpoint keeps the graph still.
const PAUSE: Duration = Duration::from_millis(5);
/// Pause before a sweep: long enough to end the turn of the runtime.
///
/// The runtime sets the timer of a turn when the turn begins. Where only messages wait then, it
/// takes its default of 100 ms, and what a message wakes would run for so long before anything else
/// is looked at. A sweep awaits nothing by itself, so it waits for a turn that begins with it.
const TURN_PAUSE: Duration = Duration::from_micros(100);
/// How often checkpoints and maintenance are looked at.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(200);
/// Shortest pause between two steps of a scrub.
const SCRUB_PAUSE_MIN: Duration = Duration::from_millis(1);
/// Pause after a checkpoint failed, so that a full disk is not filled further at full speed.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Starts the background tasks of a data core.
pub(crate) fn start(core: &Rc<Core>, engine: &HomeEngine) {
    spawn(Queue::Insert, index(Rc::clone(core), engine.clone()));
    spawn(Queue::Wal, pace(engine.clone()));
    start_rebuild(core, engine);
    spawn(Queue::Background, maintain(Rc::clone(core), engine.clone()));
    spawn(Queue::Background, scrub(Rc::clone(core), engine.clone()));
    repair::start(core, engine);
}

/// Starts to build the shards whose image was unusable, if there are any.
pub(crate) fn start_rebuild(core: &Rc<Core>, engine: &HomeEngine) {
    spawn(Queue::Background, rebuild(Rc::clone(core), engine.clone()));
}

/// Builds the shards whose image was unusable, one after the other.
async fn rebuild(core: Rc<Core>, engine: HomeEngine) {
    while let Some((shard, built)) = engine.rebuild_next().await {
        match built {
            Ok(()) => tracing::info!(core = core.index, %shard, "built again from its rows"),
            Err(error) => {
                tracing::error!(core = core.index, %shard, %error, "cannot be built again");
                let publication = Publication::Lost(vec![(shard, error)]);
                let request = |_| CoreRequest::Publish(publication.clone());
                if let Err(error) = core.call_all(0..core.data_cores, request).await {
                    return tracing::debug!(%error, "building ends");
                }
            }
        }
        if let Err(error) = publish_views(&core).await {
            return tracing::debug!(%error, "building ends");
        }
    }
}

/// Lets writers go on that are held back while much is to be linked, each when its time has come.
async fn pace(engine: HomeEngine) {
    loop {
        let wait = Duration::from_nanos(engine.held_writers().await);
        sleep(wait.clamp(HOLD_MIN, HOLD_MAX)).await;
        engine.release_writers();
    }
}

/// Links vectors into graphs as they come; sweeps dead ones when nothing is to be linked.
async fn index(core: Rc<Core>, engine: HomeEngine) {
    let mut is_sweeping = false;
    loop {
        let seen = engine.background_version();
        // Held until the batch is linked: what its searches found stays walkable.
        let pin = core.reader.pin();
        if let Some(batch) = engine.index_batch(BATCH_SLOTS_PER_CORE * core.data_cores) {
            is_sweeping = false;
            let count = batch.len();
            // Every core takes a part, this one the first.
            let parts = batch.split(core.data_cores).into_iter().enumerate();
            let searches = parts.map(|(place, part)| {
                let target = (core.index + place) % core.data_cores;
                let core = Rc::clone(&core);
                async move {
                    let reply = core.call(target, CoreRequest::SearchBatch(Box::new(part))).await?;
                    expect_reply!(reply, Indexed)
                }
            });
            match futures::future::try_join_all(searches).await {
                Ok(parts) => {
                    let parts = parts.into_iter().flatten().collect();
                    if let Some(rows) = IndexedBatch::gather(parts) {
                        link(&core, &engine, rows).await;
                    }
                    core.metrics.slots_indexed.add(count as u64);
                }
                // A core is gone: the node is going down.
                Err(error) => return tracing::debug!(%error, "indexing ends"),
            }
        } else {
            drop(pin);
            if !is_sweeping {
                sleep(TURN_PAUSE).await;
            }
            is_sweeping = engine.sweep_step();
            if !is_sweeping {
                engine.background_work(seen).await;
            }
        }
        yield_now().await;
    }
}

async fn link(core: &Core, engine: &HomeEngine, mut batch: RowBatch) {
    let mut scratch = core.take_link_scratch();
    loop {
        match engine.link_batch(batch, LINK_ROWS, &mut scratch) {
            LinkProgress::Done => break,
            LinkProgress::More(rest) => {
                batch = rest;
                let_others_run().await;
            }
            LinkProgress::Paused(rest) => {
                batch = rest;
                sleep(PAUSE).await;
            }
        }
    }
    core.give_link_scratch(scratch);
}

/// Writes checkpoints when they are due, and what else keeps files small.
async fn maintain(core: Rc<Core>, engine: HomeEngine) {
    loop {
        engine.set_space(core.node.space());
        // Before anything is rewritten, also between two rewrites: without its image a log grows,
        // and the space of rewritten rows returns with an image.
        for shard in due(&core, &engine) {
            match stepped(&core, engine.checkpoint(shard)).await {
                Ok(()) => {
                    core.metrics.checkpoints.add(1);
                    tracing::info!(core = core.index, %shard, "checkpoint written");
                }
                Err(error) => {
                    core.metrics.checkpoint_failures.add(1);
                    tracing::warn!(core = core.index, %shard, %error, "checkpoint failed");
                    sleep(FAILURE_PAUSE).await;
                }
            }
        }
        let is_busy = match engine.maintain().await {
            Ok(is_busy) => is_busy,
            Err(error) => {
                tracing::warn!(core = core.index, %error, "maintenance failed; it is tried again");
                sleep(FAILURE_PAUSE).await;
                false
            }
        };
        if !is_busy {
            sleep(MAINTENANCE_INTERVAL).await;
        }
    }
}

/// Does the work and keeps the CPU time of its longest step: so long other tasks had to wait.
async fn stepped<T>(core: &Core, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let begun_ns = thread_cpu_ns();
        let polled = work.as_mut().poll(context);
        let took_ns = thread_cpu_ns().saturating_sub(begun_ns);
        core.metrics.checkpoint_step_ns_max.raise_to(took_ns);
        polled
    })
    .await
}

/// Reads what rests on disk, at the set rate, from the start of the node on.
async fn scrub(core: Rc<Core>, engine: HomeEngine) {
    let config = &core.node.config;
    if config.scrub_bytes_per_s == 0 {
        return;
    }
    let interval_ns = config.scrub_interval_s.saturating_mul(1_000_000_000);
    loop {
        let began_ns = core.clock.monotonic_ns();
        while let ScrubStep::Read(bytes) = engine.scrub_step().await {
            let pause_ns = u128::from(bytes) * 1_000_000_000 / u128::from(config.scrub_bytes_per_s);
            let pause = Duration::from_nanos(u64::try_from(pause_ns).unwrap_or(u64::MAX));
            sleep(pause.max(SCRUB_PAUSE_MIN)).await;
        }
        let stats = engine.scrub_stats();
        tracing::info!(
            core = core.index,
            bytes = stats.bytes,
            damaged = stats.damaged,
            "everything on disk was read"
        );
        let passed_ns = core.clock.monotonic_ns().saturating_sub(began_ns);
        sleep(Duration::from_nanos(interval_ns.saturating_sub(passed_ns)).max(FAILURE_PAUSE)).await;
    }
}

/// Shards whose log has grown too long, and those whose image has grown too old.
fn due(core: &Core, engine: &HomeEngine) -> BTreeSet<ShardId> {
    let interval_us = core.node.config.checkpoint_interval_s * 1_000_000;
    let uptime_us = (core.clock.monotonic_ns() - core.node.started_ns) / 1_000;
    let old = engine.images_older_than(interval_us, uptime_us);
    old.into_iter().chain(engine.checkpoint_due()).collect()
}
