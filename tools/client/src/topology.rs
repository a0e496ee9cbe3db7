//! The client's picture of the cluster: nodes, cores, collections and routes.

use std::collections::BTreeMap;

use heddle_types::{CollectionId, Epoch, NodeId, ObjectId, RoutingTable, ShardId};
use heddle_wire::MessageError;
use heddle_wire::message::{TopologyCollection, TopologyNode, TopologyReply};
use uuid::Uuid;

/// A data core of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CoreAddress {
    /// Position in [`Topology::nodes`].
    pub node: usize,
    /// Data core on that node.
    pub core: usize,
}

/// A node and where it listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    /// Identity.
    pub id: NodeId,
    /// Name.
    pub name: String,
    /// Address and port that any data core may answer.
    pub native_address: String,
    /// Address and port of each data core.
    pub core_addresses: Vec<String>,
    /// Address and port of the HTTP endpoints, if there are any.
    pub http_address: Option<String>,
}

/// A collection and the way to its shards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CollectionRoute {
    /// Identity.
    pub id: CollectionId,
    /// Definition as JSON text.
    pub definition: String,
    /// Home core of each physical shard.
    pub shards: BTreeMap<ShardId, CoreAddress>,
    /// Positions of the nodes that hold shards, ascending.
    pub nodes: Vec<usize>,
    /// From object to shard.
    pub table: RoutingTable,
}

impl CollectionRoute {
    /// The core where writes of an object are made.
    #[must_use]
    pub fn home_of(&self, id: &ObjectId) -> Option<CoreAddress> {
        self.shards.get(&self.table.shard_of(id)).copied()
    }
}

/// The cluster at one version of its catalog.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    /// Version of the catalog.
    pub epoch: Epoch,
    /// Every node.
    pub nodes: Vec<NodeInfo>,
    /// Every collection, by name.
    pub collections: BTreeMap<String, CollectionRoute>,
}

/// `host:port`, with brackets around an IPv6 address.
fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The host of `host:port`.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn node_info(node: TopologyNode, fallback_host: &str) -> NodeInfo {
    let is_any = matches!(node.address.as_str(), "" | "0.0.0.0" | "::" | "[::]");
    let host = if is_any { fallback_host } else { &node.address };
    NodeInfo {
        id: NodeId(Uuid::from_bytes(node.id)),
        native_address: join(host, node.native_port),
        core_addresses: node.core_ports.iter().map(|port| join(host, *port)).collect(),
        http_address: (node.http_port != 0).then(|| join(host, node.http_port)),
        name: node.name,
    }
}

fn collection_route(
    collection: TopologyCollection,
) -> Result<(String, CollectionRoute), MessageError> {
    let invalid = MessageError::Layout { message: "collection of a topology" };
    // Only the name is needed to route, so a definition with keys of a newer server does no harm.
    let definition: Option<serde_json::Value> = serde_json::from_str(&collection.definition).ok();
    let name = definition.as_ref().and_then(|value| value.get("name")?.as_str()).ok_or(invalid)?;
    let ids: Vec<ShardId> = collection.shard_ids.iter().copied().map(ShardId).collect();
    let places = collection.shard_nodes.iter().zip(&collection.shard_cores);
    let places = places
        .map(|(node, core)| CoreAddress { node: usize::from(*node), core: usize::from(*core) });
    let owners: Option<Vec<ShardId>> =
        collection.owners.iter().map(|owner| ids.get(usize::from(*owner)).copied()).collect();
    let table = owners.and_then(RoutingTable::from_owners).ok_or(invalid)?;
    let shards: BTreeMap<ShardId, CoreAddress> = ids.iter().copied().zip(places).collect();
    let mut nodes: Vec<usize> = shards.values().map(|core| core.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let id = CollectionId(Uuid::from_bytes(collection.id));
    let name = name.to_owned();
    Ok((name, CollectionRoute { id, definition: collection.definition, shards, nodes, table }))
}

impl Topology {
    /// Reads a reply that came from `answering_address`.
    ///
    /// Errors: a definition is not JSON with a name, or a collection has no shard.
    pub(crate) fn from_reply(
        reply: TopologyReply,
        answering_address: &str,
    ) -> Result<Self, MessageError> {
        let host = host_of(answering_address);
        Ok(Self {
            epoch: Epoch(reply.epoch),
            nodes: reply.nodes.into_iter().map(|node| node_info(node, host)).collect(),
            collections: reply
                .collections
                .into_iter()
                .map(collection_route)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The address of a core, if the node has it.
    #[must_use]
    pub fn address_of(&self, core: CoreAddress) -> Option<&str> {
        let address = self.nodes.get(core.node)?.core_addresses.get(core.core)?;
        Some(address.as_str())
    }

    /// Every data core.
    pub fn cores(&self) -> impl Iterator<Item = CoreAddress> + '_ {
        let nodes = self.nodes.iter().enumerate();
        nodes.flat_map(|(node, info)| {
            (0..info.core_addresses.len()).map(move |core| CoreAddress { node, core })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str) -> TopologyNode {
        TopologyNode {
            id: [1; 16],
            name: "one".to_owned(),
            address: address.to_owned(),
            native_port: 7_700,
            http_port: 0,
            core_ports: vec![7_701, 7_702],
        }
    }

    #[test]
    fn a_node_without_address_is_where_the_answer_came_from() {
        for (address, answering, expected) in [
            ("192.0.2.1", "10.0.0.1:7700", "192.0.2.1:7702"),
            ("", "10.0.0.1:7700", "10.0.0.1:7702"),
            ("0.0.0.0", "example.org:7700", "example.org:7702"),
            ("::", "[::1]:7700", "[::1]:7702"),
            ("fd00::2", "[::1]:7700", "[fd00::2]:7702"),
        ] {
            let nodes = vec![node(address)];
            let reply =
                TopologyReply { epoch: 1, answering_node: 0, nodes, collections: Vec::new() };
            let topology = Topology::from_reply(reply, answering).unwrap();
            let core = CoreAddress { node: 0, core: 1 };
            assert_eq!(topology.address_of(core), Some(expected));
            assert_eq!(topology.address_of(CoreAddress { node: 0, core: 2 }), None);
            assert_eq!(topology.cores().count(), 2);
        }
    }

    #[test]
    fn objects_are_routed_to_the_core_of_their_shard() {
        let collection = TopologyCollection {
            id: [2; 16],
            definition: r#"{"name":"Docs","key_of_a_newer_server":1}"#.to_owned(),
            shard_ids: vec![7, 8],
            shard_nodes: vec![0, 0],
            shard_cores: vec![1, 0],
            owners: vec![0, 1, 0, 1],
        };
        let (nodes, collections) = (vec![node("")], vec![collection]);
        let reply = TopologyReply { epoch: 1, answering_node: 0, nodes, collections };
        let topology = Topology::from_reply(reply, "h:1").unwrap();
        let route = &topology.collections["Docs"];
        let owners = [7, 8, 7, 8].map(ShardId).to_vec();
        let table = RoutingTable::from_owners(owners).unwrap();
        for row in 0..100 {
            let id = ObjectId::from_row(row);
            let core = if table.shard_of(&id) == ShardId(7) { 1 } else { 0 };
            assert_eq!(route.home_of(&id), Some(CoreAddress { node: 0, core }));
        }
    }

    #[test]
    fn a_topology_that_cannot_route_is_refused() {
        for (definition, owners) in [("[]", vec![0]), ("{}", vec![0]), (r#"{"name":"A"}"#, vec![])]
        {
            let collection = TopologyCollection {
                id: [2; 16],
                definition: definition.to_owned(),
                shard_ids: vec![7],
                shard_nodes: vec![0],
                shard_cores: vec![0],
                owners,
            };
            let (nodes, collections) = (vec![node("")], vec![collection]);
            let reply = TopologyReply { epoch: 1, answering_node: 0, nodes, collections };
            assert!(Topology::from_reply(reply, "h:1").is_err());
        }
    }
}
