//! What gossip says of the nodes of a cluster, for whoever chooses among replicas.
//!
//! The meta core tells the data cores whenever it changes. A node that gossip has never seen counts
//! as alive: a call to one that is dead fails by itself, and a node that has just started must not
//! take the others for dead.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use heddle_runtime::{sleep, timeout};
use heddle_types::NodeId;

use crate::core::Core;
use crate::message::{CoreRequest, Publication};

/// Least time between two looks at gossip, which tells of loads as well.
const PERIOD_MIN: Duration = Duration::from_millis(200);
/// Longest time between two looks.
const PERIOD_MAX: Duration = Duration::from_secs(5);

/// What is known of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeHealth {
    /// It answers others.
    pub(crate) is_alive: bool,
    /// How busy its data cores are, thousandths.
    pub(crate) load_permille: u32,
}

impl Default for NodeHealth {
    fn default() -> Self {
        Self { is_alive: true, load_permille: 0 }
    }
}

/// What is known of every node that was ever seen in this run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Health(BTreeMap<NodeId, NodeHealth>);

impl Health {
    pub(crate) fn of(&self, node: NodeId) -> NodeHealth {
        self.0.get(&node).copied().unwrap_or_default()
    }

    /// Takes over who is there now; those that were seen before and are not are dead.
    pub(crate) fn follow(&mut self, members: impl Iterator<Item = (NodeId, u32)>) {
        self.0.values_mut().for_each(|health| health.is_alive = false);
        for (node, load_permille) in members {
            self.0.insert(node, NodeHealth { is_alive: true, load_permille });
        }
    }
}

/// Tells the data cores what gossip says, as long as the node runs.
pub(crate) async fn watch(core: Rc<Core>) {
    let gossip = core.gossip.get().expect("a node with health has gossip").clone();
    let mut told = Health::default();
    loop {
        let seen = gossip.version();
        let mut health = told.clone();
        let members = gossip.members();
        let members = members.iter().map(|it| (it.node, u32::from(it.offer.load_permille)));
        health.follow(members);
        if health != told {
            let publication = Publication::Health(Arc::new(health.clone()));
            let request = |_| CoreRequest::Publish(publication.clone());
            if core.call_all(0..core.data_cores, request).await.is_err() {
                // A core has stopped, and with it the node.
                return;
            }
            told = health;
        }
        sleep(PERIOD_MIN).await;
        // Loads change without news.
        let _ = timeout(PERIOD_MAX, gossip.changed(seen)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_seen_and_is_gone_is_dead_and_an_unknown_one_is_not() {
        let node = NodeId::from;
        let mut health = Health::default();
        assert!(health.of(node(1)).is_alive);
        health.follow([(node(1), 20), (node(2), 300)].into_iter());
        assert_eq!(health.of(node(2)), NodeHealth { is_alive: true, load_permille: 300 });
        health.follow([(node(1), 10)].into_iter());
        assert!(!health.of(node(2)).is_alive && health.of(node(1)).is_alive);
        assert!(health.of(node(3)).is_alive);
        health.follow([(node(2), 0)].into_iter());
        assert!(health.of(node(2)).is_alive && !health.of(node(1)).is_alive);
    }
}
