//! `heddle-bench filters`: recall, rate and work of filtered searches beside unfiltered ones.

mod predicate;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use heddle_bench::vectors::VectorFile;
use heddle_index::{Hit, Scratch, SearchRequest, SlotBitmap, Strategy};
use serde::Deserialize;

use crate::index::build::{self, Built};
use crate::index::measure::thread_cpu_ns;
use crate::index::{Failure, IndexChoice, cache};
use predicate::Predicate;
use report::{Point, Series};

/// Arguments of `heddle-bench filters`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Vectors to index, one per row.
    #[arg(long)]
    base: PathBuf,
    /// Query vectors, one per row.
    #[arg(long)]
    queries: PathBuf,
    /// Row numbers of the true neighbours without a filter.
    #[arg(long)]
    truth: PathBuf,
    /// Properties of the base rows, one JSON object a line; packed when the name ends in `.gz`.
    #[arg(long)]
    properties: PathBuf,
    /// JSON object from filter to its `rows` and the `file` of its truth, beside this file.
    #[arg(long)]
    filters: PathBuf,
    #[command(flatten)]
    index: IndexChoice,
    /// Candidate pools to measure, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "10,16,24,32,48,64,96,128,192,256")]
    ef: Vec<u32>,
    /// Neighbours wanted.
    #[arg(long, default_value_t = 10)]
    k: u32,
    /// How often all queries are run for each filter and pool; the best pass counts.
    #[arg(long, default_value_t = 3)]
    passes: u32,
    /// Use only the first queries.
    #[arg(long)]
    query_limit: Option<usize>,
    /// Slots whose candidates are found against one state of the graph.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// File that keeps the built index: read when it exists, else written.
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One entry of the list of filters.
#[derive(Deserialize)]
struct Listed {
    file: PathBuf,
    rows: u32,
}

/// A filter with what it should find; no set for the searches without one.
struct Case {
    name: String,
    set: Option<SlotBitmap>,
    truth: Vec<i64>,
    truth_width: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = VectorFile::open(&arguments.base)?;
    let queries = VectorFile::open(&arguments.queries)?;
    if queries.dims() != base.dims() {
        let (found, expected) = (queries.dims(), base.dims());
        return Err(format!("queries have {found} components, base {expected}").into());
    }
    let count = arguments.query_limit.unwrap_or(usize::MAX).min(queries.rows());
    let mut texts = Vec::new();
    queries.read_rows(0, count, &mut texts)?;
    let cases = read_cases(arguments, base.rows(), count)?;
    let built = build_or_load(arguments, &base)?;
    let mut series: Vec<Series> = cases
        .iter()
        .map(|case| {
            let rows = case.set.as_ref().map_or(base.rows(), |set| set.len() as usize);
            Series::new(&case.name, rows as f64 / base.rows() as f64)
        })
        .collect();
    for pass in 0..arguments.passes.max(1) {
        eprintln!("pass {} of {}", pass + 1, arguments.passes.max(1));
        for &ef in &arguments.ef {
            for (case, series) in cases.iter().zip(&mut series) {
                series.add(run_pass(&built, &texts, base.dims(), case, arguments.k, ef));
            }
        }
    }
    report::print(&series);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&series)?)?;
    }
    Ok(())
}

/// Reads the list of filters, evaluates each and compares its count with the listed one.
fn read_cases(arguments: &Arguments, rows: usize, queries: usize) -> Result<Vec<Case>, Failure> {
    let listed = std::fs::read_to_string(&arguments.filters)?;
    let listed: BTreeMap<String, Listed> = serde_json::from_str(&listed)?;
    let predicates: Vec<Predicate> =
        listed.keys().map(|name| Predicate::parse(name)).collect::<Result<_, _>>()?;
    let sets = predicate::evaluate(&arguments.properties, &predicates, rows)?;
    let folder = arguments.filters.parent().unwrap_or(Path::new("."));
    let mut cases = vec![read_case("none", None, &arguments.truth, arguments.k, queries)?];
    for ((name, listed), set) in listed.iter().zip(sets) {
        if set.len() != listed.rows {
            let (found, expected) = (set.len(), listed.rows);
            return Err(format!("{found} rows pass `{name}`, {expected} are listed").into());
        }
        let file = folder.join(&listed.file);
        cases.push(read_case(name, Some(set), &file, arguments.k, queries)?);
    }
    // Most passing rows first; the searches without a filter lead.
    cases.sort_by_key(|case| core::cmp::Reverse(case.set.as_ref().map_or(u32::MAX, |s| s.len())));
    Ok(cases)
}

fn read_case(
    name: &str,
    set: Option<SlotBitmap>,
    truth: &Path,
    k: u32,
    queries: usize,
) -> Result<Case, Failure> {
    let truth = VectorFile::open(truth)?;
    if truth.rows() < queries || truth.dims() < k as usize {
        return Err(format!("the truth of `{name}` has too few rows or columns").into());
    }
    let (truth_width, truth) = (truth.dims(), truth.read_integers()?);
    Ok(Case { name: name.to_owned(), set, truth, truth_width })
}

fn build_or_load(arguments: &Arguments, base: &VectorFile) -> Result<Built, Failure> {
    let params = arguments.index.params(base.dims())?;
    let rows = u32::try_from(base.rows())?;
    if let Some(path) = arguments.cache.as_ref().filter(|path| path.exists()) {
        return cache::load(path, params, rows);
    }
    let built = build::build(base, base.rows(), params, 1, arguments.batch)?;
    if let Some(path) = &arguments.cache {
        cache::save(path, &built, rows)?;
    }
    Ok(built)
}

/// All queries once under one filter.
fn run_pass(built: &Built, queries: &[f32], dims: usize, case: &Case, k: u32, ef: u32) -> Point {
    let view = built.writer.view();
    let mut scratch = Scratch::new();
    let mut hits: Vec<Hit> = Vec::new();
    let (mut right, mut wanted, mut ways) = (0, 0, BTreeMap::<Strategy, u64>::new());
    let (mut evaluations, mut glanced, mut hops) = (0, 0, 0);
    let before = thread_cpu_ns();
    for (row, query) in queries.chunks_exact(dims).enumerate() {
        let request = SearchRequest { filter: case.set.as_ref(), ..SearchRequest::new(k, ef) };
        let stats = view.search(&built.directory, query, request, &mut scratch, &mut hits);
        let truth = &case.truth[row * case.truth_width..][..k as usize];
        let truth = &truth[..truth.iter().position(|&row| row < 0).unwrap_or(truth.len())];
        wanted += truth.len();
        right += hits.iter().filter(|hit| truth.contains(&i64::from(hit.slot))).count();
        evaluations += stats.evaluations;
        glanced += stats.glanced;
        hops += stats.hops;
        *ways.entry(stats.strategy).or_default() += 1;
    }
    let seconds = thread_cpu_ns().saturating_sub(before).max(1) as f64 / 1e9;
    let count = (queries.len() / dims) as f64;
    Point {
        ef,
        recall: right as f64 / wanted.max(1) as f64,
        qps: count / seconds,
        evaluations: evaluations as f64 / count,
        glanced: glanced as f64 / count,
        hops: hops as f64 / count,
        ways: ways.into_iter().map(|(way, n)| (way.name(), n as f64 / count)).collect(),
    }
}
