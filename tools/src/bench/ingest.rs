//! The load loop of `heddle bench ingest`: durable inserts, each due at its time.
//!
//! As in the open loop of searches, request `i` is due at `start + i * batch / rate` and its
//! latency counts from then. A request that is refused is counted and not sent again: what is
//! measured is what the server takes.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hdrhistogram::Histogram;
use heddle_bench::vectors::VectorFile;
use heddle_client::{Client, ClientError, Collection, Object, PutMode};
use heddle_types::ObjectId;
use serde::Serialize;

use super::timer::PreciseTimer;
use super::{ERRORS_MAX, LATENCY_NS_MAX, OVERDUE_MAX, histogram, rounded};
use crate::failure::Failure;
use crate::status::NodeStatus;

/// Rows of one deletion.
const DELETE_ROWS: usize = 256;

/// What is written, and how.
pub(crate) struct IngestLoad {
    pub(crate) vectors: VectorFile,
    /// Row to begin with.
    pub(crate) first: u64,
    /// Rows a second; `None` = closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) time: Duration,
    /// Rows of a request.
    pub(crate) batch: usize,
    /// Rows stay in the collection.
    pub(crate) keep: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IngestReport {
    /// Rows that were acknowledged.
    pub(crate) rows: u64,
    pub(crate) rows_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) batch: usize,
    pub(crate) connections: usize,
    /// Rows that were refused or whose outcome is unknown.
    pub(crate) errors: u64,
    /// Rows of the collection that were not in its graph at the end.
    pub(crate) unlinked_rows: u64,
    /// Rows that were deleted again.
    pub(crate) deleted: u64,
}

/// What the connections of one run share; all of them live on one thread.
struct Run<'a> {
    load: &'a IngestLoad,
    start: Instant,
    next: Cell<u64>,
    acknowledged: Cell<u64>,
    errors: Cell<u64>,
    last_error: RefCell<String>,
    // Everything that was sent, whatever came of it.
    ids: RefCell<Vec<ObjectId>>,
}

/// Inserts on every one of `clients`, then deletes what was inserted unless it is to stay.
///
/// Errors: no answer, or too many refusals; what was inserted until then is deleted as well.
pub(crate) async fn ingest(
    load: &IngestLoad,
    collection: &str,
    clients: &[Client],
) -> Result<IngestReport, Failure> {
    let run = Run {
        load,
        start: Instant::now(),
        next: Cell::new(0),
        acknowledged: Cell::new(0),
        errors: Cell::new(0),
        last_error: RefCell::default(),
        ids: RefCell::default(),
    };
    let loops = clients.iter().map(|client| run.write(client.collection(collection)));
    let outcomes = join_all(loops).await;
    let seconds = run.start.elapsed().as_secs_f64();
    let unlinked = match clients.first() {
        Some(client) => NodeStatus::fetch(client).await.map(|status| status.backlog(collection)),
        None => Ok(0),
    };
    let ids = run.ids.take();
    let deleted = match clients.first().filter(|_| !load.keep) {
        Some(client) => delete(&client.collection(collection), &ids).await?,
        None => 0,
    };
    if run.errors.get() > 0 {
        let (errors, last) = (run.errors.get(), run.last_error.take());
        eprintln!("heddle: {errors} rows were not acknowledged, the last one because: {last}");
    }
    let mut all = histogram();
    for outcome in outcomes {
        all.add(outcome?).map_err(|error| Failure::failed(error.to_string()))?;
    }
    let us = |quantile: f64| rounded(all.value_at_quantile(quantile) as f64 / 1e3);
    Ok(IngestReport {
        rows: run.acknowledged.get(),
        rows_per_second: rounded(run.acknowledged.get() as f64 / seconds),
        p50_us: us(0.5),
        p90_us: us(0.9),
        p99_us: us(0.99),
        p999_us: us(0.999),
        max_us: rounded(all.max() as f64 / 1e3),
        batch: load.batch,
        connections: clients.len(),
        errors: run.errors.get(),
        unlinked_rows: unlinked?,
        deleted,
    })
}

impl Run<'_> {
    /// Sends requests until the time or the rows are over.
    async fn write(&self, collection: Collection) -> Result<Histogram<u64>, Failure> {
        let timer = PreciseTimer::new()?;
        let mut latencies = histogram();
        let mut values = Vec::new();
        loop {
            let index = self.next.replace(self.next.get() + 1);
            let due = match self.load.rate {
                None => Instant::now(),
                Some(rate) => {
                    let rows = index as f64 * self.load.batch as f64;
                    self.start + Duration::from_secs_f64(rows / rate)
                }
            };
            let objects = self.objects(index, &mut values)?;
            if objects.is_empty() || due >= self.start + self.load.time {
                return Ok(latencies);
            }
            timer.wait_until(due).await?;
            let begun = if self.load.rate.is_some() { due } else { Instant::now() };
            if begun.elapsed() > OVERDUE_MAX {
                return Err(Failure::failed(format!(
                    "rows are written {} s after they were due: the rate is too high",
                    OVERDUE_MAX.as_secs()
                )));
            }
            self.ids.borrow_mut().extend(objects.iter().map(|object| object.id));
            let outcomes = collection.put_batch(PutMode::Replace, &objects).await?;
            let ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(LATENCY_NS_MAX);
            latencies.saturating_record(ns);
            outcomes.into_iter().try_for_each(|outcome| self.count(outcome.map(|_| ())))?;
        }
    }

    /// The rows of a request; none behind the last row of the file.
    fn objects(&self, index: u64, values: &mut Vec<f32>) -> Result<Vec<Object>, Failure> {
        let (vectors, batch) = (&self.load.vectors, self.load.batch as u64);
        let first = index.saturating_mul(batch).saturating_add(self.load.first);
        let count = batch.min((vectors.rows() as u64).saturating_sub(first));
        values.clear();
        if count > 0 {
            vectors.read_rows(first as usize, count as usize, values)?;
        }
        let rows = values.chunks_exact(vectors.dims());
        Ok(rows.map(|row| Object::new(ObjectId::random()).with_vector(row.to_vec())).collect())
    }

    fn count(&self, outcome: Result<(), ClientError>) -> Result<(), Failure> {
        let Err(error) = outcome else {
            self.acknowledged.set(self.acknowledged.get() + 1);
            return Ok(());
        };
        self.errors.set(self.errors.get() + 1);
        *self.last_error.borrow_mut() = error.to_string();
        if self.errors.get() < ERRORS_MAX { Ok(()) } else { Err(error.into()) }
    }
}

async fn delete(collection: &Collection, ids: &[ObjectId]) -> Result<u64, Failure> {
    let mut deleted = 0;
    for part in ids.chunks(DELETE_ROWS) {
        for outcome in collection.delete_batch(part).await? {
            deleted += u64::from(outcome?);
        }
    }
    Ok(deleted)
}
