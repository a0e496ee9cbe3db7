//! The client's picture of the cluster: nodes, cores, collections and routes.

use std::collections::BTreeMap;

use heddle_types::{CollectionId, Epoch, NodeId, ObjectId, RoutingTable, ShardId};
use heddle_wire::MessageError;
use heddle_wire::message::{
    ShardReplicas, TopologyCollection, TopologyNode, TopologyReplicasReply,
};
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
    /// Home core of each replica of each physical shard; none is without.
    pub shards: BTreeMap<ShardId, Vec<CoreAddress>>,
    /// Positions of the nodes that hold replicas, ascending; none when it has tenants: then any
    /// node knows where theirs are.
    pub nodes: Vec<usize>,
    /// Has a shard more than one replica?
    pub is_replicated: bool,
    /// From object to shard; none when it has tenants.
    pub table: Option<RoutingTable>,
}

impl CollectionRoute {
    /// The home core of the first replica of an object's shard.
    #[must_use]
    pub fn home_of(&self, id: &ObjectId) -> Option<CoreAddress> {
        self.replicas_of(id).first().copied()
    }

    /// The home cores of the replicas of an object's shard.
    #[must_use]
    pub fn replicas_of(&self, id: &ObjectId) -> &[CoreAddress] {
        let shard = self.table.as_ref().map(|table| table.shard_of(id));
        shard.and_then(|shard| self.shards.get(&shard)).map_or(&[], Vec::as_slice)
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
    replicas: &ShardReplicas,
) -> Result<(String, CollectionRoute), MessageError> {
    let invalid = MessageError::Layout { message: "collection of a topology" };
    // Only the name is needed to route, so a definition with keys of a newer server does no harm.
    let definition: Option<serde_json::Value> = serde_json::from_str(&collection.definition).ok();
    let name = definition.as_ref().and_then(|value| value.get("name")?.as_str()).ok_or(invalid)?;
    let ids: Vec<ShardId> = collection.shard_ids.iter().copied().map(ShardId).collect();
    let cores: Vec<CoreAddress> = replicas
        .nodes
        .iter()
        .zip(&replicas.cores)
        .map(|(node, core)| CoreAddress { node: usize::from(*node), core: usize::from(*core) })
        .collect();
    let starts = std::iter::once(0).chain(replicas.ends.iter().map(|end| *end as usize));
    let ranges = starts.zip(&replicas.ends).map(|(start, end)| start..*end as usize);
    let places = ranges.map(|range| cores.get(range).map(<[CoreAddress]>::to_vec));
    let places: Vec<Vec<CoreAddress>> = places.collect::<Option<_>>().ok_or(invalid)?;
    let owners: Option<Vec<ShardId>> =
        collection.owners.iter().map(|owner| ids.get(usize::from(*owner)).copied()).collect();
    let table = owners.and_then(RoutingTable::from_owners);
    // A collection with tenants has no shards of its own.
    if table.is_none() && !ids.is_empty() {
        return Err(invalid);
    }
    let shards: BTreeMap<ShardId, Vec<CoreAddress>> = ids.iter().copied().zip(places).collect();
    let mut nodes: Vec<usize> = cores.iter().map(|core| core.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let id = CollectionId(Uuid::from_bytes(collection.id));
    let name = name.to_owned();
    let is_replicated = shards.values().any(|replicas| replicas.len() > 1);
    let definition = collection.definition;
    Ok((name, CollectionRoute { id, definition, shards, nodes, is_replicated, table }))
}

impl Topology {
    /// Reads a reply that came from `answering_address`.
    ///
    /// Errors: a definition is not JSON with a name, or a collection has no shard.
    pub(crate) fn from_reply(
        reply: TopologyReplicasReply,
        answering_address: &str,
    ) -> Result<Self, MessageError> {
        let host = host_of(answering_address);
        let TopologyReplicasReply { topology: reply, replicas } = reply;
        Ok(Self {
            epoch: Epoch(reply.epoch),
            nodes: reply.nodes.into_iter().map(|node| node_info(node, host)).collect(),
            collections: reply
                .collections
                .into_iter()
                .zip(&replicas)
                .map(|(collection, replicas)| collection_route(collection, replicas))
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
    use heddle_wire::message::TopologyReply;

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

    fn reply(
        nodes: Vec<TopologyNode>,
        collection: Option<(TopologyCollection, ShardReplicas)>,
    ) -> TopologyReplicasReply {
        let (collections, replicas) = collection.into_iter().unzip();
        let topology = TopologyReply { epoch: 1, answering_node: 0, nodes, collections };
        TopologyReplicasReply { topology, replicas }
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
            let reply = reply(nodes, None);
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
        let replicas =
            ShardReplicas { ends: vec![1, 3], nodes: vec![0, 0, 1], cores: vec![1, 0, 1] };
        let reply = reply(vec![node(""), node("h2")], Some((collection, replicas)));
        let topology = Topology::from_reply(reply, "h:1").unwrap();
        let route = &topology.collections["Docs"];
        let owners = [7, 8, 7, 8].map(ShardId).to_vec();
        let table = RoutingTable::from_owners(owners).unwrap();
        for row in 0..100 {
            let id = ObjectId::from_row(row);
            let core = if table.shard_of(&id) == ShardId(7) { 1 } else { 0 };
            assert_eq!(route.home_of(&id), Some(CoreAddress { node: 0, core }));
            let others = &route.replicas_of(&id)[1..];
            let second = [CoreAddress { node: 1, core: 1 }];
            assert_eq!(others, if core == 1 { &second[..0] } else { &second });
        }
    }

    #[test]
    fn a_collection_with_tenants_has_no_shards_and_routes_nothing() {
        let collection = TopologyCollection {
            id: [2; 16],
            definition: r#"{"name":"Docs"}"#.to_owned(),
            shard_ids: vec![],
            shard_nodes: vec![],
            shard_cores: vec![],
            owners: vec![],
        };
        let reply = reply(vec![node("")], Some((collection, ShardReplicas::default())));
        let topology = Topology::from_reply(reply, "h:1").unwrap();
        assert_eq!(topology.collections["Docs"].home_of(&ObjectId::from_row(1)), None);
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
            let replicas = ShardReplicas { ends: vec![1], nodes: vec![0], cores: vec![0] };
            let reply = reply(vec![node("")], Some((collection, replicas)));
            assert!(Topology::from_reply(reply, "h:1").is_err());
        }
    }
}
