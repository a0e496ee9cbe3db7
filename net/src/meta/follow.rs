//! The catalog of a node that is part of a cluster: changes go through the cluster, and what it has
//! decided is made true here, whoever asked for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_core::validate::{NodeFacts, check_supported, profile_of, settle_profiles};
use heddle_meta::cluster::{
    ClusterCommand, ClusterState, NewCollection, NodeRecord, NodeState, Wanted, place_replicas,
};
use heddle_meta::{Catalog, CollectionEntry};
use heddle_runtime::{fatal, timeout};
use heddle_types::limits::REPLICAS_PER_SHARD_MAX;
use heddle_types::{
    ApiError, CollectionConfig, CollectionId, Epoch, ErrorCode, FatalReason, Retry, ShardId,
    VectorConfig,
};

use heddle_wire::message::NodeFate;

use super::Meta;
use crate::cluster::{CHANGE_BUDGET, Cluster};
use crate::message::{CoreAnswer, CoreReply, CoreRequest, Publication};
use crate::nodes::{Nodes, PeerNode};
use crate::registry::CollectionRoute;

/// Times that a change is decided anew because the state had moved on.
pub(super) const DECISIONS_MAX: usize = 5;

impl Meta {
    /// Makes true on this node what the cluster has decided. False when the state does not hold the
    /// collections yet that this node brings along.
    ///
    /// The catalog is durable before any shard is made or removed, so a start in between finishes
    /// the work. Errors: what could not be made; the same state may be followed again.
    pub(crate) async fn follow(&self, state: &ClusterState) -> Result<bool, ApiError> {
        let mut store = self.store.lock().await;
        let own = self.core.node.identity.node;
        if state.is_removed(own) {
            let found = format!("node {own} was removed from the cluster");
            fatal(FatalReason::Config, format_args!("{found}: start it with an empty directory"));
        }
        if !self.may_follow(state) {
            return Ok(false);
        }
        self.publish_nodes(state).await?;
        let stored = self.stored.borrow().clone();
        if state.epoch() > stored.epoch() {
            // The homes of this node's shards are its own affair: the state learns of them.
            let cores = self.core.data_cores as u32;
            let next = state.whole_catalog().with_homes_of(&stored, own, cores);
            self.save(&mut store, next).await?;
        }
        let (made, next) = (self.made.borrow().clone(), self.homed());
        let mut done = Vec::new();
        if let Err(error) = self.make_true(&made, &next, &mut done).await {
            // The next attempt begins where this one ended: what was made is known.
            self.made.replace(made.with_collections_of(&next, &done));
            return Err(error);
        }
        self.made.replace(next);
        Ok(true)
    }

    /// Is the state a successor of this node's catalog?
    fn may_follow(&self, state: &ClusterState) -> bool {
        let cluster = self.core.cluster.get().expect("a node that follows is part of a cluster");
        if cluster.follows() {
            return true;
        }
        let own = self.stored.borrow();
        if !own.is_untouched() && state.catalog().is_untouched() {
            return false;
        }
        let is_there = |entry: &CollectionEntry| {
            state.collection(entry.id).is_some_and(|known| known.shards.len() == entry.shards.len())
        };
        if own.shards_made() > state.catalog().shards_made() || !own.collections().all(is_there) {
            fatal(
                FatalReason::Config,
                "this node holds collections of its own, which the cluster does not know: only a \
                 cluster that never had a collection takes them over",
            );
        }
        cluster.begin_to_follow();
        true
    }

    async fn publish_nodes(&self, state: &ClusterState) -> Result<(), ApiError> {
        let nodes = Nodes::new(state.nodes().map(peer_node).collect());
        if self.nodes.borrow().as_deref() == Some(&nodes) {
            return Ok(());
        }
        let nodes = Arc::new(nodes);
        let request = |_| CoreRequest::Publish(Publication::Nodes(Arc::clone(&nodes)));
        self.core.call_all(self.data_cores(), request).await?;
        self.nodes.replace(Some(nodes));
        Ok(())
    }

    /// `done`: the collections that are as `next` has them, also after an error.
    async fn make_true(
        &self,
        made: &Catalog,
        next: &Catalog,
        done: &mut Vec<CollectionId>,
    ) -> Result<(), ApiError> {
        let known: BTreeMap<CollectionId, &CollectionEntry> =
            made.collections().map(|entry| (entry.id, entry)).collect();
        let wanted: BTreeMap<CollectionId, &CollectionEntry> =
            next.collections().map(|entry| (entry.id, entry)).collect();
        // The cores hear of the new epoch when they know all of it: requests wait for it.
        let before = made.epoch();
        // What goes makes room for names.
        for (id, entry) in &known {
            if !wanted.contains_key(id) {
                self.remove(before, entry).await?;
                done.push(*id);
            }
        }
        for (id, entry) in wanted {
            match known.get(&id) {
                Some(known) if *known == entry => continue,
                Some(known) => {
                    if known.config != entry.config {
                        self.fix_shards(&fixed(known, entry)).await?;
                    }
                    self.change_shards(before, known, entry).await?;
                }
                None => {
                    self.check_unused(entry);
                    self.create_shards(entry).await?;
                    self.publish_at(before, entry).await?;
                }
            }
            done.push(id);
        }
        let request = |_| CoreRequest::Publish(Publication::Version(next.epoch()));
        self.core.call_all(self.data_cores(), request).await.map(drop)
    }

    /// Ends the process rather than empty the folder of a shard that a lost catalog knew.
    fn check_unused(&self, entry: &CollectionEntry) {
        let own = self.core.node.identity.node;
        let shards = entry.all_shards().filter(|shard| shard.home_on(own).is_some());
        self.check_no_folder(&entry.config.name, shards.map(|shard| shard.id));
    }

    /// As [`Meta::check_unused`], for some shards of a collection.
    pub(super) fn check_no_folder(&self, name: &str, mut shards: impl Iterator<Item = ShardId>) {
        let found = self.unknown_folders.borrow();
        if let Some(shard) = shards.find(|shard| found.contains(shard)) {
            let what = format!("shard {shard} of {name} has files, the catalog does not know");
            let advice = "restore the newer copy of the catalog, or move its folder away";
            fatal(FatalReason::Corruption, format_args!("{what} it: {advice}"));
        }
    }

    /// A collection goes from every core, and its shards from this node.
    async fn remove(&self, epoch: Epoch, entry: &CollectionEntry) -> Result<(), ApiError> {
        let name = entry.config.name.clone();
        let shards: Vec<ShardId> = entry.all_shards().map(|shard| shard.id).collect();
        let removed = Publication::Removed(epoch, entry.id, name, shards);
        let request = |_| CoreRequest::Publish(removed.clone());
        self.core.call_all(self.data_cores(), request).await?;
        if let Err(error) = self.drop_shards(entry).await {
            // It is gone from the catalog and from memory; the next start removes the files.
            tracing::warn!(%error, "files of a dropped collection are left");
        }
        Ok(())
    }

    pub(super) async fn create_in_cluster(
        &self,
        cluster: &Cluster,
        config: CollectionConfig,
    ) -> CoreAnswer {
        config.validate()?;
        for decision in 1.. {
            let (id, new) = new_collection(cluster, config.clone())?;
            match cluster.change(ClusterCommand::CreateCollection(Box::new(new))).await {
                Ok(epoch) => {
                    self.until_made_true(cluster, epoch).await?;
                    return self.route_of(id);
                }
                // A node began to leave while it was decided where the shards go.
                Err(error) if error.code == ErrorCode::StaleEpoch && decision < DECISIONS_MAX => {
                    cluster.catch_up().await?;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last decision is answered")
    }

    pub(super) async fn drop_in_cluster(&self, cluster: &Cluster, name: String) -> CoreAnswer {
        for decision in 1.. {
            // This node may not know yet what another one has created under that name.
            cluster.catch_up().await?;
            let found = cluster.with_state(|state| Some(state.catalog().collection(&name)?.id));
            let Some(collection) = found else {
                return Err(ApiError::new(
                    ErrorCode::UnknownCollection,
                    format!("collection {name:?} does not exist"),
                    "the name of an existing collection",
                ));
            };
            match cluster.change(ClusterCommand::DropCollection { collection }).await {
                Ok(epoch) => {
                    self.until_made_true(cluster, epoch).await?;
                    return Ok(CoreReply::Removed(epoch));
                }
                // Somebody else was faster; there may be a new one of that name.
                Err(error)
                    if error.code == ErrorCode::UnknownCollection && decision < DECISIONS_MAX => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last decision is answered")
    }

    pub(super) async fn fix_dims_in_cluster(
        &self,
        cluster: &Cluster,
        id: CollectionId,
        dims: Vec<(String, u32)>,
    ) -> CoreAnswer {
        for (vector, dims) in dims {
            let open = self.entry_of(id).and_then(|entry| {
                let (_, config) = entry.config.vector(&vector)?;
                config.dims.is_none().then(|| config.clone())
            });
            // Another first insert may have been faster; then its dimensions hold, once they are
            // known everywhere on this node.
            let Some(open) = open else {
                let epoch = self.stored.borrow().epoch();
                self.until_made_true(cluster, epoch).await?;
                continue;
            };
            let (quantization, raw) = profile_of(&VectorConfig { dims: Some(dims), ..open });
            let fix = ClusterCommand::FixDims { collection: id, vector, dims, quantization, raw };
            match cluster.change(fix).await {
                Ok(epoch) => self.until_made_true(cluster, epoch).await?,
                Err(error) if error.retry == Retry::Never => cluster.catch_up().await?,
                Err(error) => return Err(error),
            }
        }
        match self.entry_of(id) {
            Some(_) => self.route_of(id),
            None => Ok(CoreReply::Done),
        }
    }

    /// Changes what part a node has in the cluster; the epoch that makes.
    ///
    /// Errors: `Unsupported` on a node that is alone, `InvalidArgument` for a node that is not
    /// there or that cannot go yet.
    pub(super) async fn change_node(&self, named: &str, fate: NodeFate) -> CoreAnswer {
        let Some(cluster) = self.core.cluster.get() else {
            let message = "this node is not part of a cluster";
            return Err(ApiError::new(ErrorCode::Unsupported, message, "a node of a cluster"));
        };
        cluster.catch_up().await?;
        let found = cluster.with_state(|state| {
            let mut nodes = state.nodes();
            let record = nodes.find(|node| node.name == named || node.id.to_string() == named)?;
            Some((record.id, record.state))
        });
        let Some((node, state)) = found else {
            let message = format!("node {named:?} is not part of the cluster");
            return Err(ApiError::new(ErrorCode::InvalidArgument, message, "a node's name or id"));
        };
        let command = match fate {
            NodeFate::Drain => ClusterCommand::SetNodeState { node, state: NodeState::Draining },
            // Whether it votes again is the leader's affair.
            NodeFate::Keep if state == NodeState::Draining => {
                ClusterCommand::SetNodeState { node, state: NodeState::Learner }
            }
            NodeFate::Keep => return Ok(CoreReply::Removed(self.made.borrow().epoch())),
            NodeFate::Remove => ClusterCommand::RemoveNode { node },
        };
        let epoch = cluster.change(command).await?;
        self.until_made_true(cluster, epoch).await?;
        Ok(CoreReply::Removed(epoch))
    }

    async fn until_made_true(&self, cluster: &Cluster, epoch: Epoch) -> Result<(), ApiError> {
        let made = timeout(CHANGE_BUDGET, cluster.until_made_true(epoch)).await;
        made.map_err(|_late| {
            ApiError::unknown("the cluster has decided the change, this node has not made it true")
        })
    }

    fn route_of(&self, id: CollectionId) -> CoreAnswer {
        let catalog = self.made.borrow();
        let found = catalog.collections().find(|entry| entry.id == id);
        let entry = found.ok_or_else(|| {
            ApiError::unknown("the collection was dropped right after the change was made")
        })?;
        let own = self.core.node.identity.node;
        Ok(CoreReply::Collection(catalog.epoch(), Arc::new(CollectionRoute::of(entry, own))))
    }
}

fn peer_node(record: &NodeRecord) -> PeerNode {
    let addresses = record.addresses.clone();
    PeerNode {
        id: record.id,
        name: record.name.clone(),
        native: addresses.native,
        core: addresses.core,
        http: addresses.http,
        peer: addresses.peer,
        data_cores: record.data_cores,
    }
}

/// A collection as it was with its definition as it is: only shards that it had are fixed, those
/// that come are made with it.
fn fixed(was: &CollectionEntry, is: &CollectionEntry) -> CollectionEntry {
    CollectionEntry { config: Arc::clone(&is.config), ..was.clone() }
}

/// Everything that is decided about a new collection before it is proposed.
fn new_collection(
    cluster: &Cluster,
    mut config: CollectionConfig,
) -> Result<(CollectionId, NewCollection), ApiError> {
    let state = cluster.state();
    cluster.check_founders(&state)?;
    let rules = config.placement.clone();
    let takes = |node: &&NodeRecord| node.state != NodeState::Draining && rules.admit(&node.labels);
    if config.sharding.count == 0 && config.multi_tenancy.enabled {
        config.sharding.count = 1;
    } else if config.sharding.count == 0 {
        config.sharding.count = state.nodes().filter(takes).count().max(1) as u32;
    }
    config.validate()?;
    settle_profiles(&mut config);
    // Too few nodes that the rules admit are refused by name where the places are chosen.
    let stays = |node: &&NodeRecord| node.state != NodeState::Draining;
    let nodes = state.nodes().filter(stays).count().min(REPLICAS_PER_SHARD_MAX) as u32;
    check_supported(&config, &NodeFacts { nodes })?;
    let id = CollectionId::random();
    let (seed, _) = id.0.as_u64_pair();
    // Tenants bring their own shards; that there are enough nodes for them is looked at now.
    let shards = if config.multi_tenancy.enabled { 0 } else { config.sharding.count };
    let wanted = Wanted { shards, factor: config.replication.factor, rules: &rules };
    let replicas = place_replicas(wanted, state.nodes(), &cluster.loads(&state), seed)?;
    Ok((id, NewCollection { config, id, seed, rules, replicas }))
}
