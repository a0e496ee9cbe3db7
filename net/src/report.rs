//! What one core reports about itself.

use std::rc::Rc;

use heddle_runtime::Queue;
use heddle_runtime::stats::core_stats;
use heddle_types::Clock;

use crate::core::Core;
use crate::metrics::{
    CoreReport, GossipReport, QueueReport, RoutingReport, SearchReport, ServerReport, StartReport,
};
use crate::status;

/// Shards that are ready and told of all the same.
const STARTS_READY_MAX: usize = 64;

/// How far the shards of the start are: all that are not ready, and some that are.
fn starts_of(core: &Core) -> Vec<StartReport> {
    let starts = core.starts.borrow();
    let (ready, waiting): (Vec<_>, Vec<_>) =
        starts.values().copied().partition(|start| start.phase == "ready");
    waiting.into_iter().chain(ready.into_iter().take(STARTS_READY_MAX)).collect()
}

/// The counts of this core as they are now.
pub(crate) fn of_core(core: &Rc<Core>) -> CoreReport {
    let stats = core_stats();
    let queues = Queue::ALL.iter().zip(stats.queues).map(|(queue, stats)| QueueReport {
        name: queue.name(),
        busy_us: stats.runtime.as_micros() as u64,
        selected: stats.selected,
        requests: core.server.requests_in(*queue),
    });
    let mesh = core.link.stats();
    let metrics = &core.metrics;
    let hints = core.hints.report();
    CoreReport {
        core: core.index,
        role: if core.is_data() { "data" } else { "meta" },
        epoch: core.registry.epoch().0,
        busy_us: stats.busy.as_micros() as u64,
        awake_us: stats.awake.as_micros() as u64,
        polls: stats.polls,
        queues: queues.collect(),
        device_reads: stats.reads,
        device_read_bytes: stats.read_bytes,
        device_writes: stats.writes,
        device_write_bytes: stats.write_bytes,
        mesh_requests: mesh.requests_sent,
        mesh_pending: mesh.calls_pending,
        operations: metrics.operations(),
        server: ServerReport {
            connections: core.server.open_connections(),
            request_bytes: core.server.request_bytes(),
            requests: core.server.requests(),
            reply_bytes: core.server.reply_bytes(),
            accepted: metrics.connections_accepted.get(),
            refused: metrics.connections_refused.get(),
            timed_out: metrics.connections_timed_out.get(),
            bytes_received: metrics.bytes_received.get(),
            bytes_sent: metrics.bytes_sent.get(),
            refused_frames: metrics.refused_frames(),
        },
        peers: core.links.report(),
        search: SearchReport {
            queries: metrics.queries.get(),
            exact: metrics.queries_exact.get(),
            distance_evaluations: metrics.distance_evaluations.get(),
        },
        routing: RoutingReport {
            to_nodes: metrics.forwarded_to_nodes.get(),
            to_cores: metrics.forwarded_to_cores.get(),
            for_peers: metrics.executed_for_peers.get(),
            failed_over: metrics.replicas_failed_over.get(),
            repaired: metrics.replicas_repaired.get(),
            hedges: metrics.hedges.get(),
            hedges_won: metrics.hedges_won.get(),
            hints_wanted: metrics.hints_wanted.get(),
            hints_waiting: hints.waiting,
            hints_waiting_bytes: hints.waiting_bytes,
            hints_delivered: hints.delivered,
            hints_dropped: hints.dropped,
            writes_unsettled: core.tails.open() as u64,
        },
        repair: core.repair.report(core.clock.monotonic_ns()),
        slots_indexed: metrics.slots_indexed.get(),
        checkpoints: metrics.checkpoints.get(),
        checkpoint_failures: metrics.checkpoint_failures.get(),
        checkpoint_step_ns_max: metrics.checkpoint_step_ns_max.get(),
        tenants: status::tenants(core),
        starts: starts_of(core),
        engine: core.engine().ok().map(|engine| engine.status().into()),
        backup: None,
        gossip: core.gossip.get().map(GossipReport::of),
        cluster: None,
    }
}
