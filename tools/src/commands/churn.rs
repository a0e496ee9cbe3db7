//! `heddle bench churn`: updates and deletions at a steady rate, for as long as it is told.
//!
//! Open loop: batch `i` is due at `start + i * batch / rate`. Which rows are written and which are
//! deleted follows from the seed.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use heddle_bench::vectors::VectorFile;
use heddle_client::{Client, ClientError, Collection, Object};
use heddle_types::ObjectId;
use heddle_wire::message::PutMode;
use serde::Serialize;

use crate::cli::BenchChurn;
use crate::failure::Failure;
use crate::output::print_json;
use crate::session;

/// Batches on their way at the same time.
const BATCHES_IN_FLIGHT: usize = 4;

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Report {
    seconds: f64,
    puts: u64,
    deletions: u64,
    /// Operations a second; below what was asked for when the node did not keep up.
    rate: f64,
    /// Operations that the node refused, and the last reason.
    refused: u64,
    last_refusal: String,
    /// Time of the slowest batch from the moment it was due.
    slowest_ms: f64,
}

struct Churn<'a> {
    arguments: &'a BenchChurn,
    /// `[rows, dims]`.
    values: Vec<f32>,
    rows: u64,
    dims: usize,
    next: Cell<u64>,
    report: RefCell<Report>,
    start: Instant,
}

pub(crate) async fn run(arguments: &BenchChurn) -> Result<(), Failure> {
    if !(arguments.rate.is_finite() && arguments.rate > 0.0) {
        return Err(Failure::usage("--rate must be above 0"));
    }
    if !(0.0..=1.0).contains(&arguments.delete_share) {
        return Err(Failure::usage("--delete-share must be 0 to 1"));
    }
    let vectors = VectorFile::open(&arguments.vectors)?;
    if vectors.rows() == 0 {
        return Err(Failure::usage(format!("{}: no rows", arguments.vectors.display())));
    }
    let mut clients = Vec::new();
    for _ in 0..BATCHES_IN_FLIGHT {
        clients.push(session::connect(&arguments.connection).await?);
    }
    let churn = Churn {
        arguments,
        values: vectors.read_all()?,
        rows: vectors.rows() as u64,
        dims: vectors.dims(),
        next: Cell::new(0),
        report: RefCell::default(),
        start: Instant::now(),
    };
    try_join_all(clients.iter().map(|client| churn.work(client))).await?;
    let mut report = churn.report.take();
    report.seconds = churn.start.elapsed().as_secs_f64();
    report.rate = (report.puts + report.deletions) as f64 / report.seconds;
    write(&report, arguments.json.as_deref())
}

fn write(report: &Report, path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        return print_json(report);
    };
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(path, text + "\n").map_err(|error| Failure::file(path, error))
}

impl Churn<'_> {
    async fn work(&self, client: &Client) -> Result<(), Failure> {
        let collection = client.collection(self.arguments.name.clone());
        let batch = self.arguments.batch.max(1);
        let step = Duration::from_secs_f64(batch as f64 / self.arguments.rate);
        let end = Duration::from_secs_f64(self.arguments.seconds.clamp(0.01, 864_000.0));
        loop {
            let number = self.next.get();
            let due = step.mul_f64(number as f64);
            if due >= end {
                return Ok(());
            }
            self.next.set(number + 1);
            tokio::time::sleep_until((self.start + due).into()).await;
            self.send(&collection, number, batch).await?;
            let late = self.start.elapsed().saturating_sub(due);
            let mut report = self.report.borrow_mut();
            report.slowest_ms = report.slowest_ms.max(late.as_secs_f64() * 1e3);
        }
    }

    async fn send(
        &self,
        collection: &Collection,
        number: u64,
        batch: usize,
    ) -> Result<(), Failure> {
        let (mut deleted, mut written) = (Vec::new(), Vec::new());
        for position in 0..batch as u64 {
            let drawn = mix(self.arguments.seed, number * batch as u64 + position);
            let row = (drawn >> 32) % self.rows;
            let share = (drawn & 0xffff_ffff) as f64 / f64::from(u32::MAX);
            if share < self.arguments.delete_share {
                deleted.push(ObjectId::from_row(row));
            } else {
                let start = row as usize * self.dims;
                let values = self.values[start..start + self.dims].to_vec();
                written.push(Object::new(ObjectId::from_row(row)).with_vector(values));
            }
        }
        let puts = collection.put_batch(PutMode::Replace, &written).await;
        self.count(puts, written.len(), |report| &mut report.puts)?;
        let deletions = collection.delete_batch(&deleted).await;
        self.count(deletions, deleted.len(), |report| &mut report.deletions)
    }

    /// Counts what was accepted. Errors: no node answers any more.
    fn count<T>(
        &self,
        outcomes: Result<Vec<Result<T, ClientError>>, ClientError>,
        sent: usize,
        counter: impl Fn(&mut Report) -> &mut u64,
    ) -> Result<(), Failure> {
        let mut report = self.report.borrow_mut();
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error @ ClientError::Api(_)) => {
                report.refused += sent as u64;
                report.last_refusal = error.to_string();
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for outcome in outcomes {
            match outcome {
                Ok(_) => *counter(&mut report) += 1,
                Err(error) => {
                    report.refused += 1;
                    report.last_refusal = error.to_string();
                }
            }
        }
        Ok(())
    }
}

/// A number that looks random and follows from seed and position (splitmix64).
fn mix(seed: u64, position: u64) -> u64 {
    let mut bits = seed.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_kinds_are_spread_evenly() {
        let drawn: Vec<u64> = (0..40_000).map(|position| mix(7, position)).collect();
        let mut rows = [0; 10];
        drawn.iter().for_each(|bits| rows[((bits >> 32) % 10) as usize] += 1);
        assert!(rows.iter().all(|count| (3_700..4_300).contains(count)), "{rows:?}");
        let half = drawn.iter().filter(|bits| (*bits & 0xffff_ffff) < 1 << 31).count();
        assert!((19_500..20_500).contains(&half), "{half}");
    }
}
