//! What a node does while it leads: it brings the Raft group in line with the cluster's state, step
//! by step ([`next_duty`]).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use heddle_meta::cluster::{Duty, Group, Health, next_duty};
use heddle_meta::raft::Member;
use heddle_runtime::{sleep, timeout};
use heddle_types::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, Instant};

use super::Cluster;

/// How often a leader looks.
const PERIOD: Duration = Duration::from_millis(500);
/// How long one step may take.
const STEP_BUDGET: Duration = Duration::from_secs(10);
/// A node that has not answered for so long does not count as alive.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// A voter that has not answered for so long is replaced when somebody can take its place.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// What a leader knows of its followers.
struct Look {
    group: Group,
    health: Health,
}

pub(super) async fn run(cluster: Rc<Cluster>) {
    // Since when this node leads without a break: before, nobody could answer it.
    let mut leads_since = None;
    loop {
        sleep(PERIOD).await;
        if cluster.core.is_draining() {
            return;
        }
        if !cluster.raft.is_leader() {
            leads_since = None;
            continue;
        }
        let since = *leads_since.get_or_insert_with(|| cluster.now());
        let Look { group, health } = cluster.look(cluster.now().saturating_sub(since));
        let voters_wanted = cluster.core.node.config.cluster_voters;
        let duty = cluster.with_state(|state| next_duty(state, &group, &health, voters_wanted));
        let Some(duty) = duty else { continue };
        tracing::info!(?duty, "the group of voters is adapted");
        let step = timeout(STEP_BUDGET, cluster.perform(duty)).await;
        match step {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "not adapted"),
            Err(_late) => tracing::warn!("not adapted within {STEP_BUDGET:?}"),
        }
    }
}

impl Cluster {
    fn look(&self, leading_for: Duration) -> Look {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let members = membership.nodes().map(|(node, member)| (*node, member.address.clone()));
        let group = Group { voters: membership.voter_ids().collect(), members: members.collect() };
        let mut health = Health::default();
        health.alive.insert(self.own);
        let acked = metrics.heartbeat.as_ref();
        for node in group.members.keys().filter(|node| **node != self.own) {
            let last = acked.and_then(|acked| acked.get(node).copied().flatten());
            let silent = last.map_or(leading_for, |last| last.elapsed().min(leading_for));
            if last.is_some() && silent < SILENT_AFTER {
                health.alive.insert(*node);
            } else if silent >= LOST_AFTER {
                health.lost.insert(*node);
            }
        }
        Look { group, health }
    }

    async fn perform(&self, duty: Duty) -> Result<(), String> {
        let member = |address: String| Member { address };
        let changed = match duty {
            Duty::Propose(command) => {
                return self.change(command).await.map(drop).map_err(|error| error.to_string());
            }
            Duty::AddLearner(node, address) => {
                self.raft.add_learner(node, member(address), false).await
            }
            Duty::Readdress(node, address) => {
                let nodes = BTreeMap::from([(node, member(address))]);
                self.raft.change_membership(ChangeMembers::SetNodes(nodes), true).await
            }
            Duty::SetVoters(voters) => {
                self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await
            }
            Duty::Forget(nodes) => {
                self.raft.change_membership(ChangeMembers::RemoveNodes(nodes), true).await
            }
        };
        changed.map(drop).map_err(|error| error.to_string())
    }

    /// The nodes that answered this node lately, if it leads.
    pub(super) fn answering(&self) -> Option<std::collections::BTreeSet<NodeId>> {
        self.raft.is_leader().then(|| self.look(Duration::ZERO).health.alive)
    }
}
