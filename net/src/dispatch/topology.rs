//! Who serves what.

use heddle_types::{ApiError, ErrorCode, NodeId};
use heddle_wire::message::{
    ShardReplicas, TopologyCollection, TopologyNode, TopologyReplicasReply,
    TopologyReplicasRequest, TopologyReply, TopologyRequest,
};
use heddle_wire::{Frame, access};

use crate::core::Core;
use crate::nodes::{Nodes, PeerNode};
use crate::registry::{CollectionRoute, ReplicaPlace};
use crate::server::request::RequestFrame;

pub(super) fn answer(core: &Core, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<TopologyRequest>(&request.body)?;
    super::reply(request, &describe(core, message.known_epoch.to_native())?.topology)
}

pub(super) fn answer_replicas(core: &Core, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<TopologyReplicasRequest>(&request.body)?;
    super::reply(request, &describe(core, message.known_epoch.to_native())?)
}

fn describe(core: &Core, known_epoch: u64) -> Result<TopologyReplicasReply, ApiError> {
    let epoch = core.registry.epoch().0;
    let mut topology =
        TopologyReply { epoch, answering_node: 0, nodes: Vec::new(), collections: Vec::new() };
    let mut replicas = Vec::new();
    // A fresh catalog has epoch 0, which for a client means that it knows nothing.
    if epoch == 0 || known_epoch != epoch {
        let nodes = Listed::of(this_node(core)?, core.node.identity.node, &core.registry.nodes());
        topology.answering_node = nodes.own;
        let routes = core.registry.routes();
        topology.collections = routes.iter().map(|route| nodes.describe(route)).collect();
        replicas = routes.iter().map(|route| nodes.replicas(route)).collect();
        topology.nodes = nodes.nodes;
    }
    Ok(TopologyReplicasReply { topology, replicas })
}

fn this_node(core: &Core) -> Result<TopologyNode, ApiError> {
    let ready = core
        .node
        .ready()
        .ok_or_else(|| ApiError::transient(ErrorCode::Unavailable, "the node is starting"))?;
    let config = &core.node.config;
    Ok(TopologyNode {
        id: core.node.identity.node.0.into_bytes(),
        name: config.name.clone(),
        address: config.advertise.clone().unwrap_or_default(),
        native_port: ready.native_port,
        http_port: ready.http_port,
        core_ports: ready.core_ports.clone(),
    })
}

/// The nodes as a reply lists them.
struct Listed {
    ids: Vec<NodeId>,
    nodes: Vec<TopologyNode>,
    /// Position of the node that answers.
    own: u16,
}

impl Listed {
    /// The nodes of the cluster; the one that answers is among them even while the cluster does not
    /// list it.
    fn of(own: TopologyNode, own_id: NodeId, cluster: &Nodes) -> Self {
        let mut listed = Self { ids: Vec::new(), nodes: Vec::new(), own: 0 };
        for node in cluster.iter().filter(|node| node.id != own_id) {
            if let Some(described) = other_node(node) {
                listed.ids.push(node.id);
                listed.nodes.push(described);
            }
        }
        let place = listed.ids.partition_point(|id| *id < own_id);
        let known_address = cluster.get(own_id).and_then(PeerNode::client_ports);
        let address = match known_address {
            Some((host, ..)) if own.address.is_empty() => host,
            _ => own.address,
        };
        listed.ids.insert(place, own_id);
        listed.nodes.insert(place, TopologyNode { address, ..own });
        listed.own = place as u16;
        listed
    }

    fn describe(&self, route: &CollectionRoute) -> TopologyCollection {
        let firsts = route.shards.iter().map(|shard| self.place(&shard.replicas[0]));
        let (shard_nodes, shard_cores) =
            firsts.map(|place| place.unwrap_or(self.forwarding())).unzip();
        TopologyCollection {
            id: route.id.0.into_bytes(),
            definition: super::collection::definition(&route.config),
            shard_ids: route.firsts.iter().map(|shard| shard.id.0).collect(),
            shard_nodes,
            shard_cores,
            owners: route.owners().to_vec(),
        }
    }

    /// Where the replicas are that can be reached directly; a shard without any stands at the node
    /// that answers.
    fn replicas(&self, route: &CollectionRoute) -> ShardReplicas {
        let mut listed = ShardReplicas::default();
        for shard in &route.shards {
            let before = listed.nodes.len();
            let places = shard.replicas.iter().filter_map(|replica| self.place(replica));
            for (node, core) in places {
                listed.nodes.push(node);
                listed.cores.push(core);
            }
            if listed.nodes.len() == before {
                let (node, core) = self.forwarding();
                listed.nodes.push(node);
                listed.cores.push(core);
            }
            listed.ends.push(listed.nodes.len() as u32);
        }
        listed
    }

    fn place(&self, replica: &ReplicaPlace) -> Option<(u16, u16)> {
        let node = self.ids.binary_search(&replica.node).ok()?;
        let is_core = replica.home < self.nodes[node].core_ports.len();
        is_core.then_some((node as u16, replica.home as u16))
    }

    /// The node that answers routes what cannot be reached directly.
    fn forwarding(&self) -> (u16, u16) {
        (self.own, 0)
    }
}

/// Another node; none when its addresses are not whole.
fn other_node(node: &PeerNode) -> Option<TopologyNode> {
    let (address, native_port, core_ports, http_port) = node.client_ports()?;
    let (id, name) = (node.id.0.into_bytes(), node.name.clone());
    Some(TopologyNode { id, name, address, native_port, http_port, core_ports })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heddle_meta::{CollectionEntry, Placement, ShardEntry};
    use heddle_types::{CollectionConfig, CollectionId, RoutingTable, ShardId};
    use uuid::Uuid;

    use super::*;

    fn node_id(number: u128) -> NodeId {
        NodeId(Uuid::from_u128(number))
    }

    fn peer(number: u128) -> PeerNode {
        let address = |port| format!("10.0.0.{number}:{port}");
        PeerNode {
            id: node_id(number),
            name: format!("node-{number}"),
            native: address(7_700),
            core: address(7_701),
            http: address(8_080),
            peer: address(7_600),
            data_cores: 2,
        }
    }

    fn own() -> TopologyNode {
        TopologyNode {
            id: node_id(2).0.into_bytes(),
            name: "me".to_owned(),
            address: String::new(),
            native_port: 1,
            http_port: 2,
            core_ports: vec![3, 4],
        }
    }

    fn route(places: &[(u128, u32)]) -> CollectionRoute {
        let places: Vec<_> = places.iter().map(|place| vec![*place]).collect();
        replicated(&places)
    }

    fn replicated(places: &[Vec<(u128, u32)>]) -> CollectionRoute {
        let place = |(node, home): &(u128, u32)| Placement { node: node_id(*node), home: *home };
        let shards: Vec<ShardEntry> = (1..)
            .zip(places)
            .map(|(id, replicas)| ShardEntry {
                id: ShardId(id),
                replicas: replicas.iter().map(place).collect(),
            })
            .collect();
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
        let entry = CollectionEntry {
            id: CollectionId::default(),
            config: Arc::new(CollectionConfig::default()),
            routing: RoutingTable::deal(&ids, 1),
            shards,
            seed: 1,
            tenants: heddle_meta::Tenants::default(),
        };
        CollectionRoute::of(&entry, node_id(2))
    }

    #[test]
    fn every_node_is_listed_with_its_address_and_the_shards_point_at_them() {
        let cluster = Nodes::new(vec![peer(3), peer(1), peer(2)]);
        let listed = Listed::of(own(), node_id(2), &cluster);
        let names: Vec<&str> = listed.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["node-1", "me", "node-3"]);
        assert_eq!(listed.own, 1);
        assert_eq!(listed.nodes[1].address, "10.0.0.2", "as the cluster knows it");
        assert_eq!(listed.nodes[1].core_ports, [3, 4], "as it listens");
        assert_eq!(listed.nodes[2].address, "10.0.0.3");
        assert_eq!(listed.nodes[2].core_ports, [7_701, 7_702]);
        let described = listed.describe(&route(&[(1, 1), (3, 0), (2, 1)]));
        assert_eq!((described.shard_nodes, described.shard_cores), (vec![0, 2, 1], vec![1, 0, 1]));
    }

    #[test]
    fn shards_that_cannot_be_reached_directly_are_asked_for_at_the_answering_node() {
        let listed = Listed::of(own(), node_id(2), &Nodes::new(vec![peer(1)]));
        assert_eq!(listed.own, 1);
        let described = listed.describe(&route(&[(9, 0), (1, 7)]));
        assert_eq!((described.shard_nodes, described.shard_cores), (vec![1, 1], vec![0, 0]));
    }

    #[test]
    fn every_replica_that_can_be_reached_is_listed() {
        let listed = Listed::of(own(), node_id(2), &Nodes::new(vec![peer(1), peer(2)]));
        let route = replicated(&[vec![(9, 0), (1, 1), (2, 0)], vec![(9, 0)], vec![(2, 1)]]);
        let replicas = listed.replicas(&route);
        let expected =
            ShardReplicas { ends: vec![2, 3, 4], nodes: vec![0, 1, 1, 1], cores: vec![1, 0, 0, 1] };
        assert_eq!(replicas, expected);
    }

    #[test]
    fn a_node_that_is_alone_leaves_its_address_to_the_client() {
        let listed = Listed::of(own(), node_id(2), &Nodes::default());
        assert_eq!((listed.nodes.len(), listed.own), (1, 0));
        assert_eq!(listed.nodes[0].address, "");
    }
}
