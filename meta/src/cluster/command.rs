//! Changes of the cluster's state.

use std::fmt;

use heddle_types::{
    CollectionConfig, CollectionId, Epoch, NodeId, Quantization, RawVectors, ShardId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::ClusterError;
use super::node::{Addresses, NodeRecord, NodeState};
use super::{Labels, PlacementRules};
use crate::catalog::{Catalog, NewTenant};
use crate::placement::Placement;
use crate::tenants::TenantState;

/// Identity of a change: every attempt at the same change carries the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(pub Uuid);

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Largest encoded change (8 MiB): it has to fit one log record and one message with room to spare.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

/// A change with its identity.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    id: CommandId,
    command: ClusterCommand,
}

impl Request {
    /// A change to propose.
    ///
    /// Errors: [`ClusterError::RequestTooLarge`] when its encoded form is above
    /// [`REQUEST_BYTES_MAX`]: the log could not hold it. Cost: one encoding.
    pub fn new(id: CommandId, command: ClusterCommand) -> Result<Self, ClusterError> {
        let request = Self { id, command };
        let found = request.encode().len();
        if found > REQUEST_BYTES_MAX {
            return Err(ClusterError::RequestTooLarge { found });
        }
        Ok(request)
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> CommandId {
        self.id
    }

    /// What it changes.
    #[must_use]
    pub fn command(&self) -> &ClusterCommand {
        &self.command
    }

    /// The stored form: JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a request has string keys only")
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.command.name(), self.id)
    }
}

/// A collection to create, with everything that was decided about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCollection {
    /// The definition, defaults filled and the number of shards settled.
    pub config: CollectionConfig,
    /// A fresh identity.
    pub id: CollectionId,
    /// A fresh seed of graph levels and codes.
    pub seed: u64,
    /// What it asks of the nodes that hold it.
    #[serde(default, skip_serializing_if = "PlacementRules::is_empty")]
    pub rules: PlacementRules,
    /// For each shard its replicas, as many as the definition's replication factor.
    pub replicas: Vec<Vec<Placement>>,
}

/// A change of the cluster's state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ClusterCommand {
    /// A node that was not part of the cluster before.
    AddNode(NodeRecord),
    /// A node moved or was described anew.
    DescribeNode {
        /// The node.
        node: NodeId,
        /// Where it is reached from now on.
        addresses: Addresses,
        /// All its labels from now on.
        labels: Labels,
        /// Its data cores from now on: no replica may be at home on another one.
        data_cores: u32,
    },
    /// A node that was alone before brings its collections into a cluster that has none yet.
    AdoptCatalog {
        /// The node that holds all their shards.
        node: NodeId,
        /// The collections.
        catalog: Box<Catalog>,
    },
    /// A node votes, only follows, or is on its way out from now on.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Its part from now on.
        state: NodeState,
    },
    /// A drained node leaves for good; its identity never comes back.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// A collection with its shards and their replicas.
    CreateCollection(Box<NewCollection>),
    /// A collection goes, with its aliases. By identity: a late retry cannot hit a successor of the
    /// same name.
    DropCollection {
        /// The collection.
        collection: CollectionId,
    },
    /// Fixes the dimension of a vector that was declared without one, and what was left to follow
    /// from it.
    FixDims {
        /// The collection.
        collection: CollectionId,
        /// The vector's name.
        vector: String,
        /// Its dimension from now on.
        dims: u32,
        /// Its quantization, if none was declared.
        quantization: Quantization,
        /// Where it rests as given, if that was not declared.
        raw: RawVectors,
    },
    /// Moves the home of a replica to another core of its node.
    MoveHome {
        /// The shard.
        shard: ShardId,
        /// The node whose replica it is.
        node: NodeId,
        /// The new home core.
        home: u32,
    },
    /// Adds tenants to a collection; those that exist stay as they are.
    AddTenants {
        /// The collection.
        collection: CollectionId,
        /// Their state.
        state: TenantState,
        /// The tenants, each once, and where their shards go.
        tenants: Vec<NewTenant>,
    },
    /// Activates or deactivates tenants, which all exist.
    SetTenants {
        /// The collection.
        collection: CollectionId,
        /// Their state from now on.
        state: TenantState,
        /// The tenants, each once.
        names: Vec<String>,
    },
    /// Removes tenants with everything in them; those that do not exist are passed over.
    RemoveTenants {
        /// The collection.
        collection: CollectionId,
        /// The tenants, each once.
        names: Vec<String>,
    },
    /// Gives a collection another name, or moves that name over from another collection.
    SetAlias {
        /// The other name.
        alias: String,
        /// The collection it means from now on.
        collection: CollectionId,
    },
    /// Takes a name away again.
    DropAlias {
        /// The name.
        alias: String,
    },
}

impl ClusterCommand {
    /// What kind of change it is, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AddNode(_) => "add_node",
            Self::DescribeNode { .. } => "describe_node",
            Self::AdoptCatalog { .. } => "adopt_catalog",
            Self::SetNodeState { .. } => "set_node_state",
            Self::RemoveNode { .. } => "remove_node",
            Self::CreateCollection(_) => "create_collection",
            Self::DropCollection { .. } => "drop_collection",
            Self::FixDims { .. } => "fix_dims",
            Self::MoveHome { .. } => "move_home",
            Self::AddTenants { .. } => "add_tenants",
            Self::SetTenants { .. } => "set_tenants",
            Self::RemoveTenants { .. } => "remove_tenants",
            Self::SetAlias { .. } => "set_alias",
            Self::DropAlias { .. } => "drop_alias",
        }
    }
}

/// What became of a change that was not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was applied and made this epoch.
    Applied(Epoch),
    /// It had been applied before, and made this epoch then; nothing changed now.
    Repeated(Epoch),
}

impl Outcome {
    /// The epoch that the change made.
    #[must_use]
    pub fn epoch(self) -> Epoch {
        match self {
            Self::Applied(epoch) | Self::Repeated(epoch) => epoch,
        }
    }
}
