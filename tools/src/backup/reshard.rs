//! Restoring a backup with another number of shards: what it holds is dealt anew.
//!
//! The backup is restored as it was into a folder aside, its shards are opened there one core after
//! the other, and everything is written into fresh logs for the new shards, with its stamps. The
//! first start of the node applies these logs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::executor::block_on;
use futures::future::{Either, select, select_all};
use heddle_core::engine::{Engine, EngineConfig};
use heddle_core::shard::ShardSpec;
use heddle_core::wal::{Wal, WalConfig};
use heddle_index::Quiescence;
use heddle_meta::{Catalog, CollectionEntry};
use heddle_types::{Clock, NodeId, ObjectId, ShardId};

use super::device::Directory;
use crate::failure::Failure;

/// Folder under the new data directory in which the old shards are opened.
pub(super) const ASIDE: &str = "restoring";

/// The machine's clock, for an engine that stamps nothing.
#[derive(Clone, Debug)]
struct WallClock;

impl Clock for WallClock {
    fn unix_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn monotonic_ns(&self) -> u64 {
        self.unix_us().saturating_mul(1_000)
    }
}

/// Writes the logs of the new shards from the old ones under [`ASIDE`]; objects and deletions.
pub(super) fn deal_anew(data_dir: &Path, old: &Catalog, new: &Catalog) -> Result<u64, Failure> {
    let source = Directory::new(data_dir.join(ASIDE));
    let target = Directory::new(data_dir.to_path_buf());
    block_on(async {
        let mut logs = BTreeMap::new();
        let homes: BTreeSet<u32> = new.shards().map(|(_, shard)| shard.first().home).collect();
        for home in homes {
            logs.insert(home, open_log(&target, home).await?);
        }
        if logs.is_empty() {
            return Ok(0);
        }
        // A log that stops running in the middle of a write has failed, so all of them run until
        // the last one is sealed.
        let runs = select_all(logs.values().map(|log| Box::pin(log.run())));
        match select(runs, pin!(deal_all(&source, old, new, &logs))).await {
            Either::Left(((error, _, _), _)) => Err(failed(error)),
            Either::Right((dealt, _)) => dealt,
        }
    })
}

async fn deal_all(
    source: &Directory,
    old: &Catalog,
    new: &Catalog,
    logs: &BTreeMap<u32, Wal<Directory>>,
) -> Result<u64, Failure> {
    let homes: BTreeSet<u32> = old.shards().map(|(_, shard)| shard.first().home).collect();
    let mut copied = 0;
    for home in homes {
        copied += deal_core(source, home, old, new, logs).await?;
    }
    for log in logs.values() {
        log.seal().await.map_err(failed)?;
    }
    Ok(copied)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}

async fn open_log(target: &Directory, home: u32) -> Result<Wal<Directory>, Failure> {
    let directory = format!("logs/{home:04}");
    let config = WalConfig::default();
    let opened = Wal::recover(target.clone(), &directory, config, &mut |_| Ok(())).await;
    Ok(opened.map_err(failed)?.0)
}

/// Opens the shards of one old core and deals what they hold.
async fn deal_core(
    source: &Directory,
    home: u32,
    old: &Catalog,
    new: &Catalog,
    logs: &BTreeMap<u32, Wal<Directory>>,
) -> Result<u64, Failure> {
    let mut specs = Vec::new();
    for (entry, shard) in old.shards().filter(|(_, shard)| shard.first().home == home) {
        specs.push(spec_of(entry, shard.id));
    }
    let config =
        EngineConfig { log_indexes: vec![home], ..EngineConfig::new(NodeId::default(), 1, home) };
    let shards: Vec<(ShardId, String)> =
        specs.iter().map(|spec| (spec.id, spec.config.name.clone())).collect();
    let opened =
        Engine::open(source.clone(), WallClock, config, Quiescence::new(1), specs, |_| {}).await;
    let (engine, _) = opened.map_err(failed)?;
    let mut copied = 0;
    for (shard, name) in shards {
        let entry = new.collection(&name).ok_or_else(|| failed(format!("no collection {name}")))?;
        copied += deal_shard(&engine, shard, entry, logs).await?;
    }
    Ok(copied)
}

/// One pass over the old shard for each log that takes a part of it.
async fn deal_shard(
    engine: &Engine<Directory, WallClock>,
    shard: ShardId,
    entry: &CollectionEntry,
    logs: &BTreeMap<u32, Wal<Directory>>,
) -> Result<u64, Failure> {
    let home_of: BTreeMap<ShardId, u32> =
        entry.shards.iter().map(|shard| (shard.id, shard.first().home)).collect();
    let routing = &entry.routing;
    let mut copied = 0;
    for (home, log) in logs {
        let route = |id: &ObjectId| {
            let target = routing.shard_of(id);
            (home_of.get(&target) == Some(home)).then_some(target)
        };
        copied += engine.copy_to_log(shard, log, route).await?;
    }
    Ok(copied)
}

fn spec_of(entry: &CollectionEntry, shard: ShardId) -> ShardSpec {
    ShardSpec {
        id: shard,
        collection: entry.id,
        config: Arc::clone(&entry.config),
        directory: format!("shards/{:010}", shard.0),
        seed: entry.seed,
    }
}
