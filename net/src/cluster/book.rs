//! Where the Raft of each node is dialled: the newest that this node has heard.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use heddle_meta::cluster::ClusterState;
use heddle_meta::raft::Member;
use heddle_types::NodeId;

use crate::peer::Target;
use crate::resolve::fqdn_address;

/// How names become addresses when Raft dials names instead of addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NameRule {
    /// Behind each node's name; empty for none.
    pub(super) domain: String,
    /// The port of Raft.
    pub(super) port: u16,
}

/// Addresses of Raft by node.
///
/// What a node said of itself lately counts more than the cluster's state, which a node that has
/// just moved could not change yet; and that counts more than the Raft group's own record.
#[derive(Debug)]
pub(super) struct AddressBook {
    rule: Option<NameRule>,
    told: RefCell<BTreeMap<NodeId, String>>,
    names: RefCell<BTreeMap<NodeId, String>>,
    recorded: RefCell<BTreeMap<NodeId, String>>,
}

impl AddressBook {
    pub(super) fn new(rule: Option<NameRule>) -> Self {
        Self {
            rule,
            told: RefCell::default(),
            names: RefCell::default(),
            recorded: RefCell::default(),
        }
    }

    /// A node has said by itself who it is and where.
    pub(super) fn heard(&self, node: NodeId, name: &str, raft: &str) {
        self.told.borrow_mut().insert(node, raft.to_owned());
        self.names.borrow_mut().insert(node, name.to_owned());
    }

    /// A node was seen alive at an address. Only where addresses are recorded: a name leads to the
    /// node wherever it is.
    pub(super) fn seen(&self, node: NodeId, raft: SocketAddr) {
        let recorded = self.recorded.borrow();
        let recorded = recorded.get(&node).and_then(|text| text.parse::<SocketAddr>().ok());
        if recorded.is_some_and(|recorded| recorded != raft) {
            self.told.borrow_mut().insert(node, raft.to_string());
        }
    }

    /// Takes over what the cluster's state says. What a node said before counts only while the
    /// state does not say the same: it may move again.
    pub(super) fn follow(&self, state: &ClusterState) {
        let mut told = self.told.borrow_mut();
        let mut names = self.names.borrow_mut();
        let mut recorded = BTreeMap::new();
        for node in state.nodes() {
            let raft = &node.addresses.raft;
            recorded.insert(node.id, raft.clone());
            names.insert(node.id, node.name.clone());
            if told.get(&node.id) == Some(raft) {
                told.remove(&node.id);
            }
        }
        self.recorded.replace(recorded);
    }

    /// Where to dial a member of the Raft group.
    pub(super) fn target(&self, node: NodeId, member: &Member) -> Target {
        let known = self.address(node).unwrap_or_else(|| member.address.clone());
        Target { node: Some(node), address: known }
    }

    /// Where to dial a node, if anything is known of it.
    pub(super) fn address(&self, node: NodeId) -> Option<String> {
        if let Some(rule) = &self.rule
            && let Some(name) = self.names.borrow().get(&node)
        {
            return Some(fqdn_address(name, &rule.domain, rule.port));
        }
        let told = self.told.borrow().get(&node).cloned();
        told.or_else(|| self.recorded.borrow().get(&node).cloned())
    }

    /// The known addresses of all nodes.
    pub(super) fn addresses(&self) -> BTreeMap<NodeId, String> {
        let mut nodes: Vec<NodeId> = self.recorded.borrow().keys().copied().collect();
        nodes.extend(self.told.borrow().keys());
        nodes.into_iter().filter_map(|node| Some((node, self.address(node)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member { address: "10.0.0.1:7500".to_owned() }
    }

    #[test]
    fn what_a_node_says_of_itself_comes_before_what_the_group_recorded() {
        let (book, node) = (AddressBook::new(None), NodeId::from(1));
        assert_eq!(book.target(node, &member()).address, "10.0.0.1:7500");
        book.heard(node, "db-1", "10.0.0.9:7500");
        let target = book.target(node, &member());
        assert_eq!((target.node, target.address.as_str()), (Some(node), "10.0.0.9:7500"));
        assert_eq!(book.addresses(), BTreeMap::from([(node, "10.0.0.9:7500".to_owned())]));
    }

    #[test]
    fn where_a_node_was_seen_corrects_an_address_and_not_a_name() {
        use heddle_meta::cluster::{
            Addresses, ClusterCommand, CommandId, Labels, NodeRecord, NodeState, Request,
        };
        let seen = "10.0.0.9:7500".parse().unwrap();
        for (recorded, expected) in
            [("10.0.0.1:7500", "10.0.0.9:7500"), ("db-1.heddle.svc:7500", "db-1.heddle.svc:7500")]
        {
            let address = || recorded.to_owned();
            let record = NodeRecord {
                id: NodeId::from(1),
                name: "db-1".to_owned(),
                addresses: Addresses {
                    native: address(),
                    core: address(),
                    http: address(),
                    peer: address(),
                    raft: address(),
                    gossip: address(),
                },
                labels: Labels::new(),
                data_cores: 1,
                state: NodeState::Voter,
                brings_collections: false,
            };
            let id = CommandId(uuid::Uuid::from_u128(1));
            let add = Request::new(id, ClusterCommand::AddNode(record)).unwrap();
            let mut state = ClusterState::default();
            state.apply(&add).unwrap();
            let book = AddressBook::new(None);
            book.follow(&state);
            book.seen(NodeId::from(1), seen);
            assert_eq!(book.address(NodeId::from(1)).as_deref(), Some(expected));
        }
    }

    #[test]
    fn with_names_the_address_is_made_of_the_name_whatever_was_recorded() {
        let rule = NameRule { domain: "heddle.svc".to_owned(), port: 7500 };
        let (book, node) = (AddressBook::new(Some(rule)), NodeId::from(1));
        assert_eq!(book.target(node, &member()).address, "10.0.0.1:7500", "its name is not known");
        book.heard(node, "db-1", "10.0.0.9:7500");
        assert_eq!(book.target(node, &member()).address, "db-1.heddle.svc:7500");
    }
}
