//! `heddle-bench churn`: replaces every row of an index again and again, with searches in between,
//! and compares what is left with an index that is built afresh from the same rows.

mod shard;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use heddle_bench::vectors::VectorFile;
use heddle_index::{IndexKind, IndexParams};
use serde::Serialize;

use crate::index::{Failure, IndexChoice};
use shard::{Shard, Slowest};

/// Arguments of `heddle-bench churn`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Vectors that take turns in the index, one per row.
    #[arg(long)]
    base: PathBuf,
    /// Query vectors, one per row.
    #[arg(long)]
    queries: PathBuf,
    #[command(flatten)]
    index: IndexChoice,
    /// Rows that are live at a time; the other rows of the file replace them.
    #[arg(long, default_value_t = 20_000)]
    live: usize,
    /// How often every live row is replaced.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Which rows leave together.
    #[arg(long, value_enum, default_value = "random")]
    pattern: Pattern,
    /// Rows replaced between two looks at the sweep.
    #[arg(long, default_value_t = 256)]
    step: usize,
    /// Slots whose candidates are found against one state of the graph.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Candidate pools to compare, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "16,32,64,128")]
    ef: Vec<u32>,
    /// Neighbours wanted.
    #[arg(long, default_value_t = 10)]
    k: u32,
    /// Use only the first queries.
    #[arg(long, default_value_t = 1_000)]
    query_limit: usize,
    /// Seeds the order in which rows leave; printed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Which rows leave together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pattern {
    /// Any rows, replaced by any others.
    Random,
    /// The rows nearest to a random one, each replaced by itself: a region is updated in place.
    Region,
    /// Nine rows in ten leave, then as many others come.
    Tide,
    /// All rows leave and are swept away, then as many others come.
    Empty,
}

/// One index at the end, churned or fresh.
#[derive(Serialize)]
struct State {
    recall: BTreeMap<u32, f64>,
    evaluations: BTreeMap<u32, f64>,
    used_bytes_per_row: f64,
    committed_bytes_per_row: f64,
    unreachable: u32,
    degrees: Vec<u32>,
    in_degrees: Vec<u32>,
}

/// The figures of one run.
#[derive(Serialize)]
struct Report {
    pattern: String,
    rows: usize,
    replaced: usize,
    seed: u64,
    insert_cpu_seconds: f64,
    sweep_cpu_seconds: f64,
    sweep_evaluations_per_row: f64,
    sweep_step: Slowest,
    searches: u64,
    churned: State,
    fresh: State,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = VectorFile::open(&arguments.base)?;
    let queries = VectorFile::open(&arguments.queries)?;
    let dims = base.dims();
    if queries.dims() != dims {
        return Err(format!("queries have {} components, base {dims}", queries.dims()).into());
    }
    let live = arguments.live.min(base.rows());
    if live < 2 || arguments.step == 0 {
        return Err("at least two live rows and one row a step are needed".into());
    }
    let rows = base.read_all()?;
    let mut asked = Vec::new();
    queries.read_rows(0, arguments.query_limit.min(queries.rows()), &mut asked)?;
    println!("seed {}", arguments.seed);
    let params = IndexParams { flat_cutoff: 0, ..arguments.index.params(dims)? };
    let mut shard = Shard::new(params.clone(), &rows, arguments.batch, arguments.seed)?;
    for row in 0..live {
        shard.insert(row)?;
    }
    shard.link()?;
    shard.begin_measuring();
    let wanted = live * arguments.rounds;
    let mut searched = asked.chunks_exact(dims).cycle();
    while shard.replaced < wanted {
        replace(&mut shard, arguments, live)?;
        for query in searched.by_ref().take(4) {
            shard.search(query, arguments.k, 64);
        }
    }
    shard.sweep_all()?;
    let members = shard.members();
    let mut fresh = Shard::new(params.clone(), &rows, arguments.batch, arguments.seed)?;
    for &row in &members {
        fresh.insert(row)?;
    }
    fresh.link()?;
    let truth = truth(&params, &rows, &members, &asked, arguments)?;
    let report = Report {
        pattern: format!("{:?}", arguments.pattern).to_lowercase(),
        rows: members.len(),
        replaced: shard.replaced,
        seed: arguments.seed,
        insert_cpu_seconds: shard.insert_seconds,
        sweep_cpu_seconds: shard.sweep_seconds,
        sweep_evaluations_per_row: shard.sweep_evaluations as f64 / shard.replaced.max(1) as f64,
        sweep_step: shard.slowest,
        searches: shard.searches,
        churned: state(&mut shard, arguments, &asked, &truth),
        fresh: state(&mut fresh, arguments, &asked, &truth),
    };
    print(&report);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

/// Replaces some rows as the pattern says.
fn replace(shard: &mut Shard<'_>, arguments: &Arguments, live: usize) -> Result<(), Failure> {
    match arguments.pattern {
        Pattern::Random => {
            let leaving = shard.any_members(arguments.step.min(live));
            let coming = shard.any_others(leaving.len());
            shard.exchange(&leaving, &coming)
        }
        Pattern::Region => {
            let region = shard.region(arguments.step.min(live));
            shard.exchange(&region, &region)
        }
        Pattern::Tide | Pattern::Empty => {
            let share = if arguments.pattern == Pattern::Tide { live * 9 / 10 } else { live };
            let leaving = shard.any_members(share);
            for part in leaving.chunks(arguments.step) {
                shard.exchange(part, &[])?;
            }
            if arguments.pattern == Pattern::Empty {
                shard.sweep_all()?;
            }
            let coming = shard.any_others(share);
            for part in coming.chunks(arguments.step) {
                shard.exchange(&[], part)?;
            }
            Ok(())
        }
    }
}

/// The true neighbours of each query among the members, as row numbers.
fn truth(
    params: &IndexParams,
    rows: &[f32],
    members: &[usize],
    queries: &[f32],
    arguments: &Arguments,
) -> Result<Vec<Vec<usize>>, Failure> {
    let flat = IndexParams { kind: IndexKind::Flat, ..params.clone() };
    let mut exact = Shard::new(flat, rows, arguments.batch, arguments.seed)?;
    for &row in members {
        exact.insert(row)?;
    }
    let dims = params.dims as usize;
    Ok(queries.chunks_exact(dims).map(|query| exact.found(query, arguments.k, 1).0).collect())
}

fn state(
    shard: &mut Shard<'_>,
    arguments: &Arguments,
    queries: &[f32],
    truth: &[Vec<usize>],
) -> State {
    let (mut recall, mut evaluations) = (BTreeMap::new(), BTreeMap::new());
    for &ef in &arguments.ef {
        let (mut right, mut wanted, mut work) = (0, 0, 0);
        for (query, truth) in queries.chunks_exact(queries.len() / truth.len()).zip(truth) {
            let (found, stats) = shard.found(query, arguments.k, ef);
            right += found.iter().filter(|row| truth.contains(row)).count();
            wanted += truth.len();
            work += stats.evaluations;
        }
        recall.insert(ef, right as f64 / wanted.max(1) as f64);
        evaluations.insert(ef, work as f64 / truth.len().max(1) as f64);
    }
    let view = shard.writer.view();
    let (stats, graph) = (view.stats(), view.graph_stats());
    let committed = stats.vector_bytes + stats.link_bytes + stats.upper_bytes + stats.set_bytes;
    let live = shard.members().len().max(1) as f64;
    State {
        recall,
        evaluations,
        used_bytes_per_row: stats.used_bytes as f64 / live,
        committed_bytes_per_row: committed as f64 / live,
        unreachable: graph.unreachable,
        degrees: graph.degrees,
        in_degrees: graph.in_degrees,
    }
}

fn print(report: &Report) {
    let Report { churned, fresh, sweep_step, .. } = report;
    println!("{} of {} rows replaced, pattern {}", report.replaced, report.rows, report.pattern);
    println!(
        "inserts {:.1} s, sweeps {:.1} s of CPU; {:.0} distances a row swept; a step at most {} \
         distances, {:.0} us (99 of 100 below {:.0} us)",
        report.insert_cpu_seconds,
        report.sweep_cpu_seconds,
        report.sweep_evaluations_per_row,
        sweep_step.evaluations,
        sweep_step.max_us,
        sweep_step.p99_us
    );
    println!("{:>24} {:>10} {:>10} {:>10}", "", "churned", "fresh", "difference");
    let line = |name: String, left: f64, right: f64, digits: usize| {
        let difference = left - right;
        println!("{name:>24} {left:>10.digits$} {right:>10.digits$} {difference:>+10.digits$}");
    };
    for (ef, recall) in &churned.recall {
        line(format!("recall, ef {ef}"), *recall, fresh.recall[ef], 4);
        line(format!("distances, ef {ef}"), churned.evaluations[ef], fresh.evaluations[ef], 0);
    }
    line("bytes a row".into(), churned.used_bytes_per_row, fresh.used_bytes_per_row, 0);
    let (left, right) = (churned.committed_bytes_per_row, fresh.committed_bytes_per_row);
    line("committed bytes a row".into(), left, right, 0);
    line("unreachable".into(), churned.unreachable.into(), fresh.unreachable.into(), 0);
    let mean = |classes: &[u32]| {
        let sum: f64 = classes.iter().zip(0u32..).map(|(&n, i)| f64::from(n) * f64::from(i)).sum();
        sum / classes.iter().map(|&n| f64::from(n)).sum::<f64>().max(1.0)
    };
    line("mean degree".into(), mean(&churned.degrees), mean(&fresh.degrees), 1);
    println!("degrees of the churned graph, by 4: {}", histogram(&churned.degrees));
    println!("degrees of the fresh graph, by 4:   {}", histogram(&fresh.degrees));
    println!("links that lead to a row, churned:  {}", histogram(&churned.in_degrees));
    println!("links that lead to a row, fresh:    {}", histogram(&fresh.in_degrees));
}

/// Sums of four classes each.
fn histogram(classes: &[u32]) -> String {
    let sums: Vec<String> =
        classes.chunks(4).map(|part| part.iter().sum::<u32>().to_string()).collect();
    sums.join(" ")
}
