//! Who serves what: nodes, cores, ports, collections and their routing tables.

use heddle_types::limits::{COLLECTIONS_MAX, CORES_MAX, SHARDS_PER_COLLECTION_MAX};
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{Checked, at_most, ends, equal, name};
use super::{Layout, MessageError, u16s, u32s, u64s};
use crate::limits::{DEFINITION_BYTES_MAX, HELLO_TEXT_BYTES_MAX, NODES_MAX, VIRTUAL_SHARDS_MAX};

/// Asks for the topology.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct TopologyRequest {
    /// Version of the catalog that the client has; 0 = none. If it is the newest, the reply holds
    /// no nodes and no collections.
    pub known_epoch: u64,
}

impl Layout for TopologyRequest {
    fn check(_: &ArchivedTopologyRequest) -> Checked {
        Ok(())
    }
}

/// A node and where it listens.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TopologyNode {
    /// Identity, the bytes of its UUID.
    pub id: [u8; 16],
    /// Name.
    pub name: String,
    /// Address or host name without port; empty = the one that the client is connected to.
    pub address: String,
    /// Port that any data core may answer.
    pub native_port: u16,
    /// Port of the HTTP endpoints; 0 = none.
    pub http_port: u16,
    /// Port of each data core, in order.
    pub core_ports: Vec<u16>,
}

/// A collection, its shards and the table that routes objects to them.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TopologyCollection {
    /// Identity, the bytes of its UUID.
    pub id: [u8; 16],
    /// `CollectionConfig` as JSON text.
    pub definition: String,
    /// Id of each physical shard.
    pub shard_ids: Vec<u64>,
    /// Position in `TopologyReply::nodes` of the node that serves each shard.
    pub shard_nodes: Vec<u16>,
    /// Home core of each shard on its node.
    pub shard_cores: Vec<u16>,
    /// Position in `shard_ids` of the owner of each virtual shard.
    pub owners: Vec<u16>,
}

/// The topology.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TopologyReply {
    /// Version of the catalog.
    pub epoch: u64,
    /// The node that answers: position in `nodes`.
    pub answering_node: u16,
    /// Every node; empty when the client is up to date.
    pub nodes: Vec<TopologyNode>,
    /// Every collection; empty when the client is up to date.
    pub collections: Vec<TopologyCollection>,
}

impl ArchivedTopologyNode {
    /// Port of each data core.
    #[must_use]
    pub fn core_ports(&self) -> &[u16] {
        u16s(&self.core_ports)
    }
}

impl ArchivedTopologyCollection {
    /// Id of each physical shard.
    #[must_use]
    pub fn shard_ids(&self) -> &[u64] {
        u64s(&self.shard_ids)
    }

    /// Owner of each virtual shard, as a position in the shard ids.
    #[must_use]
    pub fn owners(&self) -> &[u16] {
        u16s(&self.owners)
    }

    fn check(&self, nodes: &[ArchivedTopologyNode]) -> Checked {
        at_most("definition length", self.definition.len(), DEFINITION_BYTES_MAX)?;
        let count = self.shard_ids.len();
        at_most("shards", count, SHARDS_PER_COLLECTION_MAX as usize)?;
        equal("shard nodes", self.shard_nodes.len(), count)?;
        equal("shard cores", self.shard_cores.len(), count)?;
        at_most("virtual shards", self.owners.len(), VIRTUAL_SHARDS_MAX)?;
        for (node, core) in u16s(&self.shard_nodes).iter().zip(u16s(&self.shard_cores)) {
            let Some(node) = nodes.get(usize::from(*node)) else {
                let found = u64::from(*node);
                return Err(MessageError::UnknownValue { field: "shard node", found });
            };
            if usize::from(*core) >= node.core_ports.len() {
                let found = u64::from(*core);
                return Err(MessageError::UnknownValue { field: "shard core", found });
            }
        }
        match self.owners().iter().find(|owner| usize::from(**owner) >= count) {
            Some(owner) => {
                let found = u64::from(*owner);
                Err(MessageError::UnknownValue { field: "owner of a virtual shard", found })
            }
            None => Ok(()),
        }
    }
}

impl Layout for TopologyReply {
    fn check(archived: &ArchivedTopologyReply) -> Checked {
        at_most("nodes", archived.nodes.len(), NODES_MAX)?;
        at_most("collections", archived.collections.len(), COLLECTIONS_MAX)?;
        for node in archived.nodes.iter() {
            name("node name length", &node.name)?;
            at_most("address length", node.address.len(), HELLO_TEXT_BYTES_MAX)?;
            at_most("data cores", node.core_ports.len(), CORES_MAX)?;
        }
        let answering = usize::from(archived.answering_node.to_native());
        if !archived.nodes.is_empty() && answering >= archived.nodes.len() {
            let found = answering as u64;
            return Err(MessageError::UnknownValue { field: "answering node", found });
        }
        archived.collections.iter().try_for_each(|collection| collection.check(&archived.nodes))
    }

    fn size_hint_bytes(&self) -> usize {
        let collection = |collection: &TopologyCollection| {
            128 + collection.definition.len()
                + 12 * collection.shard_ids.len()
                + 2 * collection.owners.len()
        };
        512 + 256 * self.nodes.len() + self.collections.iter().map(collection).sum::<usize>()
    }
}

/// Asks for the topology with every replica of every shard.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct TopologyReplicasRequest {
    /// As in [`TopologyRequest`].
    pub known_epoch: u64,
}

impl Layout for TopologyReplicasRequest {
    fn check(_: &ArchivedTopologyReplicasRequest) -> Checked {
        Ok(())
    }
}

/// Where the replicas of the shards of one collection are; replica `i` of all is at `nodes[i]` and
/// `cores[i]`, and those of shard `s` are `ends[s - 1]..ends[s]`.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ShardReplicas {
    /// Where the replicas of each shard end; a shard has at least one.
    pub ends: Vec<u32>,
    /// Position in `TopologyReply::nodes` of the node of each replica.
    pub nodes: Vec<u16>,
    /// Home core of each replica on its node.
    pub cores: Vec<u16>,
}

/// The topology with every replica.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TopologyReplicasReply {
    /// The topology.
    pub topology: TopologyReply,
    /// Of each of its collections, in their order.
    pub replicas: Vec<ShardReplicas>,
}

impl ArchivedShardReplicas {
    fn check(&self, shards: usize, nodes: &[ArchivedTopologyNode]) -> Checked {
        let count = self.nodes.len();
        let field = "ends of replicas";
        ends(field, u32s(&self.ends), shards, count)?;
        equal("replica cores", self.cores.len(), count)?;
        let starts = std::iter::once(&0).chain(u32s(&self.ends));
        // An empty part would leave a shard without a place.
        if let Some(index) = starts.zip(u32s(&self.ends)).position(|(start, end)| start == end) {
            return Err(MessageError::Order { field, index });
        }
        for (node, core) in u16s(&self.nodes).iter().zip(u16s(&self.cores)) {
            let cores = nodes.get(usize::from(*node)).map_or(0, |node| node.core_ports.len());
            if usize::from(*core) >= cores {
                let found = u64::from(*node);
                return Err(MessageError::UnknownValue { field: "node of a replica", found });
            }
        }
        Ok(())
    }
}

impl Layout for TopologyReplicasReply {
    fn check(archived: &ArchivedTopologyReplicasReply) -> Checked {
        TopologyReply::check(&archived.topology)?;
        let collections = &archived.topology.collections;
        equal("replicas of collections", archived.replicas.len(), collections.len())?;
        for (replicas, collection) in archived.replicas.iter().zip(collections.iter()) {
            replicas.check(collection.shard_ids.len(), &archived.topology.nodes)?;
        }
        Ok(())
    }

    fn size_hint_bytes(&self) -> usize {
        let replicas = self.replicas.iter().map(|of| 32 + 4 * of.ends.len() + 4 * of.nodes.len());
        self.topology.size_hint_bytes() + replicas.sum::<usize>()
    }
}
