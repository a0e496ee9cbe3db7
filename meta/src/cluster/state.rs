//! The state machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use heddle_types::limits::{
    ALIASES_MAX, NODES_MAX, NODES_REMOVED_MAX, RECENT_COMMANDS_MAX, VOTERS_MAX,
};
use heddle_types::schema::check_name;
use heddle_types::{ApiError, ClusterId, CollectionId, Epoch, ErrorCode, NodeId, ShardId};
use serde::{Deserialize, Serialize};

use super::PlacementRules;
use super::command::{ClusterCommand, CommandId, NewCollection, Outcome, Request};
use super::encode::CREATE_BYTES_MAX;
use super::error::{ClusterError, Counted};
use super::node::{NodeRecord, NodeState};
use super::validate::Inconsistency;
use crate::catalog::{Catalog, CollectionEntry, Command, ShardEntry};
use crate::placement::Placement;

/// Everything the cluster agrees on.
///
/// The collections are the [`Catalog`] that a single node has as well; a shard's first replica is
/// the one it names. Beside it stand what only a cluster has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterState {
    // None before the first change, and in a state of before there were such identities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<ClusterId>,
    pub(super) catalog: Catalog,
    pub(super) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(super) removed: BTreeSet<NodeId>,
    pub(super) replicas: BTreeMap<ShardId, Vec<Placement>>,
    pub(super) rules: BTreeMap<CollectionId, PlacementRules>,
    pub(super) aliases: BTreeMap<String, CollectionId>,
    // The latest applied changes, oldest first, each with the epoch it made.
    pub(super) recent: VecDeque<(CommandId, Epoch)>,
}

impl ClusterState {
    /// Version of the state: every change adds one.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.catalog.epoch()
    }

    /// Identity of the cluster: that of its first change, which is random; none before that, and
    /// none for ever when that was made before clusters had identities.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The collections, each with its shards and routing table.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The collections with all replicas of their shards, as a node stores them.
    #[must_use]
    pub fn whole_catalog(&self) -> Catalog {
        self.catalog.clone().with_replicas(|shard| self.replicas(shard))
    }

    /// The nodes, by identity.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// Did a node of that identity leave for good?
    #[must_use]
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// The node of an identity.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node)
    }

    /// The replicas of a shard, none when there is no such shard.
    #[must_use]
    pub fn replicas(&self, shard: ShardId) -> &[Placement] {
        self.replicas.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// The replicas of shards, tenants' ones not included, that a node holds. Cost: one pass over
    /// all.
    pub fn places_of(&self, node: NodeId) -> impl Iterator<Item = &Placement> {
        self.replicas.values().flatten().filter(move |place| place.node == node)
    }

    /// How many replicas a node holds, tenants' ones included.
    #[must_use]
    pub fn replica_count(&self, node: NodeId) -> usize {
        let tenants = self.catalog.tenant_cores().filter(|(holder, ..)| *holder == node);
        let of_tenants: usize = tenants.map(|(.., uses)| uses.shards as usize).sum();
        self.places_of(node).count() + of_tenants
    }

    /// The shards, tenants' ones not included, of which a node holds a replica, each with its home
    /// core there. Cost: one pass over all replicas.
    pub fn homes_on(&self, node: NodeId) -> impl Iterator<Item = (ShardId, u32)> {
        self.replicas.iter().filter_map(move |(shard, replicas)| {
            let place = replicas.iter().find(|place| place.node == node)?;
            Some((*shard, place.home))
        })
    }

    /// What a collection asks of the nodes that hold it.
    #[must_use]
    pub fn rules(&self, collection: CollectionId) -> PlacementRules {
        self.rules.get(&collection).cloned().unwrap_or_default()
    }

    /// Every alias with the collection it means.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, CollectionId)> {
        self.aliases.iter().map(|(alias, collection)| (alias.as_str(), *collection))
    }

    /// The collection of an identity.
    #[must_use]
    pub fn collection(&self, id: CollectionId) -> Option<&CollectionEntry> {
        self.catalog.collections().find(|entry| entry.id == id)
    }

    /// The collection that a name means: its own name or an alias.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<&CollectionEntry> {
        let aliased = || self.aliases.get(name).and_then(|id| self.collection(*id));
        self.catalog.collection(name).or_else(aliased)
    }

    /// Applies a change and moves to the next epoch, or refuses it and changes nothing.
    ///
    /// A change whose id was applied among the last [`RECENT_COMMANDS_MAX`] ones is not applied
    /// again: the answer is [`Outcome::Repeated`] and the state stays as it is.
    pub fn apply(&mut self, request: &Request) -> Result<Outcome, ClusterError> {
        let id = request.id();
        if let Some((_, epoch)) = self.recent.iter().find(|(applied, _)| *applied == id) {
            return Ok(Outcome::Repeated(*epoch));
        }
        let before = self.epoch();
        self.change(request.command())?;
        assert!(self.epoch() > before, "every change makes an epoch");
        // By the change that is the first in every replica: to a state of before there were
        // identities, replicas that go on from snapshots of other positions would give others.
        if before == Epoch::default() {
            self.cluster = Some(ClusterId(id.0));
        }
        if self.recent.len() == RECENT_COMMANDS_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((id, self.epoch()));
        Ok(Outcome::Applied(self.epoch()))
    }

    fn change(&mut self, command: &ClusterCommand) -> Result<(), ClusterError> {
        match command {
            ClusterCommand::AddNode(record) => self.add_node(record)?,
            ClusterCommand::DescribeNode { node, addresses, labels, data_cores } => {
                let mut record = self.known_node(*node)?.clone();
                record.addresses = addresses.clone();
                record.labels = labels.clone();
                record.data_cores = *data_cores;
                record.validate()?;
                self.check_homes(&record)?;
                self.nodes.insert(*node, record);
            }
            ClusterCommand::AdoptCatalog { node, catalog } => self.adopt(*node, catalog)?,
            ClusterCommand::SetNodeState { node, state } => self.set_node_state(*node, *state)?,
            ClusterCommand::RemoveNode { node } => self.remove_node(*node)?,
            ClusterCommand::CreateCollection(new) => return self.create_collection(new),
            ClusterCommand::DropCollection { collection } => {
                return self.drop_collection(*collection);
            }
            ClusterCommand::FixDims { collection, vector, dims, quantization, raw } => {
                return Ok(self.catalog.apply(&Command::FixDims {
                    collection: *collection,
                    vector: vector.clone(),
                    dims: *dims,
                    quantization: *quantization,
                    raw: *raw,
                })?);
            }
            ClusterCommand::MoveHome { shard, node, home } => {
                return self.move_home(*shard, Placement { node: *node, home: *home });
            }
            ClusterCommand::AddTenants { collection, state, tenants } => {
                for tenant in tenants {
                    self.check_replicas(&tenant.replicas)?;
                }
                let (collection, state, tenants) = (*collection, *state, tenants.clone());
                let command = Command::AddTenants { collection, state, tenants };
                return Ok(self.catalog.apply(&command)?);
            }
            ClusterCommand::SetTenants { collection, state, names } => {
                let (collection, state, names) = (*collection, *state, names.clone());
                return Ok(self.catalog.apply(&Command::SetTenants {
                    collection,
                    state,
                    names,
                })?);
            }
            ClusterCommand::RemoveTenants { collection, names } => {
                let (collection, names) = (*collection, names.clone());
                return Ok(self.catalog.apply(&Command::RemoveTenants { collection, names })?);
            }
            ClusterCommand::SetAlias { alias, collection } => self.set_alias(alias, *collection)?,
            ClusterCommand::DropAlias { alias } => {
                let unknown = || ClusterError::UnknownAlias { alias: alias.clone() };
                self.aliases.remove(alias).ok_or_else(unknown)?;
            }
        }
        // The catalog of collections counts its own changes.
        self.catalog.advance_epoch();
        Ok(())
    }

    fn known_node(&self, node: NodeId) -> Result<&NodeRecord, ClusterError> {
        self.nodes.get(&node).ok_or(ClusterError::UnknownNode { node })
    }

    fn voters(&self) -> usize {
        self.nodes.values().filter(|node| node.state == NodeState::Voter).count()
    }

    fn add_node(&mut self, record: &NodeRecord) -> Result<(), ClusterError> {
        record.validate()?;
        let node = record.id;
        if self.nodes.contains_key(&node) || self.removed.contains(&node) {
            return Err(ClusterError::NodeKnown { node });
        }
        if self.nodes.values().any(|other| other.name == record.name) {
            return Err(ClusterError::NodeName { name: record.name.clone() });
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(ClusterError::TooMany { what: Counted::Nodes, limit: NODES_MAX });
        }
        if record.brings_collections && !self.catalog.is_untouched() {
            return Err(ClusterError::HasCollections);
        }
        match record.state {
            NodeState::Voter => self.check_voter_fits()?,
            NodeState::Learner | NodeState::Draining if self.voters() == 0 => {
                return Err(ClusterError::LastVoter { node });
            }
            NodeState::Learner | NodeState::Draining => {}
        }
        self.nodes.insert(node, record.clone());
        Ok(())
    }

    /// Takes over the collections of a node that was alone; the epoch goes on behind both.
    fn adopt(&mut self, node: NodeId, catalog: &Catalog) -> Result<(), ClusterError> {
        self.known_node(node)?;
        if !self.catalog.is_untouched() {
            return Err(ClusterError::HasCollections);
        }
        let is_elsewhere = |shard: &ShardEntry| shard.replicas.iter().any(|it| it.node != node);
        if let Some((_, shard)) = catalog.shards().find(|(_, shard)| is_elsewhere(shard)) {
            return Err(ClusterError::NoReplica { shard: shard.id, node });
        }
        let mut next = self.clone();
        next.catalog = catalog.clone();
        next.catalog.raise_epoch(self.epoch());
        let shards = catalog.collections().flat_map(|entry| &entry.shards);
        next.replicas = shards.map(|shard| (shard.id, shard.replicas.clone())).collect();
        if let Some(alias) = self.aliases.keys().find(|alias| catalog.collection(alias).is_some()) {
            return Err(ClusterError::NameTaken { name: alias.clone() });
        }
        let wrap = |error: Inconsistency| ApiError::new(ErrorCode::Corrupt, error.to_string(), "");
        // Others with collections of their own cannot bring theirs in any more.
        next.nodes.values_mut().for_each(|record| record.brings_collections = false);
        next.validate().map_err(wrap)?;
        let (found, limit) = (next.bytes_beside_tenants(), CREATE_BYTES_MAX);
        if found > limit {
            return Err(ClusterError::StateTooLarge { found, limit });
        }
        *self = next;
        Ok(())
    }

    /// Has every replica of a node a home among its cores?
    fn check_homes(&self, record: &NodeRecord) -> Result<(), ClusterError> {
        let (node, cores) = (record.id, record.data_cores);
        let places = self.replicas.values().flatten().map(|place| (place.node, place.home));
        let tenants = self.catalog.tenant_cores().map(|(node, home, _)| (node, home));
        match places.chain(tenants).find(|(holder, home)| *holder == node && *home >= cores) {
            Some((_, home)) => Err(ClusterError::NoSuchCore { node, home, cores }),
            None => Ok(()),
        }
    }

    fn check_voter_fits(&self) -> Result<(), ClusterError> {
        if self.voters() >= VOTERS_MAX {
            return Err(ClusterError::TooMany { what: Counted::Voters, limit: VOTERS_MAX });
        }
        Ok(())
    }

    fn set_node_state(&mut self, node: NodeId, state: NodeState) -> Result<(), ClusterError> {
        let was = self.known_node(node)?.state;
        if was == NodeState::Voter && state != NodeState::Voter && self.voters() == 1 {
            return Err(ClusterError::LastVoter { node });
        }
        if was != NodeState::Voter && state == NodeState::Voter {
            self.check_voter_fits()?;
        }
        self.nodes.entry(node).and_modify(|record| record.state = state);
        Ok(())
    }

    fn remove_node(&mut self, node: NodeId) -> Result<(), ClusterError> {
        if self.known_node(node)?.state != NodeState::Draining {
            return Err(ClusterError::NotDraining { node });
        }
        let shards = self.replica_count(node);
        if shards > 0 {
            return Err(ClusterError::HoldsReplicas { node, shards });
        }
        if self.removed.len() >= NODES_REMOVED_MAX {
            let limit = NODES_REMOVED_MAX;
            return Err(ClusterError::TooMany { what: Counted::RemovedNodes, limit });
        }
        self.nodes.remove(&node);
        self.removed.insert(node);
        Ok(())
    }

    fn check_placement(&self, placement: Placement) -> Result<(), ClusterError> {
        let Placement { node, home } = placement;
        let cores = self.known_node(node)?.data_cores;
        if home >= cores {
            return Err(ClusterError::NoSuchCore { node, home, cores });
        }
        Ok(())
    }

    fn check_new_replicas(&self, new: &NewCollection) -> Result<(), ClusterError> {
        let (count, factor) = (new.config.sharding.count, new.config.replication.factor);
        // Tenants bring their own shards.
        let expected = if new.config.multi_tenancy.enabled { 0 } else { count };
        if new.replicas.len() != expected as usize || count == 0 {
            return Err(ClusterError::ShardCount { found: new.replicas.len(), expected });
        }
        for (index, replicas) in new.replicas.iter().enumerate() {
            if replicas.len() != factor as usize {
                let found = replicas.len();
                return Err(ClusterError::ReplicaCount { index, found, expected: factor });
            }
        }
        self.check_replicas(&new.replicas)
    }

    /// May the replicas of new shards be where they were placed?
    fn check_replicas(&self, shards: &[Vec<Placement>]) -> Result<(), ClusterError> {
        for (index, replicas) in shards.iter().enumerate() {
            for (position, placement) in replicas.iter().enumerate() {
                let node = placement.node;
                self.check_placement(*placement)?;
                if self.known_node(node)?.state == NodeState::Draining {
                    return Err(ClusterError::Draining { node });
                }
                if replicas[..position].iter().any(|other| other.node == node) {
                    return Err(ClusterError::SameNode { index, node });
                }
            }
        }
        Ok(())
    }

    fn create_collection(&mut self, new: &NewCollection) -> Result<(), ClusterError> {
        new.config.validate()?;
        new.rules.validate()?;
        let name = &new.config.name;
        if self.collection(new.id).is_some() {
            return Err(ClusterError::CollectionKnown { collection: new.id });
        }
        if let Some(record) = self.nodes.values().find(|record| record.brings_collections) {
            return Err(ClusterError::BringsFirst { node: record.id });
        }
        if self.aliases.contains_key(name) {
            return Err(ClusterError::NameTaken { name: name.clone() });
        }
        self.check_new_replicas(new)?;
        // Creating is rare, so it may cost a copy and an encoding: nothing else can tell whether
        // the next snapshot fits.
        let mut next = self.clone();
        next.insert_collection(new)?;
        let (found, limit) = (next.bytes_beside_tenants(), CREATE_BYTES_MAX);
        if found > limit {
            return Err(ClusterError::StateTooLarge { found, limit });
        }
        *self = next;
        Ok(())
    }

    /// Bytes of the canonical state without the tenants. Cost: a copy and an encoding.
    fn bytes_beside_tenants(&self) -> usize {
        let mut bare = self.clone();
        bare.catalog = bare.catalog.without_tenants();
        bare.canonical().len()
    }

    fn insert_collection(&mut self, new: &NewCollection) -> Result<(), ClusterError> {
        self.catalog.apply(&Command::CreateCollection {
            config: new.config.clone(),
            id: new.id,
            seed: new.seed,
            placements: new.replicas.iter().map(|replicas| replicas[0]).collect(),
        })?;
        let entry = self.catalog.collection(&new.config.name).expect("it was just created");
        let shards = entry.shards.iter().map(|shard| shard.id);
        self.replicas.extend(shards.zip(new.replicas.iter().cloned()));
        if !new.rules.is_empty() {
            self.rules.insert(new.id, new.rules.clone());
        }
        Ok(())
    }

    fn drop_collection(&mut self, collection: CollectionId) -> Result<(), ClusterError> {
        let unknown = ClusterError::UnknownCollection { collection };
        let entry = self.collection(collection).ok_or(unknown)?.clone();
        self.catalog.apply(&Command::DropCollection { name: entry.config.name.clone() })?;
        for shard in &entry.shards {
            self.replicas.remove(&shard.id);
        }
        self.rules.remove(&collection);
        self.aliases.retain(|_, target| *target != collection);
        Ok(())
    }

    fn move_home(&mut self, shard: ShardId, target: Placement) -> Result<(), ClusterError> {
        let node = target.node;
        self.check_placement(target)?;
        let replicas = self.replicas.get_mut(&shard);
        let position = replicas
            .as_ref()
            .and_then(|replicas| replicas.iter().position(|replica| replica.node == node));
        let (Some(replicas), Some(position)) = (replicas, position) else {
            // A tenant's shard stands in the catalog alone.
            let moved = self.catalog.apply(&Command::MoveHome { shard, node, home: target.home });
            return moved.map_err(|_unknown| ClusterError::NoReplica { shard, node });
        };
        replicas[position] = target;
        if position == 0 {
            self.catalog.apply(&Command::MoveHome { shard, node, home: target.home })?;
        } else {
            self.catalog.advance_epoch();
        }
        Ok(())
    }

    fn set_alias(&mut self, alias: &str, collection: CollectionId) -> Result<(), ClusterError> {
        check_name("alias", alias)?;
        if self.catalog.collection(alias).is_some() {
            return Err(ClusterError::NameTaken { name: alias.to_owned() });
        }
        if self.collection(collection).is_none() {
            return Err(ClusterError::UnknownCollection { collection });
        }
        if self.aliases.len() >= ALIASES_MAX && !self.aliases.contains_key(alias) {
            return Err(ClusterError::TooMany { what: Counted::Aliases, limit: ALIASES_MAX });
        }
        self.aliases.insert(alias.to_owned(), collection);
        Ok(())
    }
}
