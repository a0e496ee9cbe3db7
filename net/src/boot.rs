//! The start of a node, as the meta core conducts it, and its orderly end.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;

use heddle_core::engine::{CLOSED_SUFFIX, OpenReport, closed_directory};
use heddle_core::shard::ShardSpec;
use heddle_meta::{Catalog, CatalogStore, Command, StoreError, TenantState};
use heddle_runtime::net::Listener;
use heddle_runtime::{GlommioDevice, Queue, SignalEvent, Signals, fatal, spawn};
use heddle_types::{ApiError, Clock, CoreIndex, Device, DeviceError, FatalReason, NodeId, ShardId};

use crate::backup::BACKUPS;
use crate::cluster::{self, Cluster};
use crate::core::Core;
use crate::identity::replace_file;
use crate::message::{CoreReply, CoreRequest, ListenOrder, OpenOrder, Publication, unexpected};
use crate::meta::{Meta, served_shards, shard_directory, spec_of, specs_by_home};
use crate::nodes::Nodes;
use crate::registry::CollectionRoute;
use crate::shared::{Phase, ReadyReport};
use crate::{disk, gossip, health, http, memory};

const LOGS: &str = "logs";
const SHARDS: &str = "shards";
/// The copies of the catalog.
const SLOTS: [&str; 2] = ["catalog.0", "catalog.1"];

/// Brings the node up: catalog, engines, views, and last the listeners.
///
/// Whatever fails here ends the process with its exit code.
pub(crate) async fn start(core: &Rc<Core>) {
    let data_dir = &core.node.config.data_dir;
    let device = GlommioDevice::new(data_dir)
        .unwrap_or_else(|error| fatal(FatalReason::DataDirectory, error));
    let opened = match CatalogStore::open(device.clone()).await {
        Ok(opened) => opened,
        Err(error @ StoreError::Version { .. }) => fatal(FatalReason::FormatVersion, error),
        Err(error @ (StoreError::Corrupt { .. } | StoreError::Invalid { .. })) => {
            fatal(FatalReason::Corruption, error)
        }
        Err(error) => fatal(FatalReason::DataDirectory, error),
    };
    if let Some(damage) = &opened.damage {
        tracing::warn!(%damage, "one copy of the catalog is damaged; the other is used");
    }
    // What a backup that nobody ended keeps from being removed.
    if let Err(error) = device.remove_tree(BACKUPS).await {
        tracing::warn!(%error, "files of an earlier backup are left");
    }
    let logs: Vec<u32> = numbers_in(&device, LOGS).await;
    let folders = Folders::of(&device).await;
    let shards: Vec<u64> = folders.all();
    if opened.catalog.is_none() && !(logs.is_empty() && shards.is_empty()) {
        let found = data_dir.join(if logs.is_empty() { SHARDS } else { LOGS });
        fatal(FatalReason::Corruption, format_args!("{} but no catalog", found.display()));
    }
    let mut store = opened.store;
    let catalog = match opened.catalog {
        Some(catalog) => catalog,
        // The catalog exists before the first log does: logs without one are then damage for sure.
        None => {
            let empty = Catalog::default();
            let saved = store.save(&empty).await;
            saved.unwrap_or_else(|error| fatal(FatalReason::CatalogWrite, error));
            empty
        }
    };
    if opened.damage.is_none() && SLOTS.iter().all(|slot| data_dir.join(slot).exists()) {
        remove_orphans(&device, &catalog, &shards).await;
    }
    let known: BTreeSet<u64> = catalog.shards().map(|(_, shard)| shard.id.0).collect();
    let is_left = opened.damage.is_some();
    let unknown = shards.iter().filter(|shard| is_left && !known.contains(shard));
    let unknown: BTreeSet<ShardId> = unknown.map(|shard| ShardId(*shard)).collect();
    folders.open_those_of_active(&device, &catalog, core.node.identity.node).await;
    let meta = Meta::new(core, catalog, store);
    meta.hold_unknown_folders(unknown);
    let handler = Rc::clone(&meta);
    core.link.serve(move |source, request| Rc::clone(&handler).handle(source, request));
    let started = bring_up(core, &meta, device, &logs, &folders).await;
    started.unwrap_or_else(|error| fatal(FatalReason::CoreLost, error));
}

async fn bring_up(
    core: &Rc<Core>,
    meta: &Rc<Meta>,
    device: GlommioDevice,
    logs: &[u32],
    folders: &Folders,
) -> Result<(), ApiError> {
    let own = core.node.identity.node;
    let moved = rehome(&meta.catalog(), own, core.data_cores);
    // Held in memory alone at first: the disk keeps the old order.
    meta.hold_moves(moved.clone());
    // Before the shards are in, so that whoever waits for them sees how far they are.
    let http_port = open_http(core);
    let unclosed = folders.unclosed(&meta.catalog(), own);
    open_engines(core, &meta.catalog(), logs, &unclosed).await?;
    let foreign_log = logs.iter().any(|log| *log as usize >= core.data_cores);
    if !moved.is_empty() || foreign_log {
        // The homes are written down only when no log of the old order is needed any more, and
        // nothing is accepted before: a crash in between starts from the old order again.
        tracing::info!(moved = moved.len(), "the number of data cores changed: checkpoint of all");
        settle_moves(core, meta, &moved).await?;
    }
    let catalog = meta.catalog();
    publish(core, Publication::Version(catalog.epoch())).await?;
    for entry in catalog.collections() {
        let route = Arc::new(CollectionRoute::of(entry, own));
        publish(core, Publication::Collection(catalog.epoch(), route)).await?;
    }
    if !unclosed.is_empty() {
        let closing = unclosed.into_iter().map(|(home, specs)| {
            (home, specs.into_iter().map(|spec| spec.id).collect::<Vec<ShardId>>())
        });
        if let Err(error) = meta.finish_closing(closing.collect()).await {
            tracing::warn!(%error, "shards of inactive tenants stay in memory");
        }
    }
    let backups = Rc::clone(meta);
    spawn(Queue::Control, async move { backups.backups.watch().await });
    meet_fixed_nodes(core).await?;
    enter_cluster(core, meta, device).await?;
    publish(core, Publication::Complete).await?;
    let report = open_listeners(core, http_port).await?;
    announce(core, report);
    Ok(())
}

/// Tells the cores of a fixed list of nodes, and lets them listen to these.
async fn meet_fixed_nodes(core: &Rc<Core>) -> Result<(), ApiError> {
    let config = &core.node.config;
    if config.fixed_nodes.is_empty() {
        return Ok(());
    }
    let nodes = Arc::new(Nodes::new(config.fixed_nodes.clone()));
    publish(core, Publication::Nodes(nodes)).await?;
    let order = |index| CoreRequest::ListenToPeers(config.peer_port_base + index as u16);
    core.call_all(0..core.data_cores, order).await.map(drop)
}

/// Becomes part of the cluster, if this node is to be part of one.
async fn enter_cluster(
    core: &Rc<Core>,
    meta: &Rc<Meta>,
    device: GlommioDevice,
) -> Result<(), ApiError> {
    let config = &core.node.config;
    if !config.is_clustered() {
        if let Some(name) = cluster::cluster_of(&config.data_dir) {
            let found = format!("{} belongs to cluster {name}", config.data_dir.display());
            let expected = "cluster_join or cluster_bootstrap_expect";
            fatal(FatalReason::Config, format_args!("{found}, expected {expected}"));
        }
        return Ok(());
    }
    gossip::start(core);
    spawn(Queue::Control, health::watch(Rc::clone(core)));
    let cluster = Cluster::start(core, meta, device).await;
    for index in 0..core.data_cores {
        let port = cluster::peer_port(core, index);
        match core.call(index, CoreRequest::ListenToPeers(port)).await? {
            CoreReply::Done => {}
            other => return Err(unexpected(&other)),
        }
    }
    cluster.joined().await;
    Ok(())
}

/// The moves that give every shard of a node a home among `data_cores` cores.
fn rehome(catalog: &Catalog, own: NodeId, data_cores: usize) -> Vec<Command> {
    let homes = catalog.shards().filter_map(|(_, shard)| Some((shard.id, shard.home_on(own)?)));
    let foreign = homes.filter(|(_, home)| *home as usize >= data_cores);
    let moves = foreign.map(|(shard, home)| {
        let home = heir_of(home, data_cores) as u32;
        Command::MoveHome { shard, node: own, home }
    });
    moves.collect()
}

/// The core that takes over what a core of another number had: its shards and its log. Both go to
/// the same one, because the records of a shard are in the log of its home, and a log is removed
/// once the shards of the core that read it have images of their own.
fn heir_of(core: u32, data_cores: usize) -> CoreIndex {
    core as usize % data_cores
}

/// Writes images of everything, then the new homes.
///
/// When that cannot be done (no space), the node serves all the same: what is stored can be read.
/// The shards that moved take no writes then: the log of their new home is not the one in which
/// another number of cores would look for them.
async fn settle_moves(core: &Rc<Core>, meta: &Rc<Meta>, moved: &[Command]) -> Result<(), ApiError> {
    let written = core.call_all(0..core.data_cores, |_| CoreRequest::CheckpointAll).await;
    let settled = match written {
        Ok(_) => meta.settle_moves().await,
        Err(error) => Err(error),
    };
    let Err(error) = settled else { return Ok(()) };
    tracing::error!(%error, "moved shards are read-only: make room, then start the node again");
    let shard_of = |command: &Command| match command {
        Command::MoveHome { shard, .. } => Some(*shard),
        _ => None,
    };
    let shards = moved.iter().filter_map(shard_of).collect();
    publish(core, Publication::ReadOnly(shards)).await
}

async fn publish(core: &Core, publication: Publication) -> Result<(), ApiError> {
    let request = |_| CoreRequest::Publish(publication.clone());
    core.call_all(0..core.data_cores, request).await.map(drop)
}

/// The entries of a folder of the data directory.
async fn names_in(device: &GlommioDevice, folder: &str) -> Vec<String> {
    match device.list(folder).await {
        Ok(names) => names,
        Err(DeviceError::NotFound { .. }) => Vec::new(),
        Err(error) => fatal(FatalReason::DataDirectory, error),
    }
}

/// The entries of a folder of the data directory whose names are numbers.
async fn numbers_in<N: FromStr + Ord>(device: &GlommioDevice, folder: &str) -> Vec<N> {
    let names = names_in(device, folder).await;
    let mut numbers: Vec<N> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Removes the folders of shards that the catalog does not know: a drop, or a create that was taken
/// back, did not come this far. The caller has seen that the catalog is whole: a folder is made
/// only after the catalog names its shard.
async fn remove_orphans(device: &GlommioDevice, catalog: &Catalog, shards: &[u64]) {
    let known: BTreeSet<u64> = catalog.shards().map(|(_, shard)| shard.id.0).collect();
    for shard in shards.iter().filter(|shard| !known.contains(shard)) {
        let directory = shard_directory(ShardId(*shard));
        let removed = async {
            device.remove_tree(&closed_directory(&directory)).await?;
            device.remove_tree(&directory).await
        };
        match removed.await {
            Ok(()) => tracing::info!(directory, "files of a dropped shard removed"),
            Err(error) => tracing::warn!(directory, %error, "files of a dropped shard are left"),
        }
    }
}

/// The folders of shards that there are, by how they are named.
struct Folders {
    open: BTreeSet<u64>,
    closed: BTreeSet<u64>,
}

impl Folders {
    async fn of(device: &GlommioDevice) -> Self {
        let names = names_in(device, SHARDS).await;
        let numbers = |suffix: &str| {
            let bare = names.iter().filter_map(|name| name.strip_suffix(suffix));
            bare.filter_map(|name| name.parse().ok()).collect()
        };
        Self { open: numbers(""), closed: numbers(CLOSED_SUFFIX) }
    }

    fn all(&self) -> Vec<u64> {
        self.open.union(&self.closed).copied().collect()
    }

    /// Shards of active tenants whose opening a crash cut off get the name of open ones. Whatever
    /// fails here ends the process: such a shard would be opened as an empty one.
    async fn open_those_of_active(&self, device: &GlommioDevice, catalog: &Catalog, own: NodeId) {
        if self.closed.is_empty() {
            return;
        }
        let served = catalog.collections().flat_map(served_shards);
        let served = served.filter(|shard| shard.home_on(own).is_some());
        let renamed = async {
            for shard in served.filter(|shard| self.closed.contains(&shard.id.0)) {
                let directory = shard_directory(shard.id);
                device.rename(&closed_directory(&directory), &directory).await?;
            }
            device.sync_dir(SHARDS).await
        };
        if let Err(error) = renamed.await {
            fatal(FatalReason::DataDirectory, error);
        }
    }

    /// Shards of inactive tenants that were not closed to the end: their log may be needed.
    fn unclosed(&self, catalog: &Catalog, own: NodeId) -> BTreeMap<CoreIndex, Vec<ShardSpec>> {
        let mut homes = BTreeMap::<CoreIndex, Vec<ShardSpec>>::new();
        for entry in catalog.collections() {
            let tenants = entry.tenants.iter();
            let resting = tenants.filter(|(_, tenant)| tenant.state == TenantState::Inactive);
            for shard in resting.flat_map(|(_, tenant)| &tenant.shards) {
                let Some(home) = shard.home_on(own) else { continue };
                if self.open.contains(&shard.id.0) {
                    homes.entry(home as usize).or_default().push(spec_of(entry, shard.id));
                }
            }
        }
        homes
    }
}

async fn open_engines(
    core: &Rc<Core>,
    catalog: &Catalog,
    logs: &[u32],
    unclosed: &BTreeMap<CoreIndex, Vec<ShardSpec>>,
) -> Result<(), ApiError> {
    let mut specs = specs_by_home(catalog.collections(), core.node.identity.node);
    for (home, resting) in unclosed {
        specs.entry(*home).or_default().extend(resting.iter().cloned());
    }
    let replies = core
        .call_all(0..core.data_cores, |home| {
            let shards: Vec<ShardSpec> = specs.remove(&home).unwrap_or_default();
            let log_indexes = logs_of(home, core.data_cores, logs);
            CoreRequest::Open(Box::new(OpenOrder { shards, log_indexes }))
        })
        .await?;
    for (home, reply) in replies.into_iter().enumerate() {
        let CoreReply::Opened(report, views) = reply else { return Err(unexpected(&reply)) };
        tracing::info!(
            core = home,
            objects = report.objects,
            records = report.records_applied,
            "core recovered"
        );
        if let Some(place) = &report.torn_at {
            tracing::info!(
                core = home,
                ?place,
                "the log ended in a torn write, never acknowledged"
            );
        }
        if !report.shards_lost.is_empty() {
            let lost = Publication::Lost(report.shards_lost.clone());
            publish(core, lost).await?;
        }
        for file in &report.foreign_files {
            tracing::warn!(file, "unknown file in the data directory is ignored");
        }
        tell_of_damage(home, &report);
        if !report.quarantined.is_empty() {
            publish(core, Publication::Quarantined(report.quarantined.clone())).await?;
        }
        let request = |_| CoreRequest::Publish(Publication::Views(views.clone()));
        core.call_all(0..core.data_cores, request).await?;
    }
    Ok(())
}

/// Says what a damaged log cost, once for each damage and each shard.
fn tell_of_damage(home: CoreIndex, report: &OpenReport) {
    for file in &report.flawed_segments {
        tracing::warn!(
            core = home,
            file,
            "the header of a log segment is damaged, nothing else is"
        );
    }
    for damage in &report.damage {
        let (error, records) = (damage.error(), damage.lost_records());
        tracing::error!(core = home, %error, records, "the log lost at most so many records");
    }
    for (shard, reason) in &report.quarantined {
        tracing::error!(core = home, %shard, reason, "shard quarantined: it is not served");
    }
    for (shard, reason) in &report.accepted_losses {
        tracing::error!(core = home, %shard, reason, "data loss accepted: shard served without it");
    }
}

/// The logs that a home core recovers, its own first.
fn logs_of(home: CoreIndex, data_cores: usize, logs: &[u32]) -> Vec<u32> {
    let own = home as u32;
    let others = logs.iter().copied();
    let others = others.filter(|log| *log != own && heir_of(*log, data_cores) == home);
    std::iter::once(own).chain(others).collect()
}

/// Opens the HTTP port: health and metrics. What it is.
fn open_http(core: &Rc<Core>) -> u16 {
    let address = (core.node.config.listen, core.node.config.http_port).into();
    let listener = Listener::bind(address)
        .unwrap_or_else(|error| fatal(FatalReason::Listen, format_args!("{address}: {error}")));
    let port = listener.local_address().port();
    tracing::info!(http_port = port, "health and progress of the start are answered");
    spawn(Queue::Control, http::accept(Rc::clone(core), listener));
    port
}

async fn open_listeners(core: &Rc<Core>, http_port: u16) -> Result<ReadyReport, ApiError> {
    let config = &core.node.config;
    let mut native_port = config.native_port;
    let mut core_ports = Vec::new();
    for index in 0..core.data_cores {
        let core_port = match config.core_port_base {
            0 => 0,
            base => base + index as u16,
        };
        let order = ListenOrder { native_port, core_port };
        match core.call(index, CoreRequest::Listen(order)).await? {
            CoreReply::Listening { native_port: shared, core_port } => {
                native_port = shared;
                core_ports.push(core_port);
            }
            other => return Err(unexpected(&other)),
        }
    }
    spawn(Queue::Control, memory::watch(Rc::clone(core)));
    spawn(Queue::Control, disk::watch(Rc::clone(core)));
    Ok(ReadyReport {
        pid: std::process::id(),
        node: core.node.identity.node,
        listen: config.listen,
        native_port,
        core_ports,
        http_port,
        start_ms: core.clock.monotonic_ns().saturating_sub(core.node.started_ns) / 1_000_000,
    })
}

/// Says that the node serves: to its cores, to the log, and to whoever waits for the ready file.
fn announce(core: &Rc<Core>, report: ReadyReport) {
    core.node.set_ready(report.clone());
    core.node.enter(Phase::Serving);
    tracing::info!(
        node = %report.node,
        native_port = report.native_port,
        core_ports = ?report.core_ports,
        http_port = report.http_port,
        start_ms = report.start_ms,
        "ready"
    );
    if let Some(path) = &core.node.config.ready_file {
        let text = serde_json::to_vec_pretty(&report).expect("a report has text keys only");
        let temporary = path.with_extension("tmp");
        if let Err(error) = replace_file(&temporary, path, &text) {
            tracing::warn!(path = %path.display(), %error, "the ready file was not written");
        }
    }
    core.node.send_ready(report);
}

/// Waits until the operator wants the node to stop.
pub(crate) async fn until_stopped(signals: &Signals) {
    loop {
        match signals.next().await {
            Ok(SignalEvent::Terminate) => return,
            Ok(SignalEvent::Reload) => tracing::info!("settings are read at the start only"),
            Err(error) => {
                tracing::error!(%error, "signals cannot be read: stopping");
                return;
            }
        }
    }
}

/// Ends a node that is told to stop before it serves: nothing was accepted, nothing is lost.
pub(crate) fn abandon() -> ! {
    tracing::info!("stopped while starting");
    std::process::exit(0)
}

/// Drains, checkpoints and syncs every core.
pub(crate) async fn stop(core: &Rc<Core>) {
    tracing::info!("draining");
    core.node.enter(Phase::Draining);
    if let Some(gossip) = core.gossip.get() {
        gossip.leave();
    }
    core.links.drain();
    let drained = core.call_all(0..core.data_cores, |_| CoreRequest::Drain).await;
    let written = core.call_all(0..core.data_cores, |_| CoreRequest::CheckpointAll).await;
    let sealed = core.call_all(0..core.data_cores, |_| CoreRequest::Seal).await;
    if let Some(cluster) = core.cluster.get() {
        cluster.stop().await;
    }
    // Without the checkpoint nothing is lost, the next start replays the log.
    for error in [drained.err(), written.err(), sealed.err()].into_iter().flatten() {
        tracing::warn!(%error, "the stop is not complete");
    }
    tracing::info!("stopped");
}

#[cfg(test)]
mod tests {
    use heddle_meta::{CoreLoad, place_shards};
    use heddle_types::schema::ShardingConfig;
    use heddle_types::{CollectionConfig, CollectionId, VectorConfig};

    use super::*;

    #[test]
    fn every_log_has_exactly_one_reader() {
        let logs = [0, 1, 2, 3, 4];
        for cores in 1..=6 {
            let mut read: Vec<u32> =
                (0..cores).flat_map(|home| logs_of(home, cores, &logs)).collect();
            read.sort_unstable();
            let expected: Vec<u32> = (0..5.max(cores as u32)).collect();
            assert_eq!(read, expected, "{cores} cores");
        }
        assert_eq!(logs_of(1, 2, &logs), [1, 3]);
        assert_eq!(logs_of(1, 2, &[]), [1]);
    }

    #[test]
    fn the_log_of_a_shard_is_read_by_the_core_that_is_its_home() {
        for before in 1..=6 {
            let logs: Vec<u32> = (0..before).collect();
            let catalog = catalog_with_shards_on(before);
            for cores in 1..=6 {
                let mut homes: Vec<CoreIndex> = (0..before as usize).collect();
                for command in rehome(&catalog, NodeId::default(), cores) {
                    let Command::MoveHome { shard, home, .. } = command else {
                        panic!("{command:?} moves nothing");
                    };
                    let old = catalog.shards().find(|(_, entry)| entry.id == shard).unwrap();
                    homes[old.1.first().home as usize] = home as usize;
                }
                for (log, home) in (0..).zip(homes) {
                    assert!(home < cores);
                    let read = logs_of(home, cores, &logs);
                    assert!(read.contains(&log), "log {log} of {before} cores, now {cores}");
                }
            }
        }
    }

    /// A catalog of one collection with a shard at home on each core.
    fn catalog_with_shards_on(cores: u32) -> Catalog {
        let loads: Vec<CoreLoad> = (0..cores)
            .map(|core| CoreLoad { node: NodeId::default(), core, shards: 0, objects: 0 })
            .collect();
        let config = CollectionConfig {
            name: "Docs".to_owned(),
            vectors: vec![VectorConfig::default()],
            sharding: ShardingConfig { count: cores, ..Default::default() },
            ..Default::default()
        };
        let mut catalog = Catalog::default();
        let placements = place_shards(cores as usize, &loads);
        let id = CollectionId::default();
        catalog.apply(&Command::CreateCollection { config, id, seed: 1, placements }).unwrap();
        let mut homes: Vec<u32> = catalog.shards().map(|(_, shard)| shard.first().home).collect();
        homes.sort_unstable();
        assert_eq!(homes, (0..cores).collect::<Vec<u32>>());
        catalog
    }
}
