//! Benchmark suite of Heddle.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command reports on its terminal")]

mod churn;
mod filters;
mod index;
mod kernels;
mod memory;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Benchmarks of Heddle's parts.
#[derive(Parser)]
#[command(name = "heddle-bench", version)]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// The vector index in this process, without a server: build, recall, queries per second.
    Index(index::Arguments),
    /// Builds with several numbers of threads and compares the graphs.
    Checksum(index::checksum::Arguments),
    /// Filtered searches: strategy, recall and rate beside searches without a filter.
    Filters(filters::Arguments),
    /// Rows replaced again and again: recall and bytes beside an index built afresh.
    Churn(churn::Arguments),
    /// Nanoseconds of every kernel: distances, planes, queries, rotation.
    Kernels(kernels::Arguments),
    /// The machine's memory: nanoseconds per random cache line, gigabytes per second in order.
    Memory(memory::Arguments),
}

/// Most that the kernels may use, as for a node.
const KERNELS_VARIABLE: &str = "HEDDLE_KERNELS";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kernels = std::env::var(KERNELS_VARIABLE);
    if let Err(error) = kernels.as_deref().map_or(Ok(()), heddle_index::limit_kernels) {
        eprintln!("heddle-bench: {KERNELS_VARIABLE}: {error}");
        return ExitCode::FAILURE;
    }
    let done = match arguments.benchmark {
        Benchmark::Index(arguments) => index::run(&arguments),
        Benchmark::Checksum(arguments) => index::checksum::run(&arguments),
        Benchmark::Filters(arguments) => filters::run(&arguments),
        Benchmark::Churn(arguments) => churn::run(&arguments),
        Benchmark::Kernels(arguments) => kernels::run(&arguments),
        Benchmark::Memory(arguments) => memory::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heddle-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
