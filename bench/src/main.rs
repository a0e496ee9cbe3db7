//! Benchmark suite of Heddle.

fn main() {}
