//! The metrics page: Prometheus text format 0.0.4.

use std::fmt::{Display, Write};

use heddle_core::engine::SpaceLevel;

use super::report::{BUCKETS_US, CoreReport, OperationReport};
use crate::status::NodeReport;

/// A page being written. Writing to memory cannot fail, so results are dropped.
pub(super) struct Page(String);

impl Page {
    /// Begins a metric; its lines follow.
    pub(super) fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub(super) fn line(
        &mut self,
        name: &str,
        labels: &[(&str, &dyn Display)],
        value: impl Display,
    ) {
        let _ = write!(self.0, "{name}");
        for (index, (label, content)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"");
            let _ = write!(Escaped(&mut self.0), "{content}");
            self.0.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    /// One value a core.
    pub(super) fn each_core<V: Display>(
        &mut self,
        report: &NodeReport,
        (name, kind, help): (&str, &str, &str),
        value: impl Fn(&CoreReport) -> V,
    ) {
        self.metric(name, kind, help);
        for core in &report.cores {
            self.line(name, &[("core", &core.core)], value(core));
        }
    }
}

/// Writes the content of a label: a name may hold a quote, a backslash or a line break.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for letter in text.chars() {
            match letter {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Renders the page.
pub(crate) fn render(report: &NodeReport) -> String {
    let mut page = Page(String::with_capacity(64 << 10));
    node(&mut page, report);
    requests(&mut page, report);
    connections(&mut page, report);
    scheduling(&mut page, report);
    index(&mut page, report);
    super::peers::render(&mut page, report);
    super::storage::render(&mut page, report);
    super::cluster::render(&mut page, report);
    page.0
}

fn node(page: &mut Page, report: &NodeReport) {
    page.metric("heddle_info", "gauge", "The node; always 1.");
    let labels: [(&str, &dyn Display); 3] =
        [("version", &report.version), ("node", &report.node), ("name", &report.name)];
    page.line("heddle_info", &labels, 1);
    let levels = SpaceLevel::ALL.iter();
    let level = levels.take_while(|level| level.name() != report.disk.level).count();
    let single: [(&str, &str, &str, &dyn Display); 9] = [
        ("heddle_uptime_seconds", "gauge", "Time since the start.", &report.uptime_s),
        ("heddle_boot_count", "counter", "Starts of this node so far.", &report.boot),
        ("heddle_catalog_epoch", "gauge", "Version of the catalog.", &report.epoch),
        (
            "heddle_memory_resident_bytes",
            "gauge",
            "Memory of the process.",
            &report.memory.resident_bytes,
        ),
        (
            "heddle_memory_budget_bytes",
            "gauge",
            "Memory the node may use.",
            &report.memory.budget_bytes,
        ),
        ("heddle_disk_total_bytes", "gauge", "Size of the file system.", &report.disk.total_bytes),
        ("heddle_disk_free_bytes", "gauge", "Free space for data.", &report.disk.free_bytes),
        ("heddle_disk_level", "gauge", "0 plenty, 1 saving, 2 no inserts, 3 deletes only.", &level),
        (
            "heddle_disk_reserved_bytes",
            "gauge",
            "Space kept for deletions.",
            &report.disk.reserved_bytes,
        ),
    ];
    for (name, kind, help, value) in single {
        page.metric(name, kind, help);
        page.line(name, &[], value);
    }
}

fn requests(page: &mut Page, report: &NodeReport) {
    const TENANTS: &str = "heddle_tenants";
    page.metric(TENANTS, "gauge", "Tenants of a collection in all of the cluster, by state.");
    for tenants in &report.tenants {
        for (state, count) in [("active", tenants.active), ("inactive", tenants.inactive)] {
            let labels: [(&str, &dyn Display); 2] =
                [("collection", &tenants.collection), ("state", &state)];
            page.line(TENANTS, &labels, count);
        }
    }
    const LATENCY: &str = "heddle_request_duration_seconds";
    page.metric(LATENCY, "histogram", "From the last byte of a request to its encoded reply.");
    for core in &report.cores {
        for operation in &core.operations {
            latency(page, LATENCY, core.core, operation);
        }
    }
    const ERRORS: &str = "heddle_request_errors_total";
    page.metric(ERRORS, "counter", "Requests answered with an error, by code.");
    for core in &report.cores {
        for operation in &core.operations {
            for (code, count) in &operation.errors {
                let labels: [(&str, &dyn Display); 3] =
                    [("core", &core.core), ("operation", &operation.kind.name()), ("code", code)];
                page.line(ERRORS, &labels, count);
            }
        }
    }
    const REFUSED: &str = "heddle_frames_refused_total";
    page.metric(REFUSED, "counter", "Frames that never became a request, by error code.");
    for core in &report.cores {
        for (code, count) in &core.server.refused_frames {
            page.line(REFUSED, &[("core", &core.core), ("code", code)], count);
        }
    }
}

fn latency(page: &mut Page, name: &str, core: usize, operation: &OperationReport) {
    let kind = operation.kind.name();
    let bucket = format!("{name}_bucket");
    for (bound, count) in BUCKETS_US.iter().zip(operation.buckets) {
        let bound = seconds(*bound);
        let labels: [(&str, &dyn Display); 3] =
            [("core", &core), ("operation", &kind), ("le", &bound)];
        page.line(&bucket, &labels, count);
    }
    let labels: [(&str, &dyn Display); 3] =
        [("core", &core), ("operation", &kind), ("le", &"+Inf")];
    page.line(&bucket, &labels, operation.count);
    let labels: [(&str, &dyn Display); 2] = [("core", &core), ("operation", &kind)];
    page.line(&format!("{name}_sum"), &labels, seconds(operation.sum_us));
    page.line(&format!("{name}_count"), &labels, operation.count);
}

fn connections(page: &mut Page, report: &NodeReport) {
    let connections = ("heddle_connections", "gauge", "Open client connections.");
    page.each_core(report, connections, |core| core.server.connections);
    let accepted = ("heddle_connections_accepted_total", "counter", "Connections accepted.");
    page.each_core(report, accepted, |core| core.server.accepted);
    let refused =
        ("heddle_connections_refused_total", "counter", "Connections above the limit of the node.");
    page.each_core(report, refused, |core| core.server.refused);
    let cut =
        ("heddle_connections_timed_out_total", "counter", "Connections cut as too slow or idle.");
    page.each_core(report, cut, |core| core.server.timed_out);
    let received = ("heddle_received_bytes_total", "counter", "Bytes read from clients.");
    page.each_core(report, received, |core| core.server.bytes_received);
    let sent = ("heddle_sent_bytes_total", "counter", "Bytes written to clients.");
    page.each_core(report, sent, |core| core.server.bytes_sent);
    let requests = ("heddle_requests_in_flight", "gauge", "Requests being worked on.");
    page.each_core(report, requests, |core| core.server.requests);
    let bytes = ("heddle_request_bytes_in_flight", "gauge", "Bytes of those and of arriving ones.");
    page.each_core(report, bytes, |core| core.server.request_bytes);
    let replies =
        ("heddle_reply_bytes_in_flight", "gauge", "Bytes of replies gathered or not sent yet.");
    page.each_core(report, replies, |core| core.server.reply_bytes);
}

fn scheduling(page: &mut Page, report: &NodeReport) {
    let busy = ("heddle_core_busy_seconds_total", "counter", "Time spent in tasks.");
    page.each_core(report, busy, |core| seconds(core.busy_us));
    let awake = (
        "heddle_core_awake_seconds_total",
        "counter",
        "Time spent in tasks and in the kernel ring.",
    );
    page.each_core(report, awake, |core| seconds(core.awake_us));
    let polls = ("heddle_task_polls_total", "counter", "Tasks polled.");
    page.each_core(report, polls, |core| core.polls);
    const QUEUE: &str = "heddle_queue_busy_seconds_total";
    page.metric(QUEUE, "counter", "Time spent in the tasks of each queue.");
    for core in &report.cores {
        for queue in &core.queues {
            let labels: [(&str, &dyn Display); 2] = [("core", &core.core), ("queue", &queue.name)];
            page.line(QUEUE, &labels, seconds(queue.busy_us));
        }
    }
    const REQUESTS: &str = "heddle_queue_requests_in_flight";
    page.metric(REQUESTS, "gauge", "Requests being worked on, by the queue they run in.");
    for core in &report.cores {
        for queue in &core.queues {
            let labels: [(&str, &dyn Display); 2] = [("core", &core.core), ("queue", &queue.name)];
            page.line(REQUESTS, &labels, queue.requests);
        }
    }
    let sent = ("heddle_mesh_requests_total", "counter", "Requests sent to other cores.");
    page.each_core(report, sent, |core| core.mesh_requests);
    let pending = ("heddle_mesh_requests_pending", "gauge", "Those not answered yet.");
    page.each_core(report, pending, |core| core.mesh_pending);
}

fn replicas(page: &mut Page, report: &NodeReport) {
    let failed_over = (
        "heddle_replicas_failed_over_total",
        "counter",
        "Shards that were read from another replica, because the first one failed.",
    );
    page.each_core(report, failed_over, |core| core.routing.failed_over);
    let repaired = (
        "heddle_replicas_repaired_total",
        "counter",
        "Objects that a read brought up to date in a replica before it was answered.",
    );
    page.each_core(report, repaired, |core| core.routing.repaired);
    let hedges = (
        "heddle_hedges_total",
        "counter",
        "Requests that were sent to a second replica, because the first one took long.",
    );
    page.each_core(report, hedges, |core| core.routing.hedges);
    let won =
        ("heddle_hedges_won_total", "counter", "Those that the second replica answered first.");
    page.each_core(report, won, |core| core.routing.hedges_won);
    let hints = ("heddle_hints_wanted_total", "counter", "Writes that some replica did not take.");
    page.each_core(report, hints, |core| core.routing.hints_wanted);
    let waiting = ("heddle_hints_waiting", "gauge", "Writes on disk that wait for a replica.");
    page.each_core(report, waiting, |core| core.routing.hints_waiting);
    let bytes = ("heddle_hints_waiting_bytes", "gauge", "Bytes of those on disk.");
    page.each_core(report, bytes, |core| core.routing.hints_waiting_bytes);
    let delivered = ("heddle_hints_delivered_total", "counter", "Hints that a replica has now.");
    page.each_core(report, delivered, |core| core.routing.hints_delivered);
    let dropped = ("heddle_hints_dropped_total", "counter", "Hints given up, for comparison.");
    page.each_core(report, dropped, |core| core.routing.hints_dropped);
    let unsettled = (
        "heddle_writes_unsettled",
        "gauge",
        "Writes that are not settled at all of their replicas.",
    );
    page.each_core(report, unsettled, |core| core.routing.writes_unsettled);
}

fn repair(page: &mut Page, report: &NodeReport) {
    let sessions =
        ("heddle_repair_sessions_total", "counter", "Comparisons of the replicas of a shard.");
    page.each_core(report, sessions, |core| core.repair.sessions);
    let whole = (
        "heddle_repair_sessions_whole_total",
        "counter",
        "Comparisons after which all replicas of the shard were the same.",
    );
    page.each_core(report, whole, |core| core.repair.whole);
    let compared =
        ("heddle_repair_objects_compared_total", "counter", "Objects compared one by one.");
    page.each_core(report, compared, |core| core.repair.compared);
    let copied = (
        "heddle_repair_objects_copied_total",
        "counter",
        "Objects sent to replicas that lacked them.",
    );
    page.each_core(report, copied, |core| core.repair.copied);
    let buried = (
        "heddle_repair_deletions_copied_total",
        "counter",
        "Deletions sent to replicas that lacked them.",
    );
    page.each_core(report, buried, |core| core.repair.buried);
    let refused =
        ("heddle_repair_refused_total", "counter", "Versions that a replica did not take.");
    page.each_core(report, refused, |core| core.repair.refused);
    let bytes = ("heddle_repair_bytes_total", "counter", "Bytes of objects moved for repair.");
    page.each_core(report, bytes, |core| core.repair.bytes);
    let debt = (
        "heddle_repair_leaves_differing",
        "gauge",
        "Leaves of hash trees that were not the same at the last comparison.",
    );
    page.each_core(report, debt, |core| core.repair.leaves_differing);
    let lag = (
        "heddle_repair_lag_seconds",
        "gauge",
        "Time since the replicas of the worst shard were last seen to be the same.",
    );
    page.each_core(report, lag, |core| seconds(core.repair.lag_us));
}

fn index(page: &mut Page, report: &NodeReport) {
    repair(page, report);
    let queries = ("heddle_queries_total", "counter", "Query vectors searched.");
    page.each_core(report, queries, |core| core.search.queries);
    let exact = ("heddle_queries_exact_total", "counter", "Shard searches that scanned every row.");
    page.each_core(report, exact, |core| core.search.exact);
    let nodes = (
        "heddle_requests_to_nodes_total",
        "counter",
        "Requests sent to other nodes about their shards.",
    );
    page.each_core(report, nodes, |core| core.routing.to_nodes);
    let cores = (
        "heddle_requests_to_cores_total",
        "counter",
        "Requests sent to other cores of this node about their shards.",
    );
    page.each_core(report, cores, |core| core.routing.to_cores);
    let peers =
        ("heddle_requests_for_peers_total", "counter", "Requests answered for other nodes.");
    page.each_core(report, peers, |core| core.routing.for_peers);
    replicas(page, report);
    let distances =
        ("heddle_distance_evaluations_total", "counter", "Distances computed by searches.");
    page.each_core(report, distances, |core| core.search.distance_evaluations);
    let linked = ("heddle_vectors_linked_total", "counter", "Vectors linked into graphs.");
    page.each_core(report, linked, |core| core.slots_indexed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page(String::new());
        page.line("a", &[("b", &"plain"), ("c", &"q\"b\\l\nend")], 1);
        assert_eq!(page.0, "a{b=\"plain\",c=\"q\\\"b\\\\l\\nend\"} 1\n");
    }
}
