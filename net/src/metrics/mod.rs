//! What a core counts about itself, and how the counts leave the node.
//!
//! Every core counts alone; a scrape asks each core for a [`CoreReport`] over the mesh. Nothing is
//! shared, so counting costs an addition.

mod cluster;
mod fold;
mod peers;
mod prometheus;
mod report;
mod storage;

use std::cell::{Cell, RefCell};

use hdrhistogram::Histogram;
use heddle_types::ErrorCode;
use heddle_wire::MessageType;

pub(crate) use prometheus::render;
pub(crate) use report::{
    BUCKETS_US, BackupReport, CoreReport, GossipReport, OperationReport, QueueReport, RepairReport,
    RoutingReport, SearchReport, ServerReport, StartReport,
};

/// Longest latency that is told apart (one minute).
const LATENCY_US_MAX: u64 = 60_000_000;
/// Two decimal digits: 1 % of the value, 20 KiB per histogram.
const LATENCY_DIGITS: u8 = 2;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    /// For a highest value: keeps the larger one.
    pub(crate) fn raise_to(&self, value: u64) {
        self.0.set(self.0.get().max(value));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

struct Operation {
    latency_us: Histogram<u64>,
    sum_us: u64,
    errors: [u64; ErrorCode::ALL.len()],
}

impl Operation {
    fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS)
            .expect("the bounds are valid");
        Self { latency_us, sum_us: 0, errors: [0; ErrorCode::ALL.len()] }
    }
}

/// The counts of one core.
pub(crate) struct Metrics {
    // By position in `MessageType::ALL`; made on first use.
    operations: RefCell<[Option<Box<Operation>>; MessageType::ALL.len()]>,
    refused_frames: RefCell<[u64; ErrorCode::ALL.len()]>,
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) connections_timed_out: Counter,
    pub(crate) distance_evaluations: Counter,
    pub(crate) queries: Counter,
    pub(crate) queries_exact: Counter,
    pub(crate) forwarded_to_nodes: Counter,
    pub(crate) forwarded_to_cores: Counter,
    pub(crate) executed_for_peers: Counter,
    pub(crate) replicas_failed_over: Counter,
    pub(crate) replicas_repaired: Counter,
    pub(crate) hedges: Counter,
    pub(crate) hedges_won: Counter,
    pub(crate) hints_wanted: Counter,
    pub(crate) slots_indexed: Counter,
    pub(crate) checkpoints: Counter,
    pub(crate) checkpoint_failures: Counter,
    pub(crate) checkpoint_step_ns_max: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metrics({} queries)", self.queries.get())
    }
}

fn place_of(kind: MessageType) -> usize {
    MessageType::ALL.iter().position(|other| *other == kind).expect("ALL lists every type")
}

fn place_of_code(code: ErrorCode) -> usize {
    usize::from(code.number()) - 1
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            operations: RefCell::new([const { None }; MessageType::ALL.len()]),
            refused_frames: RefCell::new([0; ErrorCode::ALL.len()]),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            connections_timed_out: Counter::default(),
            distance_evaluations: Counter::default(),
            queries: Counter::default(),
            queries_exact: Counter::default(),
            forwarded_to_nodes: Counter::default(),
            forwarded_to_cores: Counter::default(),
            executed_for_peers: Counter::default(),
            replicas_failed_over: Counter::default(),
            replicas_repaired: Counter::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
            hints_wanted: Counter::default(),
            slots_indexed: Counter::default(),
            checkpoints: Counter::default(),
            checkpoint_failures: Counter::default(),
            checkpoint_step_ns_max: Counter::default(),
        }
    }

    /// Counts a request that was answered, `error` or not.
    pub(crate) fn answered(&self, kind: MessageType, latency_us: u64, error: Option<ErrorCode>) {
        let mut operations = self.operations.borrow_mut();
        let operation =
            operations[place_of(kind)].get_or_insert_with(|| Box::new(Operation::new()));
        operation.latency_us.saturating_record(latency_us.max(1));
        operation.sum_us += latency_us;
        if let Some(code) = error {
            operation.errors[place_of_code(code)] += 1;
        }
    }

    /// Counts a frame that never became a request.
    pub(crate) fn refused_frame(&self, code: ErrorCode) {
        self.refused_frames.borrow_mut()[place_of_code(code)] += 1;
    }

    pub(crate) fn operations(&self) -> Vec<OperationReport> {
        let operations = self.operations.borrow();
        MessageType::ALL
            .iter()
            .zip(operations.iter())
            .filter_map(|(kind, operation)| Some(report_of(*kind, operation.as_ref()?)))
            .collect()
    }

    pub(crate) fn refused_frames(&self) -> Vec<(ErrorCode, u64)> {
        non_zero(&self.refused_frames.borrow()[..])
    }
}

fn non_zero(counts: &[u64]) -> Vec<(ErrorCode, u64)> {
    let counted = ErrorCode::ALL.iter().copied().zip(counts.iter().copied());
    counted.filter(|(_, count)| *count > 0).collect()
}

fn report_of(kind: MessageType, operation: &Operation) -> OperationReport {
    let mut buckets = [0; BUCKETS_US.len()];
    for step in operation.latency_us.iter_recorded() {
        let value = step.value_iterated_to();
        if let Some(place) = BUCKETS_US.iter().position(|bound| value <= *bound) {
            buckets[place] += step.count_at_value();
        }
    }
    // Prometheus counts everything up to each bound.
    let mut total = 0;
    for bucket in &mut buckets {
        total += *bucket;
        *bucket = total;
    }
    OperationReport {
        kind,
        count: operation.latency_us.len(),
        sum_us: operation.sum_us,
        quantiles_us: [0.5, 0.99, 0.999].map(|q| operation.latency_us.value_at_quantile(q)),
        buckets,
        errors: non_zero(&operation.errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_below_the_count() {
        let metrics = Metrics::new();
        for latency in [10, 40, 90, 1_000, 70_000_000] {
            metrics.answered(MessageType::Search, latency, None);
        }
        metrics.answered(MessageType::Search, 5, Some(ErrorCode::InvalidVector));
        let reports = metrics.operations();
        assert_eq!(reports.len(), 1);
        let report = &reports[0];
        assert_eq!((report.count, report.sum_us), (6, 70_001_145));
        assert!(report.buckets.is_sorted());
        assert_eq!(report.buckets[0], 3, "5, 10 and 40 us are at most 50 us");
        assert_eq!(report.buckets[BUCKETS_US.len() - 1], 5, "the minute is beyond the last bound");
        assert_eq!(report.errors, [(ErrorCode::InvalidVector, 1)]);
    }
}
