//! `heddle-bench checksum`: does the graph depend on the number of threads that built it?

use std::path::PathBuf;

use clap::Args;
use heddle_bench::vectors::VectorFile;

use super::{Failure, IndexChoice, build};

/// Arguments of `heddle-bench checksum`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Vectors to index, one per row.
    #[arg(long)]
    base: PathBuf,
    #[command(flatten)]
    choice: IndexChoice,
    /// Numbers of threads to build with, separated by commas; one may be given twice.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    threads: Vec<u16>,
    /// Slots linked together, found against one state of the graph.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Index only the first rows.
    #[arg(long)]
    rows: Option<usize>,
}

/// Prints a line for each number of threads. An error: two graphs differ.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = VectorFile::open(&arguments.base)?;
    let rows = arguments.rows.unwrap_or(usize::MAX).min(base.rows());
    let mut first = None;
    println!("{:>8} {:>9} {:>16}", "threads", "seconds", "checksum");
    for &threads in &arguments.threads {
        let params = arguments.choice.params(base.dims())?;
        let built = build::build(&base, rows, params, threads.into(), arguments.batch)?;
        let sum = built.writer.checksum();
        println!("{threads:>8} {:>9.1} {sum:016x}", built.seconds);
        if *first.get_or_insert(sum) != sum {
            return Err(format!("{threads} threads built another graph").into());
        }
    }
    Ok(())
}
