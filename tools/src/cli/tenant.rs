//! Arguments of the commands about tenants.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Connection;

#[derive(Subcommand, Debug)]
pub(crate) enum Tenant {
    /// Create tenants; those that exist stay as they are
    #[command(after_help = "\
Examples:
  heddle tenant create Shops acme globex
  heddle tenant create Shops --file names.txt --inactive
  seq -f 'shop-%05g' 1 10000 | heddle tenant create Shops --file -")]
    Create {
        #[command(flatten)]
        tenants: Tenants,
        /// They wait on disk until they are activated
        #[arg(long)]
        inactive: bool,
    },
    /// List tenants by name
    #[command(after_help = "\
Examples:
  heddle tenant list Shops
  heddle tenant list Shops --after shop-05000 --limit 100
  heddle tenant list Shops --all --json | jq -r '.tenants[].name'")]
    List(TenantList),
    /// Show the state of tenants, their shards, and the nodes that hold them
    #[command(after_help = "\
Examples:
  heddle tenant show Shops acme
  heddle tenant show Shops acme globex --json")]
    Show(Tenants),
    /// Load tenants into memory, so that they take requests
    #[command(after_help = "\
Examples:
  heddle tenant activate Shops acme
  heddle tenant activate Shops --file names.txt")]
    Activate(Tenants),
    /// Write tenants to disk and give their memory back
    #[command(after_help = "\
Examples:
  heddle tenant deactivate Shops acme globex
  heddle tenant list Shops --all --json | jq -r '.tenants[].name' |
      heddle tenant deactivate Shops --file -")]
    Deactivate(Tenants),
    /// Delete tenants and everything in them
    #[command(after_help = "\
Examples:
  heddle tenant delete Shops acme --yes
  heddle tenant delete Shops --file names.txt --yes --json")]
    Delete {
        #[command(flatten)]
        tenants: Tenants,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Tenants of a collection, by name.
#[derive(Args, Debug)]
pub(crate) struct Tenants {
    /// Name of the collection
    pub(crate) collection: String,
    /// Names of tenants
    #[arg(value_name = "TENANT", required_unless_present = "file")]
    pub(crate) names: Vec<String>,
    /// More names, one a line; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TenantList {
    /// Name of the collection
    pub(crate) collection: String,
    /// Only those behind this name
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) after: String,
    /// Most tenants to list
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all")]
    pub(crate) limit: u32,
    /// List all of them
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
