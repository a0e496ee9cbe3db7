//! Arguments of the commands about a node as a whole.

use std::path::PathBuf;

use clap::Args;
use heddle_types::{Quantization, RawVectors};

use super::{Connection, quantization, raw_vectors};

#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CrashTest {
    /// Rounds of import, kill and check
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) rounds: u32,
    /// Vectors to import [default: the demo data]
    #[arg(long, value_name = "FILE")]
    pub(crate) vectors: Option<PathBuf>,
    /// Their properties
    #[arg(long, value_name = "FILE", requires = "vectors")]
    pub(crate) properties: Option<PathBuf>,
    /// Seed of the moments and rows [default: from the clock, printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Connections that put, update, delete and search at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) connections: usize,
    /// Data cores; 0 takes every CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) cores: usize,
    /// Quantization of the collection [default: none]
    #[arg(long, value_name = "CODES", value_parser = quantization)]
    pub(crate) quantization: Option<Quantization>,
    /// Where its vectors rest as given, memory or disk [default: follows from the quantization]
    #[arg(long, value_name = "PLACE", value_parser = raw_vectors)]
    pub(crate) raw: Option<RawVectors>,
    /// Longest life of a node in one round
    #[arg(long, value_name = "MS", default_value_t = 1500)]
    pub(crate) life_ms: u64,
    /// Folder for the node's data [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// Directory to write; new or empty
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Go on without shards that are damaged; the backup says which are missing
    #[arg(long)]
    pub(crate) leave_out_damaged: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// Directory of the backup
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Data directory to make; new or empty
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Shards that every collection has from now on [default: as many as it had]
    #[arg(long, value_name = "N", requires = "data_dir")]
    pub(crate) shards: Option<u32>,
    /// Restore a backup that lacks shards; they are empty from now on
    #[arg(long, requires = "data_dir")]
    pub(crate) allow_missing: bool,
    /// Only check every file of the backup
    #[arg(long, conflicts_with = "data_dir")]
    pub(crate) check: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
