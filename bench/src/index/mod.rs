//! `heddle-bench index`: builds an index from a file and measures it.

pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod checksum;
pub(crate) mod crew;
pub(crate) mod measure;
mod serve;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use heddle_bench::vectors::VectorFile;
use heddle_index::{Codes, IndexParams, Metric, PlaneBytes, RawVectors};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Errors end the command; their text is all that is needed.
pub(crate) type Failure = Box<dyn core::error::Error + Send + Sync>;

/// Arguments of `heddle-bench index`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Vectors to index, one per row.
    #[arg(long)]
    base: PathBuf,
    /// Query vectors, one per row.
    #[arg(long)]
    queries: PathBuf,
    /// Row numbers of the true neighbours of each query, nearest first.
    #[arg(long)]
    truth: PathBuf,
    #[command(flatten)]
    choice: IndexChoice,
    /// Candidate pools to measure, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "10,20,40,64,80,100,128,200,400,800")]
    ef: Vec<u32>,
    /// Threads that search, when not as many as build.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    search_threads: Option<u16>,
    /// Searches that take turns on a thread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    together: u16,
    /// Threads that build and search.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Neighbours wanted.
    #[arg(long, default_value_t = 10)]
    k: u32,
    /// How often the queries are run for each pool; the median and the best are reported.
    #[arg(long, default_value_t = 3)]
    passes: u32,
    /// Slots linked together, found against one state of the graph.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Index only the first rows.
    #[arg(long)]
    rows: Option<usize>,
    /// File that keeps the built index: read when it exists, else written.
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Answer passes asked for on standard input, one JSON object a line with one on standard
    /// output: {"value": 64, "recall": true, "warm": true, "seconds_min": 0.2, "threads": 1}.
    #[arg(long)]
    serve: bool,
}

/// What kind of index to build.
#[derive(Args)]
pub(crate) struct IndexChoice {
    /// Distance.
    #[arg(long, value_enum)]
    metric: MetricName,
    /// Links per node and layer.
    #[arg(long, default_value_t = 16)]
    m: u16,
    /// Candidate pool of an insert.
    #[arg(long, default_value_t = 200)]
    ef_construction: u16,
    /// What a walk reads. Without it, what the node would choose for the dimension and the metric,
    /// vectors left out where codes stand for them.
    #[arg(long, value_enum)]
    codes: Option<CodesName>,
    /// Whether full vectors stay in memory beside codes that were named.
    #[arg(long, value_enum)]
    raw: Option<RawName>,
}

impl IndexChoice {
    /// Parameters for vectors of this dimension.
    pub(crate) fn params(&self, dims: usize) -> Result<IndexParams, Failure> {
        let mut params = IndexParams::new(u32::try_from(dims)?, self.metric.into());
        params.m = self.m;
        params.ef_construction = self.ef_construction;
        (params.codes, params.raw) = match self.codes {
            Some(codes) => (codes.into(), RawVectors::Memory),
            None => IndexParams::default_profile(params.dims, params.metric),
        };
        match self.raw {
            Some(RawName::Memory) => params.raw = RawVectors::Memory,
            Some(RawName::Absent) => params.raw = RawVectors::Absent,
            None => {}
        }
        Ok(params)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum MetricName {
    /// Squared Euclidean distance.
    L2,
    /// One minus cosine similarity.
    Cosine,
    /// Negated dot product.
    Dot,
}

impl From<MetricName> for Metric {
    fn from(name: MetricName) -> Self {
        match name {
            MetricName::L2 => Self::L2Squared,
            MetricName::Cosine => Self::Cosine,
            MetricName::Dot => Self::Dot,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum CodesName {
    /// 32-bit floats.
    None,
    /// 16-bit floats.
    Half,
    /// One byte a component.
    #[value(name = "8bit")]
    EightBit,
    /// Half a byte a component.
    #[value(name = "4bit")]
    FourBit,
    /// One bit a component.
    #[value(name = "1bit")]
    OneBit,
}

impl From<CodesName> for Codes {
    fn from(name: CodesName) -> Self {
        match name {
            CodesName::None => Self::None,
            CodesName::Half => Self::Half,
            CodesName::EightBit => Self::EightBit,
            CodesName::FourBit => Self::FourBit,
            CodesName::OneBit => Self::OneBit,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum RawName {
    /// Kept; hits are ranked by them.
    Memory,
    /// Left out; hits are ranked by refined codes.
    Absent,
}

/// The figures of one run.
#[derive(Serialize)]
struct Report {
    vectors: usize,
    dims: usize,
    threads: u16,
    kernel: &'static str,
    /// What a walk reads.
    codes: String,
    build_seconds: f64,
    /// Seconds that all threads of this process ran, until the index was ready.
    build_cpu_seconds: f64,
    build_search_seconds: f64,
    build_link_seconds: f64,
    build_evaluations_per_vector: f64,
    bytes_per_vector: f64,
    committed_bytes_per_vector: f64,
    /// Bytes of a vector by plane; links and sets come on top.
    planes: Planes,
    checksum: String,
    rows: Vec<measure::Row>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = VectorFile::open(&arguments.base)?;
    let queries = VectorFile::open(&arguments.queries)?;
    let truth = VectorFile::open(&arguments.truth)?;
    let dims = base.dims();
    if queries.dims() != dims {
        return Err(format!("queries have {} components, base {dims}", queries.dims()).into());
    }
    if truth.rows() < queries.rows() || truth.dims() < arguments.k as usize {
        return Err("the truth has too few rows or columns".into());
    }
    let mut params = arguments.choice.params(dims)?;
    params.flat_cutoff = 0;
    let rows = arguments.rows.unwrap_or(usize::MAX).min(base.rows());
    eprintln!("indexing {rows} x {dims} with {} thread(s)", arguments.threads);
    let cpu_before = process_cpu_seconds();
    let built = build_or_load(arguments, &base, rows, params)?;
    let build_cpu_seconds = process_cpu_seconds() - cpu_before;
    let stats = built.writer.view().stats();
    eprintln!(
        "built in {:.1} s ({:.1} CPU s; choosing {:.1}, pruning {:.1}, committing {:.2}), \
         {:.0} distances and {:.0} bytes per vector",
        built.seconds,
        build_cpu_seconds,
        built.phases.choose_seconds,
        built.phases.prune_seconds,
        built.phases.commit_seconds,
        built.phases.evaluations as f64 / rows as f64,
        stats.used_bytes as f64 / rows as f64
    );
    let workload = measure::Workload {
        queries: queries.read_all()?,
        dims,
        truth: truth.read_integers()?,
        truth_width: truth.dims(),
        k: arguments.k,
        threads: arguments.search_threads.unwrap_or(arguments.threads).into(),
        together: arguments.together.into(),
        passes: arguments.passes.max(1),
    };
    let mut report = Report {
        vectors: rows,
        dims,
        threads: arguments.threads,
        kernel: stats.kernel,
        codes: format!("{:?}", built.writer.view().params().codes),
        build_seconds: built.seconds,
        build_cpu_seconds,
        build_search_seconds: built.phases.choose_seconds,
        build_link_seconds: built.phases.prune_seconds + built.phases.commit_seconds,
        build_evaluations_per_vector: built.phases.evaluations as f64 / rows as f64,
        bytes_per_vector: stats.used_bytes as f64 / rows as f64,
        committed_bytes_per_vector: (stats.vector_bytes
            + stats.link_bytes
            + stats.upper_bytes
            + stats.set_bytes) as f64
            / rows as f64,
        planes: Planes::of(stats.planes),
        checksum: format!("{:016x}", built.writer.checksum()),
        rows: Vec::new(),
    };
    if arguments.serve {
        return serve::serve(&built, workload, &report);
    }
    report.rows = measure_all(&built, &workload, &arguments.ef);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

/// Bytes per vector of each plane.
#[derive(Serialize)]
struct Planes {
    raw: usize,
    walk: usize,
    factors: usize,
    refine: usize,
    signs: usize,
}

impl Planes {
    fn of(PlaneBytes { raw, walk, factors, refine, signs }: PlaneBytes) -> Self {
        Self { raw, walk, factors, refine, signs }
    }
}

/// Seconds that all threads of this process have run so far.
fn process_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn build_or_load(
    arguments: &Arguments,
    base: &VectorFile,
    rows: usize,
    params: IndexParams,
) -> Result<build::Built, Failure> {
    let built = match &arguments.cache {
        Some(path) if path.exists() => cache::load(path, params, u32::try_from(rows)?)?,
        _ => build::build(base, rows, params, arguments.threads.into(), arguments.batch)?,
    };
    if let Some(path) = arguments.cache.as_ref().filter(|path| !path.exists()) {
        cache::save(path, &built, u32::try_from(rows)?)?;
    }
    Ok(built)
}

/// Measures every candidate pool and prints a line for each.
fn measure_all(
    built: &build::Built,
    workload: &measure::Workload,
    pools: &[u32],
) -> Vec<measure::Row> {
    let mut rows = Vec::new();
    println!(
        "{:>6} {:>8} {:>9} {:>9} {:>9} {:>7} {:>8} {:>9}",
        "ef", "recall", "qps", "best", "per cpu", "evals", "rescored", "bytes"
    );
    for &ef in pools {
        let row = measure::measure(built, workload, ef);
        println!(
            "{:>6} {:>8.4} {:>9.0} {:>9.0} {:>9.0} {:>7.0} {:>8.0} {:>9.0}",
            row.ef,
            row.recall,
            row.qps,
            row.qps_best,
            row.qps_per_cpu_second,
            row.evaluations_per_query,
            row.rescored_per_query,
            row.bytes_per_query
        );
        rows.push(row);
    }
    rows
}
