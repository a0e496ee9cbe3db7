//! Measuring: recall, rate and work per query for one candidate pool.

use std::time::Instant;

use heddle_index::{Hit, Scratch, SearchRequest, SearchStats};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::build::Built;

/// What is asked.
pub(super) struct Workload {
    pub(super) queries: Vec<f32>,
    pub(super) dims: usize,
    pub(super) truth: Vec<i64>,
    pub(super) truth_width: usize,
    pub(super) k: u32,
    pub(super) threads: usize,
    /// Searches that take turns on a thread.
    pub(super) together: usize,
    pub(super) passes: u32,
}

impl Workload {
    /// The same with the first `count` queries alone.
    pub(super) fn first(&self, count: usize) -> Self {
        let count = count.min(self.queries.len() / self.dims);
        Self {
            queries: self.queries[..count * self.dims].to_vec(),
            truth: self.truth[..count * self.truth_width].to_vec(),
            ..*self
        }
    }
}

/// Figures for one candidate pool.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) ef: u32,
    pub(super) recall: f64,
    /// Median of the passes.
    pub(super) qps: f64,
    pub(super) qps_best: f64,
    /// Queries per second that the threads really ran, best pass: comparable on a shared machine.
    pub(super) qps_per_cpu_second: f64,
    pub(super) evaluations_per_query: f64,
    pub(super) hops_per_query: f64,
    pub(super) rescored_per_query: f64,
    /// Bytes of rows and links read, in whole cache lines.
    pub(super) bytes_per_query: f64,
}

/// Sums over the queries of one thread.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) right: u64,
    pub(super) evaluations: u64,
    pub(super) hops: u64,
    pub(super) rescored: u64,
    pub(super) bytes: u64,
    pub(super) cpu_ns: u64,
}

/// Nanoseconds this thread has run on a processor.
pub(crate) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

pub(super) fn measure(built: &Built, workload: &Workload, ef: u32) -> Row {
    let count = workload.queries.len() / workload.dims;
    let mut rates = Vec::new();
    let mut sums = Sums::default();
    let mut qps_per_cpu_second: f64 = 0.0;
    for _ in 0..workload.passes {
        let (seconds, pass) = run_pass(built, workload, ef);
        rates.push(count as f64 / seconds);
        let rate = count as f64 / (pass.cpu_ns.max(1) as f64 / 1e9);
        qps_per_cpu_second = qps_per_cpu_second.max(rate);
        sums = pass;
    }
    rates.sort_by(f64::total_cmp);
    Row {
        ef,
        recall: sums.right as f64 / (count as f64 * f64::from(workload.k)),
        qps: rates[rates.len() / 2],
        qps_best: rates[rates.len() - 1],
        qps_per_cpu_second,
        evaluations_per_query: sums.evaluations as f64 / count as f64,
        hops_per_query: sums.hops as f64 / count as f64,
        rescored_per_query: sums.rescored as f64 / count as f64,
        bytes_per_query: sums.bytes as f64 / count as f64,
    }
}

/// All queries once; seconds and sums.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(super) fn run_pass(built: &Built, workload: &Workload, ef: u32) -> (f64, Sums) {
    let started = Instant::now();
    let parts: Vec<Sums> = std::thread::scope(|scope| {
        let threads = (1..workload.threads)
            .map(|thread| scope.spawn(move || run_thread(built, workload, ef, thread)))
            .collect::<Vec<_>>();
        let mine = run_thread(built, workload, ef, 0);
        let others = threads
            .into_iter()
            .map(|thread| thread.join().expect("a search thread does not panic"));
        core::iter::once(mine).chain(others).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let total = parts.iter().fold(Sums::default(), |mut total, part| {
        total.right += part.right;
        total.evaluations += part.evaluations;
        total.hops += part.hops;
        total.rescored += part.rescored;
        total.bytes += part.bytes;
        total.cpu_ns += part.cpu_ns;
        total
    });
    (seconds, total)
}

fn run_thread(built: &Built, workload: &Workload, ef: u32, thread: usize) -> Sums {
    let view = built.writer.view();
    let mut scratches: Vec<Scratch> = Vec::new();
    scratches.resize_with(workload.together, Scratch::new);
    let mut hits: Vec<Hit> = Vec::new();
    let mut sums = Sums::default();
    let queries = workload.queries.chunks_exact(workload.dims);
    let queries = queries.enumerate().skip(thread).step_by(workload.threads);
    let request = SearchRequest::new(workload.k, ef);
    let cpu_before = thread_cpu_ns();
    let mut give = |row: usize, hits: &[Hit], stats: SearchStats| {
        let truth = &workload.truth[row * workload.truth_width..][..workload.k as usize];
        let right = hits.iter().filter(|hit| truth.contains(&i64::from(hit.slot)));
        sums.right += right.count() as u64;
        sums.evaluations += stats.evaluations;
        sums.hops += stats.hops;
        sums.rescored += stats.rescored;
        sums.bytes += view.bytes_touched(&stats);
    };
    if let [scratch] = &mut scratches[..] {
        for (row, query) in queries {
            let stats = view.search(&built.directory, query, request, scratch, &mut hits);
            give(row, &hits, stats);
        }
    } else {
        let queries = queries.map(|(row, query)| (row, query, request));
        view.search_many(&built.directory, queries, &mut scratches, &mut hits, give);
    }
    sums.cpu_ns = thread_cpu_ns().saturating_sub(cpu_before);
    sums
}
