//! The cluster as this node sees it, for people and programs that ask.

use heddle_meta::cluster::NodeRecord;
use heddle_types::{ClusterId, Epoch, NodeId};
use openraft::async_runtime::WatchReceiver;
use serde::Serialize;

use super::Cluster;

/// The cluster as one node sees it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClusterReport {
    /// Its name.
    name: String,
    /// Its identity, from its first change on.
    id: Option<ClusterId>,
    /// The node that answers.
    node: NodeId,
    /// Does this node belong to it?
    is_member: bool,
    /// Who leads, as far as this node knows.
    leader: Option<NodeId>,
    term: u64,
    /// Version of the state that this node has applied, and made true.
    epoch: Epoch,
    made_true: Epoch,
    /// Fingerprint of the applied state: equal on two nodes exactly when their states are.
    hash: String,
    log_index: Option<u64>,
    applied_index: Option<u64>,
    snapshot_index: Option<u64>,
    /// Nodes whose votes count.
    voters: Vec<NodeId>,
    nodes: Vec<NodeReport>,
}

/// A node of the cluster.
#[derive(Clone, Debug, Serialize)]
struct NodeReport {
    #[serde(flatten)]
    record: NodeRecord,
    /// Replicas that it holds.
    replicas: usize,
    /// Does it answer? Known to the leader only.
    is_answering: Option<bool>,
}

impl Cluster {
    /// Cost: an encoding of the state.
    pub(crate) fn report(&self) -> ClusterReport {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let answering = self.answering();
        let mut voters: Vec<NodeId> = self.raft.voter_ids().collect();
        voters.sort_unstable();
        self.with_state(|state| {
            let nodes = state.nodes().map(|record| NodeReport {
                replicas: state.replica_count(record.id),
                is_answering: answering.as_ref().map(|nodes| nodes.contains(&record.id)),
                record: record.clone(),
            });
            ClusterReport {
                name: self.core.node.config.cluster_name.clone(),
                id: state.cluster(),
                node: self.own,
                is_member: self.is_member.get(),
                leader: metrics.current_leader,
                term: metrics.current_term,
                epoch: state.epoch(),
                made_true: self.made_true.get(),
                hash: format!("{:032x}", state.hash()),
                log_index: metrics.last_log_index,
                applied_index: metrics.last_applied.map(|id| id.index),
                snapshot_index: metrics.snapshot.map(|id| id.index),
                voters,
                nodes: nodes.collect(),
            }
        })
    }
}
