//! The nodes of the cluster, as a core knows them.

use heddle_types::{CoreIndex, NodeId};
use serde::{Deserialize, Serialize};

/// A node and where it is reached; addresses are `host:port`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerNode {
    /// Identity.
    pub id: NodeId,
    /// Name for people.
    pub name: String,
    /// For clients: any data core.
    pub native: String,
    /// For clients: the first data core; each later one has the next port.
    pub core: String,
    /// Health and metrics.
    pub http: String,
    /// For nodes: the first data core; each later one has the next port.
    pub peer: String,
    /// Its data cores.
    pub data_cores: u32,
}

/// Host and port of `host:port`; the host of an IPv6 address keeps its brackets.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

impl PeerNode {
    /// Where another node reaches a data core of this one; none when the node has no such core.
    pub(crate) fn peer_address(&self, core: CoreIndex) -> Option<String> {
        if core >= self.data_cores as usize {
            return None;
        }
        let (host, first) = split(&self.peer)?;
        Some(format!("{host}:{}", first.checked_add(u16::try_from(core).ok()?)?))
    }

    /// The host where clients reach it, without brackets, and its ports there: of any core, of each
    /// core, of HTTP (0 for none). None when its addresses are not whole.
    pub(crate) fn client_ports(&self) -> Option<(String, u16, Vec<u16>, u16)> {
        let (host, native_port) = split(&self.native)?;
        let (_, first) = split(&self.core)?;
        let core = |core| first.checked_add(core);
        let core_ports: Option<Vec<u16>> = (0..self.data_cores as u16).map(core).collect();
        let http_port = split(&self.http).map_or(0, |(_, port)| port);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some((host, native_port, core_ports?, http_port))
    }
}

/// Every node of the cluster; empty on a node that is alone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Nodes(Vec<PeerNode>);

impl Nodes {
    pub(crate) fn new(mut nodes: Vec<PeerNode>) -> Self {
        nodes.sort_by_key(|node| node.id);
        Self(nodes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&PeerNode> {
        let place = self.0.binary_search_by_key(&id, |node| node.id).ok()?;
        self.0.get(place)
    }

    /// The nodes, by identity.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &PeerNode> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn node(number: u128) -> PeerNode {
        PeerNode {
            id: NodeId(Uuid::from_u128(number)),
            name: format!("node-{number}"),
            native: "[fd00::1]:7700".to_owned(),
            core: "[fd00::1]:7701".to_owned(),
            http: "[fd00::1]:8080".to_owned(),
            peer: "[fd00::1]:7600".to_owned(),
            data_cores: 3,
        }
    }

    #[test]
    fn each_core_has_a_port_of_its_own() {
        let node = node(1);
        assert_eq!(node.peer_address(2).as_deref(), Some("[fd00::1]:7602"));
        assert_eq!(node.peer_address(3), None);
        let expected = ("fd00::1".to_owned(), 7_700, vec![7_701, 7_702, 7_703], 8_080);
        assert_eq!(node.client_ports(), Some(expected));
        let last = PeerNode { peer: "h:65535".to_owned(), ..node };
        assert_eq!(last.peer_address(0).as_deref(), Some("h:65535"));
        assert_eq!(last.peer_address(1), None);
    }

    #[test]
    fn nodes_are_found_by_identity() {
        let nodes = Nodes::new(vec![node(3), node(1), node(2)]);
        assert_eq!(nodes.get(NodeId(Uuid::from_u128(2))).unwrap().name, "node-2");
        assert!(nodes.get(NodeId(Uuid::from_u128(4))).is_none());
        assert_eq!(nodes.iter().count(), 3);
    }
}
