//! Keeping what the cluster's state says of this node true: that it is there, where it is reached,
//! how many cores it has, which core each of its shards is at home on; and, once in the life of a
//! cluster, bringing in the collections of a node that was alone before.

use std::cell::Cell;
use std::rc::Rc;

use heddle_meta::ShardEntry;
use heddle_meta::cluster::{ClusterCommand, ClusterState, NodeState};
use heddle_runtime::{fatal, sleep};
use heddle_types::{FatalReason, Retry};

use super::{Cluster, RETRY_PAUSE};
use crate::meta::Meta;

pub(super) async fn run(cluster: Rc<Cluster>, meta: Rc<Meta>) {
    // The epochs of state and catalog between which nothing had to be corrected: the Raft tells of
    // changes several times a second, and the catalog may be large.
    let right = Cell::new(None);
    loop {
        let due = || {
            let is_ready = cluster.is_member.get() && cluster.leader().is_some();
            let epochs = (cluster.with_state(|state| state.epoch()), meta.epoch());
            if !is_ready || right.get() == Some(epochs) {
                return None;
            }
            cluster.with_state(|state| {
                let correction = cluster.correction(state, &meta);
                // Before this node is in the state it waits for its vote, which changes no epoch.
                let is_right = correction.is_none() && state.node(cluster.own).is_some();
                right.set(is_right.then_some(epochs));
                correction
            })
        };
        let command = cluster.changed.until(due).await;
        let adopts = matches!(command, ClusterCommand::AdoptCatalog { .. });
        tracing::info!(change = command.name(), "telling the cluster about this node");
        match cluster.change(command).await {
            Ok(epoch) => {
                if adopts {
                    cluster.begin_to_follow();
                }
                // The next correction is due only in a state that has this one.
                let seen = || cluster.with_state(|state| state.epoch() >= epoch).then_some(());
                cluster.changed.until(seen).await;
            }
            Err(_) if adopts && cluster.has_adopted(&meta).await => {
                // An earlier attempt was taken, and its answer lost.
                cluster.begin_to_follow();
            }
            Err(error) if adopts && error.retry == Retry::Never => {
                // Following the state would remove this node's collections.
                fatal(FatalReason::Config, format_args!("this node's collections: {error}"));
            }
            Err(error) => {
                tracing::warn!(%error, "the cluster does not know about this node yet");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

impl Cluster {
    /// Does the cluster's state hold every collection of this node?
    async fn has_adopted(&self, meta: &Meta) -> bool {
        let own = meta.catalog();
        self.catch_up_state().await.is_ok()
            && self.with_state(|state| {
                own.collections().all(|entry| state.collection(entry.id).is_some())
            })
    }

    /// The next change that makes the state right about this node.
    fn correction(&self, state: &ClusterState, meta: &Meta) -> Option<ClusterCommand> {
        let node = self.own;
        let Some(known) = state.node(node) else {
            // A node that joins is added by the leader; those that began together add themselves.
            let votes = self.raft.voter_ids().any(|voter| voter == node);
            return votes.then(|| ClusterCommand::AddNode(self.own_record(NodeState::Voter)));
        };
        let own_catalog = meta.catalog();
        // A node whose catalog is the cluster's may have applied less of the log than it had before
        // it was started again.
        let is_alone = !self.follows.get();
        if is_alone && state.catalog().is_untouched() && !own_catalog.is_untouched() {
            let catalog = Box::new(own_catalog.on_node(node));
            return Some(ClusterCommand::AdoptCatalog { node, catalog });
        }
        let own = self.own_record(known.state);
        let describe = ClusterCommand::DescribeNode {
            node,
            addresses: own.addresses.clone(),
            labels: own.labels.clone(),
            data_cores: own.data_cores,
        };
        // Homes are on cores that there are, before and after.
        if own.data_cores > known.data_cores {
            return Some(describe);
        }
        let home_here = |shard: &ShardEntry| Some((shard.id, shard.home_on(node)?));
        let own_shards = own_catalog.collections().flat_map(|entry| &entry.shards);
        let homes: std::collections::BTreeMap<_, _> = own_shards.filter_map(home_here).collect();
        let moved = state.homes_on(node).find_map(|(shard, known)| {
            let home = *homes.get(&shard)?;
            (home != known).then_some((shard, home))
        });
        let moved = moved.or_else(|| state.catalog().moved_tenant(&own_catalog, node));
        if let Some((shard, home)) = moved {
            return Some(ClusterCommand::MoveHome { shard, node, home });
        }
        // The name is that of the first start: nothing changes it.
        let is_right = own.addresses == known.addresses
            && own.labels == known.labels
            && own.data_cores == known.data_cores;
        (!is_right).then_some(describe)
    }
}
