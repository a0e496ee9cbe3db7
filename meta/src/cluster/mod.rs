//! The state of a cluster as every node agrees on it: nodes, collections, where the replicas of
//! each shard live, aliases.
//!
//! [`ClusterState`] is a deterministic state machine. It reads no clock and draws no random number:
//! ids, seeds and placements are decided before a command is made and travel inside it. Equal
//! commands in equal order give states with equal [`ClusterState::hash`] on every node.

mod assembly;
mod command;
mod duties;
mod encode;
mod error;
mod node;
pub mod placement;
mod state;
#[cfg(test)]
mod testing;
mod validate;

pub use heddle_types::placement::{Labels, PlacementRules, check_labels};

pub use assembly::{Assembly, CALM, Step, Word};
pub use command::{ClusterCommand, CommandId, NewCollection, Outcome, REQUEST_BYTES_MAX, Request};
pub use duties::{Duty, Group, Health, next_duty};
pub use encode::{CLUSTER_BYTES_MAX, DecodeError, EncodeError};
pub use error::{ClusterError, Counted};
pub use node::{Addresses, NodeRecord, NodeState, ZONE_LABEL, check_node_name};
pub use placement::{CoreUse, NodeLoad, PlacementError, Wanted, place_replicas};
pub use state::ClusterState;
pub use validate::Inconsistency;
