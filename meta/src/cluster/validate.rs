//! What holds in every state, whatever commands made it: the check for states that come from a disk
//! or a peer.

use std::collections::BTreeSet;

use heddle_types::limits::{
    ALIASES_MAX, NODES_MAX, NODES_REMOVED_MAX, RECENT_COMMANDS_MAX, VOTERS_MAX,
};
use heddle_types::schema::check_name;
use heddle_types::{CollectionId, NodeId, ShardId};

use super::node::NodeState;
use super::state::ClusterState;
use crate::catalog::CollectionEntry;
use crate::placement::Placement;

/// A state that no sequence of commands makes. `what` names the part and what does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the cluster's state is inconsistent: {what}")]
pub struct Inconsistency {
    /// The part and what does not hold of it.
    pub what: String,
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Inconsistency> {
    if holds { Ok(()) } else { Err(Inconsistency { what: what() }) }
}

fn at_most(what: &str, found: usize, limit: usize) -> Result<(), Inconsistency> {
    ensure(found <= limit, || format!("{found} {what}, at most {limit} are possible"))
}

impl ClusterState {
    /// Checks everything that holds in every state that commands can make.
    ///
    /// Errors: the first part that does not hold. Cost: one pass over the state.
    pub fn validate(&self) -> Result<(), Inconsistency> {
        let checked = self.catalog.validate();
        checked.map_err(|error| Inconsistency { what: format!("catalog: {error}") })?;
        self.validate_nodes()?;
        self.validate_collections()?;
        self.validate_aliases()?;
        self.validate_recent()
    }

    fn validate_nodes(&self) -> Result<(), Inconsistency> {
        at_most("nodes", self.nodes.len(), NODES_MAX)?;
        at_most("removed nodes", self.removed.len(), NODES_REMOVED_MAX)?;
        let mut names = BTreeSet::new();
        for (id, node) in &self.nodes {
            ensure(node.id == *id, || format!("node {id} calls itself {}", node.id))?;
            let checked = node.validate();
            checked.map_err(|error| Inconsistency { what: format!("node {id}: {error}") })?;
            ensure(names.insert(&node.name), || format!("two nodes are named {}", node.name))?;
            ensure(!self.removed.contains(id), || format!("node {id} was removed"))?;
        }
        let is_voter = |node: &&super::node::NodeRecord| node.state == NodeState::Voter;
        let voters = self.nodes.values().filter(is_voter).count();
        at_most("voters", voters, VOTERS_MAX)?;
        ensure(voters > 0 || self.nodes.is_empty(), || "no node votes".to_owned())
    }

    fn validate_collections(&self) -> Result<(), Inconsistency> {
        for entry in self.catalog.collections() {
            self.validate_collection(entry)?;
        }
        let collections = || self.catalog.collections();
        let ids: BTreeSet<CollectionId> = collections().map(|entry| entry.id).collect();
        let shards: BTreeSet<ShardId> =
            collections().flat_map(|entry| &entry.shards).map(|shard| shard.id).collect();
        let placed = self.replicas.keys().find(|shard| !shards.contains(shard));
        ensure(placed.is_none(), || {
            format!("replicas of a shard that does not exist: {placed:?}")
        })?;
        let ruled = self.rules.keys().find(|id| !ids.contains(id));
        ensure(ruled.is_none(), || format!("rules of a collection that does not exist: {ruled:?}"))
    }

    fn validate_collection(&self, entry: &CollectionEntry) -> Result<(), Inconsistency> {
        let config = &entry.config;
        let name = &config.name;
        if let Some(rules) = self.rules.get(&entry.id) {
            let checked = rules.validate();
            checked.map_err(|error| Inconsistency { what: format!("rules of {name}: {error}") })?;
        }
        if config.multi_tenancy.enabled {
            // The catalog has checked the rest of them.
            let shards = entry.tenants.iter().flat_map(|(_, tenant)| &tenant.shards);
            for shard in shards {
                let factor = config.replication.factor;
                self.validate_replicas(name, shard.id, factor, &shard.replicas)?;
            }
            return Ok(());
        }
        let (count, found) = (config.sharding.count as usize, entry.shards.len());
        ensure(found > 0 && found == count, || format!("{name} has {found} shards, not {count}"))?;
        let owners: BTreeSet<ShardId> = entry.routing.owners().iter().copied().collect();
        let virtual_count = count * config.sharding.virtual_per_physical as usize;
        let in_table = entry.routing.owners().len();
        ensure(in_table == virtual_count, || {
            format!("the table of {name} has {in_table} virtual shards, not {virtual_count}")
        })?;
        for shard in &entry.shards {
            ensure(owners.contains(&shard.id), || {
                format!("shard {} of {name} owns nothing", shard.id)
            })?;
            let replicas = self.replicas(shard.id);
            // The catalog names the first one alone.
            let first = &shard.replicas;
            ensure(replicas.get(..1) == Some(&first[..]), || {
                format!("shard {} of {name} is on {:?} first, not {first:?}", shard.id, replicas)
            })?;
            self.validate_replicas(name, shard.id, config.replication.factor, replicas)?;
        }
        Ok(())
    }

    fn validate_replicas(
        &self,
        name: &str,
        shard: ShardId,
        factor: u32,
        replicas: &[Placement],
    ) -> Result<(), Inconsistency> {
        let found = replicas.len();
        ensure(found == factor as usize, || {
            format!("shard {shard} of {name} has {found} replicas, not {factor}")
        })?;
        let mut nodes: BTreeSet<NodeId> = BTreeSet::new();
        for Placement { node, home } in replicas {
            let cores = self.node(*node).map_or(0, |node| node.data_cores);
            ensure(*home < cores, || {
                format!("shard {shard} of {name} is at home on core {home} of {cores} of {node}")
            })?;
            ensure(nodes.insert(*node), || {
                format!("two replicas of shard {shard} of {name} are on node {node}")
            })?;
        }
        Ok(())
    }

    fn validate_aliases(&self) -> Result<(), Inconsistency> {
        at_most("aliases", self.aliases.len(), ALIASES_MAX)?;
        for (alias, target) in &self.aliases {
            let checked = check_name("alias", alias);
            checked.map_err(|error| Inconsistency { what: error.to_string() })?;
            let is_free = self.catalog.collection(alias).is_none();
            ensure(is_free, || format!("{alias} is an alias and a collection"))?;
            let exists = self.collection(*target).is_some();
            ensure(exists, || format!("alias {alias} means {target}, which does not exist"))?;
        }
        Ok(())
    }

    fn validate_recent(&self) -> Result<(), Inconsistency> {
        at_most("recent commands", self.recent.len(), RECENT_COMMANDS_MAX)?;
        let ids: BTreeSet<_> = self.recent.iter().map(|(id, _)| id).collect();
        ensure(ids.len() == self.recent.len(), || "a recent command stands twice".to_owned())?;
        let epochs: Vec<u64> = self.recent.iter().map(|(_, epoch)| epoch.0).collect();
        let is_rising = epochs.windows(2).all(|pair| pair[0] < pair[1]);
        let last = epochs.last().copied().unwrap_or(0);
        ensure(is_rising && last <= self.epoch().0, || {
            "the epochs of recent commands do not rise to the state's".to_owned()
        })
    }
}
