//! Opening, checkpointing and draining a data core.

use std::rc::Rc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use heddle_core::engine::{Engine, EngineConfig, EngineError, OnDataLoss, Progress};
use heddle_core::wal::{WalConfig, WalError};
use heddle_runtime::{GlommioDevice, Queue, fatal, sleep, spawn};
use heddle_types::limits::WAL_BACKLOG_BYTES_MAX;
use heddle_types::{ApiError, Clock, ErrorCode, FatalReason};

use crate::background;
use crate::core::{Core, HomeEngine};
use crate::hints;
use crate::home::{publish_views, views_of};
use crate::message::{CoreAnswer, CoreReply, OpenOrder};
use crate::metrics::StartReport;
use crate::server::{notify_clients, watch_connections};

/// Row bytes that a shard keeps in memory before they go to a segment file (16 MiB).
const MEMTABLE_BYTES: usize = 16 << 20;
/// Bytes that rewriting rows reads and writes a second on a core, on average (64 MiB).
const COMPACTION_BYTES_PER_S: u64 = 64 << 20;
/// A log may hold this many times the bytes that make a single shard due for a checkpoint.
const LOG_BYTES_FACTOR: u64 = 4;
/// Images that are written at the same time when all are.
const IMAGES_AT_ONCE: usize = 8;
/// How often a draining core looks whether its connections are gone.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// Recovers the shards of this core and starts its drivers. Ends the process when that is
/// impossible: a node that serves half of its data looks healthy and is not.
pub(crate) async fn open(core: &Rc<Core>, order: OpenOrder) -> CoreAnswer {
    let node = &core.node;
    let device = GlommioDevice::new(&node.config.data_dir)
        .unwrap_or_else(|error| fatal(FatalReason::DataDirectory, error));
    let config = EngineConfig {
        core: core.index as u32,
        node: node.identity.node,
        boot: node.identity.boot,
        wal: WalConfig {
            segment_bytes: node.config.wal_segment_bytes,
            backlog_bytes_max: WAL_BACKLOG_BYTES_MAX,
        },
        log_indexes: order.log_indexes,
        // One core may hold all of it; the sum over cores is watched by the node.
        memory_bytes_max: node.memory_bytes,
        checkpoint_log_bytes: node.config.checkpoint_log_bytes,
        log_bytes_max: node.config.checkpoint_log_bytes * LOG_BYTES_FACTOR,
        memtable_bytes: MEMTABLE_BYTES,
        on_data_loss: if node.config.accept_data_loss {
            OnDataLoss::Accept
        } else {
            OnDataLoss::Quarantine
        },
        compaction_bytes_per_s: COMPACTION_BYTES_PER_S,
        paces_writers: true,
        device_sharers: core.data_cores as u32,
    };
    let index = core.index;
    for spec in &order.shards {
        let start = StartReport { shard: spec.id.0, phase: "waiting", ..StartReport::default() };
        core.starts.borrow_mut().insert(spec.id, start);
    }
    let progress = |step| note_progress(core, step);
    let quiescence = std::sync::Arc::clone(&node.quiescence);
    let opened =
        Engine::open(device.clone(), core.clock, config, quiescence, order.shards, progress).await;
    let (engine, report) = match opened {
        Ok(opened) => opened,
        Err(error) => fatal(reason_of(&error), format_args!("core {index}: {error}")),
    };
    core.set_engine(engine.clone());
    core.starts.borrow_mut().values_mut().for_each(|start| start.phase = "ready");
    let views = views_of(&engine);
    let log = engine.clone();
    spawn(Queue::Wal, async move {
        let error = log.run_wal().await;
        fatal(FatalReason::WalWrite, error)
    });
    spawn(Queue::Insert, publish_changes(Rc::clone(core), engine.clone()));
    background::start(core, &engine);
    spawn(Queue::Background, hints::run(Rc::clone(core), device));
    spawn(Queue::Control, watch_connections(Rc::clone(core)));
    spawn(Queue::Control, notify_clients(Rc::clone(core)));
    Ok(CoreReply::Opened(Box::new(report), views))
}

/// Tells every core of arenas that moved without a writer waiting for it: a batched write takes
/// effect after its answer.
async fn publish_changes(core: Rc<Core>, engine: HomeEngine) {
    let mut seen = engine.view_version();
    loop {
        seen = engine.view_changed(seen).await;
        if let Err(error) = publish_views(&core).await {
            // A core has stopped, and with it the node.
            tracing::debug!(core = core.index, %error, "views are not published");
        }
    }
}

/// Keeps for status and `/ready` how far the start has come, and logs the larger steps.
fn note_progress(core: &Core, step: Progress) {
    let mut starts = core.starts.borrow_mut();
    let core = core.index;
    match step {
        Progress::ImageRead { shard, bytes, total } => {
            let start = starts.entry(shard).or_default();
            start.phase = "image";
            (start.image_bytes_read, start.image_bytes) = (bytes, total);
            if bytes == 0 || bytes == total {
                tracing::info!(core, %shard, bytes, total, "image being read");
            }
        }
        Progress::ShardReplayed { shard, records } => {
            let start = starts.entry(shard).or_default();
            start.phase = "log";
            start.records_replayed = records;
        }
        Progress::ShardLoaded { shard, objects } => {
            tracing::info!(core, %shard, objects, "shard loaded");
        }
        Progress::LogReplayed { log_index, records } => {
            tracing::info!(core, log_index, records, "log replayed");
        }
    }
}

/// The exit code that tells an operator what to do about an engine that does not open.
fn reason_of(error: &EngineError) -> FatalReason {
    match error {
        // A read that fails says nothing about the bytes: it is the operator's disk that needs
        // help, and nothing is given up for it.
        error if error.device().is_some() => FatalReason::DataDirectory,
        EngineError::Wal(WalError::Version { .. }) => FatalReason::FormatVersion,
        EngineError::Wal(WalError::Full) => FatalReason::DataDirectory,
        EngineError::Wal(WalError::SegmentSize { .. }) => FatalReason::Config,
        _ => FatalReason::Corruption,
    }
}

/// Checkpoints every shard that has changed, so that the next start replays nothing. One that fails
/// does not keep the others from being written.
///
/// Errors: the first one; or a shard that is not served (quarantined, lost, or still being built
/// again) or still has changes, which only the log holds then.
pub(crate) async fn checkpoint_all(core: &Rc<Core>) -> Result<(), ApiError> {
    let engine = core.engine()?;
    let mut first: Option<ApiError> = None;
    // With many small shards most of the time goes to syncs, which several of them share.
    let images = engine.changed_shards().into_iter();
    let images = images.map(|shard| {
        let engine = engine.clone();
        async move { (shard, engine.checkpoint(shard).await) }
    });
    let mut images = stream::iter(images).buffer_unordered(IMAGES_AT_ONCE);
    while let Some((shard, written)) = images.next().await {
        match written {
            Ok(()) => core.metrics.checkpoints.add(1),
            Err(error) => {
                core.metrics.checkpoint_failures.add(1);
                tracing::warn!(core = core.index, %shard, %error, "checkpoint failed");
                first.get_or_insert(error.into());
            }
        }
    }
    if let Some(error) = first {
        return Err(error);
    }
    if let Some(refusal) = engine.unserved() {
        // Its log must stay where it is looked for.
        return Err(refusal);
    }
    match engine.changed_shards().first() {
        None => Ok(()),
        Some(shard) => Err(ApiError::transient(
            ErrorCode::Unavailable,
            format!("shard {shard} has changes that its checkpoint does not hold"),
        )),
    }
}

/// Answers what is in flight and closes every connection, within the drain limit.
pub(crate) async fn drain(core: &Rc<Core>) {
    core.server.stop_reading();
    core.links.drain();
    let limit = Duration::from_secs(core.node.config.drain_timeout_s);
    let begun_ns = core.clock.monotonic_ns();
    let open = || {
        let connections = core.server.open_connections() + core.links.served_count();
        // Replicas are still to confirm writes that were answered already, and what they do not
        // take is to be kept.
        connections + core.tails.open() + core.hints.unwritten()
    };
    while open() > 0 {
        if core.clock.monotonic_ns() - begun_ns > limit.as_nanos() as u64 {
            tracing::warn!(core = core.index, open = open(), "not all ended in time: cut");
            core.server.cut_all();
            core.links.cut_all();
            return;
        }
        sleep(DRAIN_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use heddle_core::objects::ObjectError;
    use heddle_types::{DeviceError, ShardId};

    use super::*;

    #[test]
    fn a_disk_that_cannot_be_read_is_told_from_one_with_damage() {
        let device = || DeviceError::Io {
            path: "logs/0000/0000000001.wal".to_owned(),
            operation: "read",
            os_code: Some(5),
            source_text: "Input/output error".to_owned(),
        };
        let shard = ShardId(1);
        for error in [
            EngineError::Device(device()),
            EngineError::Wal(WalError::Device(device())),
            EngineError::Objects { shard, source: ObjectError::Device(device()) },
            EngineError::Wal(WalError::Full),
        ] {
            assert_eq!(reason_of(&error), FatalReason::DataDirectory, "{error}");
        }
        let problem = "is another one".to_owned();
        let damaged = EngineError::Image { shard, problem };
        assert_eq!(reason_of(&damaged), FatalReason::Corruption);
    }
}
