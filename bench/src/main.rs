//! Benchmark suite of Heddle.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command reports on its terminal")]

mod index;

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
}

fn main() -> ExitCode {
    let Arguments { benchmark: Benchmark::Index(arguments) } = Arguments::parse();
    match index::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heddle-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
