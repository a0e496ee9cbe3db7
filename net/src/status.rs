//! What the node is doing, gathered from all of its cores.

use std::rc::Rc;
use std::sync::Arc;

use heddle_types::{ApiError, Clock};
use heddle_wire::message::{NodeStatusReply, NodeStatusRequest};
use heddle_wire::{Frame, access};
use serde::Serialize;

use crate::cluster::ClusterReport;
use crate::core::Core;
use crate::disk::{Space, reserved_bytes};
use crate::dispatch;
use crate::memory;
use crate::message::{CoreRequest, expect_reply};
use crate::metrics::{BackupReport, CoreReport, GossipReport};
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

/// The node and each of its cores at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct NodeReport {
    pub(crate) version: &'static str,
    pub(crate) node: heddle_types::NodeId,
    pub(crate) name: String,
    pub(crate) boot: u32,
    pub(crate) phase: &'static str,
    pub(crate) uptime_s: f64,
    pub(crate) time_us: u64,
    pub(crate) epoch: u64,
    pub(crate) data_cores: usize,
    pub(crate) memory: MemoryReport,
    pub(crate) disk: DiskReport,
    pub(crate) connections: usize,
    /// A backup whose files wait, if there is one.
    pub(crate) backup: Option<BackupReport>,
    /// Gossip with the other nodes, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gossip: Option<GossipReport>,
    /// The cluster as this node sees it, on a node that is part of one.
    pub(crate) cluster: Option<ClusterReport>,
    /// The tenants of each collection that has any; in all of the cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tenants: Vec<TenantsReport>,
    pub(crate) cores: Vec<CoreReport>,
}

/// The tenants of a collection.
#[derive(Debug, Serialize)]
pub(crate) struct TenantsReport {
    pub(crate) collection: String,
    pub(crate) active: u64,
    pub(crate) inactive: u64,
}

/// Memory of the process.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryReport {
    pub(crate) resident_bytes: u64,
    pub(crate) budget_bytes: u64,
    /// What the shards of all cores take of it; the rest is buffers, caches and the program.
    pub(crate) shards_bytes: u64,
}

/// The file system of the data directory.
#[derive(Debug, Serialize)]
pub(crate) struct DiskReport {
    pub(crate) data_dir: String,
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
    /// What is still taken: `plenty`, `saving`, `no_inserts` or `deletes_only`.
    pub(crate) level: &'static str,
    /// Bytes that are kept for deletions.
    pub(crate) reserved_bytes: u64,
}

/// Asks every core what it did.
pub(crate) async fn collect(core: &Rc<Core>) -> Result<NodeReport, ApiError> {
    let replies = core.call_all(0..core.data_cores + 1, |_| CoreRequest::Report).await?;
    let mut cores = Vec::with_capacity(replies.len());
    for reply in replies {
        cores.push(*expect_reply!(reply, Report)?);
    }
    let backup = cores.iter_mut().find_map(|core| core.backup.take());
    let gossip = cores.iter_mut().find_map(|core| core.gossip.take());
    let cluster = cores.iter_mut().find_map(|core| core.cluster.take());
    let tenants = cores.iter_mut().flat_map(|core| std::mem::take(&mut core.tenants)).collect();
    let engines = cores.iter().filter_map(|core| core.engine.as_ref());
    let shards_bytes = engines.map(|engine| engine.memory_bytes).sum();
    let node = &core.node;
    let uptime_ns = core.clock.monotonic_ns().saturating_sub(node.started_ns);
    Ok(NodeReport {
        version: env!("CARGO_PKG_VERSION"),
        node: node.identity.node,
        name: node.config.name.clone(),
        boot: node.identity.boot,
        phase: core.phase().name(),
        uptime_s: uptime_ns as f64 / 1e9,
        time_us: core.clock.unix_us(),
        epoch: cores.iter().map(|core| core.epoch).max().unwrap_or(0),
        data_cores: core.data_cores,
        memory: MemoryReport {
            resident_bytes: memory::resident_bytes(),
            budget_bytes: node.memory_bytes,
            shards_bytes,
        },
        disk: disk(core),
        connections: cores.iter().map(|core| core.server.connections).sum(),
        backup,
        gossip,
        cluster,
        tenants,
        cores,
    })
}

/// The tenants as the first core knows them: all data cores know the same.
pub(crate) fn tenants(core: &Core) -> Vec<TenantsReport> {
    if core.index > 0 {
        return Vec::new();
    }
    let routes = core.registry.routes();
    let report = |route: &Arc<CollectionRoute>| {
        let tenants = route.tenants.as_ref()?;
        let active = dispatch::active_tenants(tenants);
        let (collection, inactive) = (route.config.name.clone(), tenants.len() as u64 - active);
        Some(TenantsReport { collection, active, inactive })
    };
    routes.iter().filter_map(report).collect()
}

/// A line for each shard that is not served: how far its start is, or what is wrong with it.
pub(crate) fn waiting(report: &NodeReport) -> String {
    let starts = report.cores.iter().flat_map(|core| &core.starts);
    let starting = starts.filter(|start| start.phase != "ready").map(|start| {
        format!(
            "shard {}: {}, {} of {} image bytes read, {} records replayed\n",
            start.shard,
            start.phase,
            start.image_bytes_read,
            start.image_bytes,
            start.records_replayed
        )
    });
    let engines = || report.cores.iter().filter_map(|core| core.engine.as_ref());
    let absent = engines().flat_map(|engine| &engine.shards).filter_map(|shard| {
        let problem = shard.problem.as_ref()?;
        Some(format!("shard {}: {}, {problem}\n", shard.id, shard.state))
    });
    let quarantined = engines().flat_map(|engine| &engine.quarantined);
    let quarantined =
        quarantined.map(|shard| format!("shard {}: quarantined, {}\n", shard.shard, shard.reason));
    starting.chain(absent).chain(quarantined).collect()
}

fn disk(core: &Core) -> DiskReport {
    let config = &core.node.config;
    let Space { total_bytes, free_bytes, .. } = Space::of(&config.data_dir);
    DiskReport {
        data_dir: config.data_dir.display().to_string(),
        total_bytes,
        free_bytes,
        level: core.node.space().name(),
        reserved_bytes: reserved_bytes(config),
    }
}

/// Answers a status request.
pub(crate) async fn answer(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    access::<NodeStatusRequest>(&request.body)?;
    let report = collect(core).await?;
    let json = serde_json::to_string(&report)
        .map_err(|error| ApiError::internal(format!("status: {error}")))?;
    dispatch::reply(request, &NodeStatusReply { json })
}
