//! Who serves what.

use heddle_types::{ApiError, ErrorCode, NodeId, ShardId};
use heddle_wire::message::{TopologyCollection, TopologyNode, TopologyReply, TopologyRequest};
use heddle_wire::{Frame, access};

use crate::core::Core;
use crate::nodes::{Nodes, PeerNode};
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

pub(super) fn answer(core: &Core, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<TopologyRequest>(&request.body)?;
    let epoch = core.registry.epoch().0;
    let mut topology =
        TopologyReply { epoch, answering_node: 0, nodes: Vec::new(), collections: Vec::new() };
    // A fresh catalog has epoch 0, which for a client means that it knows nothing.
    if epoch == 0 || message.known_epoch.to_native() != epoch {
        let nodes = Listed::of(this_node(core)?, core.node.identity.node, &core.registry.nodes());
        topology.answering_node = nodes.own;
        let routes = core.registry.routes();
        topology.collections = routes.iter().map(|route| nodes.describe(route)).collect();
        topology.nodes = nodes.nodes;
    }
    super::reply(request, &topology)
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
        let place = |shard: &ShardId| {
            let position = route.shards.iter().position(|other| other.id == *shard);
            position.expect("owners are shards") as u16
        };
        let (shard_nodes, shard_cores) = route
            .shards
            .iter()
            .map(|shard| match self.ids.binary_search(&shard.node) {
                Ok(node) if shard.home < self.nodes[node].core_ports.len() => {
                    (node as u16, shard.home as u16)
                }
                // It cannot be reached directly: the node that answers routes.
                _ => (self.own, 0),
            })
            .unzip();
        TopologyCollection {
            id: route.id.0.into_bytes(),
            definition: super::collection::definition(&route.config),
            shard_ids: route.shards.iter().map(|shard| shard.id.0).collect(),
            shard_nodes,
            shard_cores,
            owners: route.routing.owners().iter().map(place).collect(),
        }
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

    use heddle_meta::{CollectionEntry, ShardEntry};
    use heddle_types::{CollectionConfig, CollectionId, RoutingTable};
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
        let shards: Vec<ShardEntry> = (1..)
            .zip(places)
            .map(|(id, (node, home))| ShardEntry {
                id: ShardId(id),
                node: node_id(*node),
                home: *home,
            })
            .collect();
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
        let entry = CollectionEntry {
            id: CollectionId::default(),
            config: Arc::new(CollectionConfig::default()),
            routing: RoutingTable::deal(&ids, 1),
            shards,
            seed: 1,
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
    fn a_node_that_is_alone_leaves_its_address_to_the_client() {
        let listed = Listed::of(own(), node_id(2), &Nodes::default());
        assert_eq!((listed.nodes.len(), listed.own), (1, 0));
        assert_eq!(listed.nodes[0].address, "");
    }
}
