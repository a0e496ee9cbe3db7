//! A built index that answers passes on request, so that passes of several programs interleave.
//!
//! Standard output carries one JSON line when the index is ready, then one for each JSON line on
//! standard input. The process sleeps between them and ends with its input.

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use super::build::Built;
use super::measure::{Sums, Workload, run_pass};
use super::{Failure, Report};

/// Queries answered before a timed pass, so that the caches hold this index and not the last one.
const WARM_QUERIES: usize = 200;

/// One pass over all queries, as asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The candidate pool.
    value: u32,
    /// Say how many of the true neighbours were found.
    #[serde(default)]
    recall: bool,
    /// Answer some queries first, untimed.
    #[serde(default)]
    warm: bool,
    /// Repeat the pass until this much time has gone by.
    #[serde(default)]
    seconds_min: f64,
    /// Threads that search; as the command line says when absent.
    threads: Option<u16>,
}

/// What the pass measured. Sums are per query.
#[derive(Serialize)]
struct Reply {
    qps: f64,
    qps_cpu: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    recall: Option<f64>,
    evaluations: f64,
    hops: f64,
    rescored: f64,
    /// Bytes of vector and link rows read, whole cache lines.
    bytes_touched: f64,
}

/// Answers requests until the input ends.
///
/// # Errors
/// A request that is not understood, or a closed output.
pub(super) fn serve(built: &Built, mut workload: Workload, report: &Report) -> Result<(), Failure> {
    let warm = workload.first(WARM_QUERIES);
    println!("{}", serde_json::to_string(report)?);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let request: Request =
            serde_json::from_str(&line).map_err(|error| format!("request {line:?}: {error}"))?;
        if let Some(threads) = request.threads {
            workload.threads = usize::from(threads.max(1));
        }
        if request.warm {
            run_pass(built, &warm, request.value);
        }
        let reply = answer(built, &workload, &request);
        println!("{}", serde_json::to_string(&reply)?);
    }
    Ok(())
}

fn answer(built: &Built, workload: &Workload, request: &Request) -> Reply {
    let count = workload.queries.len() / workload.dims;
    let mut answered = 0;
    let (mut seconds, mut cpu_seconds) = (0.0, 0.0);
    let sums: Sums = loop {
        let (pass_seconds, sums) = run_pass(built, workload, request.value);
        answered += count;
        seconds += pass_seconds;
        cpu_seconds += sums.cpu_ns as f64 / 1e9;
        if seconds >= request.seconds_min {
            break sums;
        }
    };
    let per_query = |sum: u64| sum as f64 / count as f64;
    Reply {
        qps: answered as f64 / seconds,
        qps_cpu: answered as f64 / cpu_seconds.max(1e-9),
        recall: request.recall.then(|| per_query(sums.right) / f64::from(workload.k)),
        evaluations: per_query(sums.evaluations),
        hops: per_query(sums.hops),
        rescored: per_query(sums.rescored),
        bytes_touched: per_query(sums.bytes),
    }
}
