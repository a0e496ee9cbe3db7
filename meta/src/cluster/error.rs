//! Why a change of the cluster's state was refused.

use heddle_types::{ApiError, CollectionId, ErrorCode, NodeId, ShardId};
use serde::{Deserialize, Serialize};

use super::command::REQUEST_BYTES_MAX;
use crate::catalog::CatalogError;

/// Why a change was refused. The state is unchanged, and the same change is refused again until
/// something else has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClusterError {
    /// A definition, a node or a name breaks a rule, or the catalog of collections refuses.
    #[error(transparent)]
    Invalid(#[from] ApiError),
    /// The change is larger than the log can hold.
    #[error("a change of {found} bytes is above the limit {REQUEST_BYTES_MAX}")]
    RequestTooLarge {
        /// Its size.
        found: usize,
    },
    /// With this collection the state would be larger than a snapshot can hold.
    #[error("the cluster's state would have {found} bytes, at most {limit} are possible")]
    StateTooLarge {
        /// Its size with the collection.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A node of that identity is or was part of the cluster.
    #[error("node {node} is or was part of the cluster")]
    NodeKnown {
        /// The identity.
        node: NodeId,
    },
    /// Another node has that name.
    #[error("the name {name} belongs to another node")]
    NodeName {
        /// The name.
        name: String,
    },
    /// No such node.
    #[error("node {node} is not part of the cluster")]
    UnknownNode {
        /// The identity asked for.
        node: NodeId,
    },
    /// A limit of the cluster is reached.
    #[error("there are {limit} {what} already")]
    TooMany {
        /// What there are so many of.
        what: Counted,
        /// The limit.
        limit: usize,
    },
    /// Without this node nobody could vote.
    #[error("node {node} would leave the cluster without a voter")]
    LastVoter {
        /// The node.
        node: NodeId,
    },
    /// The node still takes part.
    #[error("node {node} is not draining")]
    NotDraining {
        /// The node.
        node: NodeId,
    },
    /// The node still holds data.
    #[error("node {node} holds {shards} replicas")]
    HoldsReplicas {
        /// The node.
        node: NodeId,
        /// Replicas it holds.
        shards: usize,
    },
    /// A catalog can only be brought into a cluster that never had a collection.
    #[error("the cluster has or had collections: another catalog cannot be brought in")]
    HasCollections,
    /// Collections that a node had while it was alone come in before any other is made.
    #[error("node {node} has yet to bring in the collections that it had while it was alone")]
    BringsFirst {
        /// The node.
        node: NodeId,
    },
    /// The identity belongs to another collection.
    #[error("collection {collection} exists already")]
    CollectionKnown {
        /// The identity.
        collection: CollectionId,
    },
    /// No such collection.
    #[error("collection {collection} does not exist")]
    UnknownCollection {
        /// The identity asked for.
        collection: CollectionId,
    },
    /// The name is an alias or a collection already.
    #[error("the name {name} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No such alias.
    #[error("alias {alias} does not exist")]
    UnknownAlias {
        /// The name asked for.
        alias: String,
    },
    /// Placements for another number of shards than the definition has.
    #[error("{found} shards are placed, the definition has {expected}")]
    ShardCount {
        /// Shards placed.
        found: usize,
        /// Shards of the definition.
        expected: u32,
    },
    /// A shard with another number of replicas than the definition asks for.
    #[error("shard {index} has {found} replicas, the definition asks for {expected}")]
    ReplicaCount {
        /// Position of the shard.
        index: usize,
        /// Replicas placed.
        found: usize,
        /// The replication factor.
        expected: u32,
    },
    /// Two replicas of a shard on one node.
    #[error("two replicas of shard {index} are on node {node}")]
    SameNode {
        /// Position of the shard.
        index: usize,
        /// The node.
        node: NodeId,
    },
    /// A node that takes no new replica.
    #[error("node {node} is draining and takes no replica")]
    Draining {
        /// The node.
        node: NodeId,
    },
    /// The node has no such core.
    #[error("node {node} has {cores} data cores, not one of number {home}")]
    NoSuchCore {
        /// The node.
        node: NodeId,
        /// The core asked for.
        home: u32,
        /// Its data cores.
        cores: u32,
    },
    /// No replica of that shard on that node.
    #[error("node {node} holds no replica of shard {shard}")]
    NoReplica {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
}

/// What a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Nodes of the cluster.
    Nodes,
    /// Nodes that vote.
    Voters,
    /// Nodes that left.
    RemovedNodes,
    /// Other names of collections.
    Aliases,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nodes => "nodes",
            Self::Voters => "voters",
            Self::RemovedNodes => "removed nodes",
            Self::Aliases => "aliases",
        })
    }
}

impl From<CatalogError> for ClusterError {
    fn from(error: CatalogError) -> Self {
        Self::Invalid(error.into())
    }
}

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> Self {
        let (code, expected) = match &error {
            ClusterError::Invalid(inner) => return inner.clone(),
            ClusterError::RequestTooLarge { .. } | ClusterError::StateTooLarge { .. } => {
                (ErrorCode::TooLarge, "a smaller definition")
            }
            ClusterError::TooMany { .. } => (ErrorCode::TooLarge, "fewer"),
            ClusterError::NodeKnown { .. } => {
                (ErrorCode::InvalidArgument, "a node with an id of its own")
            }
            ClusterError::NodeName { .. } => (ErrorCode::InvalidName, "a name of its own"),
            ClusterError::UnknownNode { .. } => {
                (ErrorCode::InvalidArgument, "a node of the cluster")
            }
            ClusterError::LastVoter { .. } => (ErrorCode::InvalidArgument, "another voter first"),
            ClusterError::NotDraining { .. } => {
                (ErrorCode::InvalidArgument, "a node that was drained")
            }
            ClusterError::HoldsReplicas { .. } => {
                (ErrorCode::InvalidArgument, "a node without replicas")
            }
            ClusterError::CollectionKnown { .. } => {
                (ErrorCode::CollectionExists, "a new collection")
            }
            ClusterError::HasCollections => {
                (ErrorCode::InvalidArgument, "a cluster that never had a collection")
            }
            ClusterError::BringsFirst { .. } => {
                return Self::transient(ErrorCode::Unavailable, error.to_string());
            }
            ClusterError::NameTaken { .. } => (ErrorCode::CollectionExists, "a name that is free"),
            ClusterError::UnknownCollection { .. } => {
                (ErrorCode::UnknownCollection, "an existing collection")
            }
            ClusterError::UnknownAlias { .. } => {
                (ErrorCode::UnknownCollection, "an existing alias")
            }
            ClusterError::ShardCount { .. }
            | ClusterError::ReplicaCount { .. }
            | ClusterError::SameNode { .. }
            | ClusterError::NoSuchCore { .. } => (ErrorCode::Internal, ""),
            // The placement was decided on an older state.
            ClusterError::Draining { .. } | ClusterError::NoReplica { .. } => {
                return Self::transient(ErrorCode::StaleEpoch, error.to_string());
            }
        };
        Self::new(code, error.to_string(), expected)
    }
}
