//! Nodes, collections and a state with some of everything, for tests.

use heddle_types::{CollectionConfig, CollectionId, NodeId};
use uuid::Uuid;

use super::{
    Addresses, ClusterCommand, ClusterState, CommandId, Labels, NewCollection, NodeRecord,
    NodeState, PlacementRules, Request,
};
use crate::placement::Placement;

pub(super) fn node_id(number: u64) -> NodeId {
    NodeId(Uuid::from_u64_pair(0, number))
}

/// A learner with two data cores.
pub(super) fn node(number: u64) -> NodeRecord {
    let address = |port: u16| format!("10.0.0.{number}:{port}");
    NodeRecord {
        id: node_id(number),
        name: format!("node-{number}"),
        addresses: Addresses {
            native: address(7700),
            core: address(7701),
            http: address(8080),
            peer: address(7600),
            raft: address(7500),
            gossip: address(7946),
        },
        labels: Labels::new(),
        data_cores: 2,
        state: NodeState::Learner,
        brings_collections: false,
    }
}

pub(super) fn voter(number: u64) -> NodeRecord {
    NodeRecord { state: NodeState::Voter, ..node(number) }
}

pub(super) fn collection_id(number: u64) -> CollectionId {
    CollectionId(Uuid::from_u64_pair(1, number))
}

/// A collection whose shards lie on the nodes given for each.
pub(super) fn new_collection(name: &str, number: u64, nodes: &[&[u64]]) -> ClusterCommand {
    let mut config = CollectionConfig { name: name.to_owned(), ..CollectionConfig::default() };
    config.fill_defaults();
    config.sharding.count = u32::try_from(nodes.len()).expect("tests have few shards");
    let factor = nodes.first().map_or(1, |replicas| replicas.len());
    config.replication.factor = u32::try_from(factor).expect("tests have few replicas");
    let place = |node: &u64| Placement { node: node_id(*node), home: 1 };
    ClusterCommand::CreateCollection(Box::new(NewCollection {
        config,
        id: collection_id(number),
        seed: number,
        rules: PlacementRules::default(),
        replicas: nodes.iter().map(|replicas| replicas.iter().map(place).collect()).collect(),
    }))
}

pub(super) fn request(number: u64, command: ClusterCommand) -> Request {
    Request::new(CommandId(Uuid::from_u64_pair(2, number)), command).expect("small enough")
}

/// A state with a voter, a learner, a removed node, a collection, an alias and rules.
pub(super) fn busy_state() -> ClusterState {
    let mut with_rules = new_collection("Docs", 1, &[&[1, 2], &[2, 1]]);
    if let ClusterCommand::CreateCollection(new) = &mut with_rules {
        new.rules.avoid.insert("tier".to_owned(), "test".to_owned());
    }
    let commands = [
        ClusterCommand::AddNode(voter(1)),
        ClusterCommand::AddNode(node(2)),
        ClusterCommand::AddNode(node(3)),
        ClusterCommand::SetNodeState { node: node_id(3), state: NodeState::Draining },
        ClusterCommand::RemoveNode { node: node_id(3) },
        with_rules,
        ClusterCommand::SetAlias { alias: "Texts".to_owned(), collection: collection_id(1) },
    ];
    let mut state = ClusterState::default();
    for (number, command) in (0..).zip(commands) {
        state.apply(&request(number, command)).expect("each command is valid");
    }
    state
}
