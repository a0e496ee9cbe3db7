//! The load loops of `heddle bench` and of the demo: recall, throughput and latency.
//!
//! Closed loop: each connection sends its next query when one is answered. Open loop:
//! query `i` is due at `start + i / rate` whether or not earlier ones were answered, and its
//! latency counts from then; a stall is charged to every query that it delayed.

mod device;
pub(crate) mod ingest;
mod pipeline;
mod raw;
pub(crate) mod tenants;
mod timer;
pub(crate) mod writes;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hdrhistogram::Histogram;
use heddle_types::ObjectId;
use heddle_wire::Frame;
use heddle_wire::message::SearchRequest;
use serde::Serialize;

use crate::failure::{Failure, Kind};
use pipeline::pipelined_loop;
use raw::{RawConnection, RawError};
use timer::PreciseTimer;

/// Longest latency that is told apart from longer ones: 60 s in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Delay of an open loop at which it is given up: its queue only grows.
const OVERDUE_MAX: Duration = Duration::from_secs(30);
/// Failed requests after which a measurement is given up.
const ERRORS_MAX: u64 = 1_000;

/// Queries with their true neighbours.
#[derive(Debug)]
pub(crate) struct QuerySet {
    /// `[rows, dims]`.
    pub(crate) values: Vec<f32>,
    pub(crate) dims: usize,
    /// `[rows, width]`: row numbers of the true neighbours, nearest first.
    pub(crate) truth: Vec<i64>,
    pub(crate) width: usize,
}

impl QuerySet {
    pub(crate) fn rows(&self) -> usize {
        self.values.len() / self.dims
    }

    fn query(&self, row: usize) -> &[f32] {
        &self.values[row * self.dims..(row + 1) * self.dims]
    }

    /// The true neighbours of a query; `-1` pads where fewer exist.
    fn truth(&self, row: usize, k: usize) -> &[i64] {
        let all = &self.truth[row * self.width..(row + 1) * self.width][..k];
        let end = all.iter().position(|neighbour| *neighbour < 0).unwrap_or(k);
        &all[..end]
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) collection: String,
    /// Encoded filter; empty = none.
    pub(crate) filter: Vec<u8>,
    pub(crate) k: u32,
    /// One address for each connection.
    pub(crate) addresses: Vec<String>,
    /// Queries a second; `None` = closed loop.
    pub(crate) rate: Option<f64>,
    /// Queries on their way on each connection; 1 with a rate.
    pub(crate) in_flight: usize,
    pub(crate) time: Duration,
    /// Longest wait for one answer, told to the server.
    pub(crate) timeout: Duration,
}

impl Load {
    fn deadline_us(&self) -> u32 {
        u32::try_from(self.timeout.as_micros()).unwrap_or(u32::MAX)
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) ef: u32,
    pub(crate) recall: f64,
    pub(crate) qps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) connections: usize,
    /// Queries on their way on each connection; left out of the report when it is one.
    #[serde(skip_serializing_if = "is_one")]
    pub(crate) in_flight: usize,
    pub(crate) errors: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the serializer hands out references")]
fn is_one(count: &usize) -> bool {
    *count == 1
}

/// State that the connections of one run share; all of them live on one thread.
struct Run<'a> {
    load: &'a Load,
    queries: &'a QuerySet,
    frames: &'a [Frame],
    next: Cell<u64>,
    errors: Cell<u64>,
    last_error: RefCell<String>,
}

impl Run<'_> {
    fn take(&self) -> u64 {
        let index = self.next.get();
        self.next.set(index + 1);
        index
    }

    fn fail(&self, error: &RawError) -> Result<(), Failure> {
        self.errors.set(self.errors.get() + 1);
        *self.last_error.borrow_mut() = error.to_string();
        match error {
            RawError::Refused(_) if self.errors.get() < ERRORS_MAX => Ok(()),
            error => Err(unreachable_server(error)),
        }
    }
}

fn unreachable_server(error: &RawError) -> Failure {
    let kind = if matches!(error, RawError::Io(_)) { Kind::Unreachable } else { Kind::Failed };
    Failure { kind, message: error.to_string() }
}

/// Measures one value of `ef`: one pass over every query for the recall, which also warms up, then
/// the timed run.
pub(crate) async fn measure(load: &Load, queries: &QuerySet, ef: u32) -> Result<Row, Failure> {
    let frames = encode(load, queries, ef)?;
    let mut connections = Vec::new();
    for address in &load.addresses {
        let connection = RawConnection::connect(address).await;
        let connection = connection.map_err(|error| {
            let failure = unreachable_server(&error);
            Failure { message: format!("{address}: {}", failure.message), ..failure }
        })?;
        connections.push(connection);
    }
    let run = || Run {
        load,
        queries,
        frames: &frames,
        next: Cell::new(0),
        errors: Cell::new(0),
        last_error: RefCell::default(),
    };
    let pass = run();
    let found = join_all(connections.iter_mut().map(|connection| recall_pass(&pass, connection)));
    let found = found.await.into_iter().sum::<Result<f64, Failure>>()?;
    if pass.errors.get() > 0 {
        return Err(Failure::failed(pass.last_error.take()));
    }
    let timed = run();
    let start = Instant::now();
    let loops = connections.iter_mut().map(|connection| async {
        match load.in_flight {
            1 => timed_loop(&timed, connection, start).await,
            _ => pipelined_loop(&timed, connection, start).await,
        }
    });
    let mut all = histogram();
    for histogram in join_all(loops).await {
        all.add(histogram?).map_err(|error| Failure::failed(error.to_string()))?;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let us = |quantile: f64| rounded(all.value_at_quantile(quantile) as f64 / 1e3);
    Ok(Row {
        ef,
        recall: found / queries.rows() as f64,
        qps: rounded(all.len() as f64 / elapsed),
        p50_us: us(0.5),
        p90_us: us(0.9),
        p99_us: us(0.99),
        p999_us: us(0.999),
        max_us: rounded(all.max() as f64 / 1e3),
        connections: load.addresses.len(),
        in_flight: load.in_flight,
        errors: timed.errors.get(),
    })
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants in range")
}

/// Every query as a whole frame: encoding is the client's work, not part of a latency.
fn encode(load: &Load, queries: &QuerySet, ef: u32) -> Result<Vec<Frame>, Failure> {
    let deadline_us = load.deadline_us();
    let frame = |row: usize| {
        let request = SearchRequest {
            collection: load.collection.clone(),
            tenant: String::new(),
            epoch: 0,
            vector: String::new(),
            queries: queries.query(row).to_vec(),
            dims: u32::try_from(queries.dims).unwrap_or(u32::MAX),
            near_id: Vec::new(),
            k: load.k,
            ef,
            offset: 0,
            max_distance: f32::NAN,
            autocut: 0,
            filter: load.filter.clone(),
            want: 0,
        };
        let frame = heddle_wire::encode_request(row as u64 + 1, deadline_us, &request);
        frame.map_err(|error| Failure::usage(error.to_string()))
    };
    (0..queries.rows()).map(frame).collect()
}

/// Answers each query once; returns the sum of the recalls of the queries this connection took.
async fn recall_pass(run: &Run<'_>, connection: &mut RawConnection) -> Result<f64, Failure> {
    let mut sum = 0.0;
    loop {
        let index = run.take() as usize;
        let Some(frame) = run.frames.get(index) else { return Ok(sum) };
        match connection.search(frame).await {
            Ok(reply) => {
                let truth = run.queries.truth(index, run.load.k as usize);
                sum += recall(truth, reply.ids());
            }
            Err(error) => run.fail(&error)?,
        }
    }
}

/// The share of the true neighbours that was found; 1 when there are none to find.
fn recall(truth: &[i64], found: impl Iterator<Item = ObjectId>) -> f64 {
    if truth.is_empty() {
        return 1.0;
    }
    let is_true = |id: &ObjectId| i64::try_from(id.as_u128()).is_ok_and(|row| truth.contains(&row));
    found.filter(is_true).count() as f64 / truth.len() as f64
}

async fn timed_loop(
    run: &Run<'_>,
    connection: &mut RawConnection,
    start: Instant,
) -> Result<Histogram<u64>, Failure> {
    let timer = PreciseTimer::new()?;
    let mut latencies = histogram();
    let end = start + run.load.time;
    loop {
        let index = run.take();
        let begun = match run.load.rate {
            None => Instant::now(),
            Some(rate) => {
                let due = start + Duration::from_secs_f64(index as f64 / rate);
                if due < end {
                    timer.wait_until(due).await?;
                }
                due
            }
        };
        if begun >= end {
            return Ok(latencies);
        }
        if begun.elapsed() > OVERDUE_MAX {
            return Err(Failure::failed(format!(
                "queries are answered {} s after they were due: the rate is too high",
                OVERDUE_MAX.as_secs()
            )));
        }
        let frame = &run.frames[(index % run.frames.len() as u64) as usize];
        match connection.search(frame).await {
            Ok(_) => {
                let ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(LATENCY_NS_MAX);
                latencies.saturating_record(ns);
            }
            Err(error) => run.fail(&error)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_true_neighbours_alone() {
        let ids =
            |rows: &[u64]| rows.iter().map(|row| ObjectId::from_row(*row)).collect::<Vec<_>>();
        assert_eq!(recall(&[1, 2, 3, 4], ids(&[4, 9, 2]).into_iter()), 0.5);
        assert_eq!(recall(&[], ids(&[4]).into_iter()), 1.0);
        let foreign = ObjectId([0xff; 16]);
        assert_eq!(recall(&[-1], [foreign].into_iter()), 0.0);
    }

    #[test]
    fn padding_of_the_truth_is_cut() {
        let set = QuerySet { values: vec![0.0], dims: 1, truth: vec![5, 6, -1, -1], width: 4 };
        assert_eq!(set.truth(0, 3), [5, 6]);
        assert_eq!(set.truth(0, 1), [5]);
    }
}
