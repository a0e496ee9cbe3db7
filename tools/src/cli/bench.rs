//! Flags of `heddle bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Connection, at_least_one};

#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    /// Searches: recall, throughput and latency for each ef
    #[command(after_help = "\
Without --rate each connection sends its next query when the last one is answered (closed loop).
With --rate queries are due at fixed times and latency counts from then, so that a stall is charged
to every query it delayed.

Examples:
  heddle bench search Docs --queries query.npy --truth gt.npy --ef 10,20,40,80 --connections 8
  heddle bench search Docs --queries query.npy --truth gt.npy --ef 64 --rate 2000 --json out.json

Searches while rows are written: run `heddle bench ingest` beside it.")]
    Search(BenchSearch),
    /// Durable inserts at a rate: latency of acknowledgements, rows not in the graph yet
    #[command(after_help = "\
Rows get random ids, so nothing that is stored is replaced, and are deleted at the end; --keep
leaves them. An interrupted run leaves them as well, and deleted rows leave tombstones: measure on
a collection that you can drop. With --rate requests are due at fixed times and latency counts
from then; without it each connection sends its next request when the last one is acknowledged.

Examples:
  heddle bench ingest Docs --vectors more.npy --rate 1000 --batch 10 --seconds 20
  heddle bench ingest Docs --vectors base.npy --first 100000 --rate 1000 --seconds 20 --keep &
  heddle bench search Docs --queries query.npy --truth gt.npy --ef 64 --seconds 15")]
    Ingest(BenchIngest),
    /// Durable writes: rows a second and acknowledgement times beside what the disk itself can do
    #[command(after_help = "\
Starts a node of its own for each number of puts in flight, one row a put. The disk is measured in
the same run, with batches as large as those of the log.

Examples:
  heddle bench writes
  heddle bench writes --vectors base.npy --properties base.jsonl.gz --in-flight 1,16,256")]
    Writes(crate::bench::writes::BenchWrites),
    /// Updates and deletions of random rows at a steady rate
    #[command(after_help = "\
Batches are due at fixed times. The rows are those of the file, under the ids of an import of it.

Example:
  heddle bench churn Docs --vectors base.npy --rate 2000 --seconds 60 --json -")]
    Churn(BenchChurn),
    /// Tenants: how fast they are created, filled, searched, deactivated, activated and deleted
    #[command(after_help = "\
Examples:
  heddle collection create Shops --dims 128 --tenants
  heddle bench tenants Shops --tenants 10000 --rows 100
  heddle bench tenants Shops --tenants 10000 --steps deactivate,activate,search --json")]
    Tenants(crate::bench::tenants::BenchTenants),
}

#[derive(Args, Debug)]
pub(crate) struct BenchIngest {
    /// Name of the collection
    pub(crate) name: String,
    /// Vectors to insert: .npy, .fvecs or .bvecs
    #[arg(long, value_name = "FILE")]
    pub(crate) vectors: PathBuf,
    /// Row of the file to begin with
    #[arg(long, value_name = "ROW", default_value_t = 0)]
    pub(crate) first: u64,
    /// Rows a second, over all connections [default: as fast as they are acknowledged]
    #[arg(long, value_name = "ROWS")]
    pub(crate) rate: Option<f64>,
    /// Time of the measurement; it ends earlier with the rows of the file
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Rows of one request
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) batch: usize,
    /// Connections, one request on its way on each
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) connections: usize,
    /// Leave the rows in the collection
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Write the report as JSON to this file; `-` is standard output
    #[arg(long, value_name = "OUT")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BenchChurn {
    /// Name of the collection
    pub(crate) name: String,
    /// Vectors: .npy, .fvecs or .bvecs
    #[arg(long, value_name = "FILE")]
    pub(crate) vectors: PathBuf,
    /// Operations a second
    #[arg(long, value_name = "RATE")]
    pub(crate) rate: f64,
    /// Share of the operations that delete
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    pub(crate) delete_share: f64,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub(crate) seconds: f64,
    /// Operations of one request
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) batch: usize,
    /// Decides which rows are written and deleted
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Write the report as JSON to this file; `-` is standard output
    #[arg(long, value_name = "OUT")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BenchSearch {
    /// Name of the collection
    pub(crate) name: String,
    /// Queries: .npy, .fvecs or .bvecs
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: PathBuf,
    /// Row numbers of the true neighbours, nearest first: i32 .npy or .ivecs
    #[arg(long, value_name = "FILE")]
    pub(crate) truth: PathBuf,
    /// Neighbours to find and to compare
    #[arg(short, long, value_name = "N", default_value_t = 10, value_parser = at_least_one())]
    pub(crate) k: u32,
    /// Candidates to keep, one measurement each; values below k count as k
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "10,20,40,80,160")]
    pub(crate) ef: Vec<u32>,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) connections: usize,
    /// Queries on their way on each connection
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) in_flight: usize,
    /// Queries a second, over all connections [default: as fast as they are answered]
    #[arg(long, value_name = "QPS")]
    pub(crate) rate: Option<f64>,
    /// Shortest time of each measurement; every query runs at least once
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Connect to: any = the shared port, core = each data core's own port in turn
    #[arg(long, value_enum, default_value_t = Spread::Core)]
    pub(crate) spread: Spread,
    /// Only objects that pass; the truth must be under the same filter
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) filter: Option<String>,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Write the rows as JSON to this file; `-` is standard output
    #[arg(long, value_name = "OUT")]
    pub(crate) json: Option<PathBuf>,
}

/// Where benchmark connections go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Spread {
    /// The shared port; the kernel picks the core.
    Any,
    /// The ports of the data cores in turn.
    Core,
}
