//! Arguments of the commands about a cluster and its nodes.

use clap::{Args, Subcommand};

use super::Connection;

#[derive(Subcommand, Debug)]
pub(crate) enum Cluster {
    /// Who leads, how far each node is, and what they agree on
    #[command(after_help = "\
Examples:
  heddle cluster status
  heddle cluster status --json | jq .hash")]
    Status(ClusterView),
    /// Every node: where it is, what part it has, how busy it is
    #[command(after_help = "\
Example:
  heddle cluster nodes")]
    Nodes(ClusterView),
    /// Every shard: on which node and core it lives
    #[command(after_help = "\
Example:
  heddle cluster shards --json | jq '.[] | select(.node == \"db-3\")'")]
    Shards(ClusterView),
    /// The name of the node that leads
    #[command(after_help = "\
Example:
  heddle cluster leader --address db-1:7700")]
    Leader(ClusterView),
}

#[derive(Args, Debug)]
pub(crate) struct ClusterView {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Node {
    /// Give a node no new shards and no vote: the first step of leaving
    #[command(after_help = "\
Example:
  heddle node drain db-3")]
    Drain(NodeChange),
    /// Take a drain back
    #[command(after_help = "\
Example:
  heddle node keep db-3")]
    Keep(NodeChange),
    /// Remove a drained node without shards; its data directory never comes back
    #[command(after_help = "\
Example:
  heddle node drain db-3 && heddle node remove db-3")]
    Remove(NodeChange),
}

#[derive(Args, Debug)]
pub(crate) struct NodeChange {
    /// Its name or its id
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
