//! What the cluster knows of a node.

use heddle_types::limits::{ADDRESS_BYTES_MAX, CORES_MAX, NAME_LENGTH_BYTES_MAX};
use heddle_types::placement::check_labels;
use heddle_types::{ApiError, ErrorCode, Labels, NodeId};
use serde::{Deserialize, Serialize};

/// The label that names the part of the installation that fails as a whole.
pub const ZONE_LABEL: &str = "zone";

/// What part a node has in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Votes on changes of this state, and may hold replicas.
    Voter,
    /// Follows without a vote, and may hold replicas.
    Learner,
    /// On its way out: follows without a vote and takes no new replica.
    Draining,
}

/// Where a node is reached, each as `host:port`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// By clients; any data core answers.
    pub native: String,
    /// By clients that know the core they want: the port of the first data core, core `i` at `+ i`.
    pub core: String,
    /// By browsers and scrapers: health and metrics.
    pub http: String,
    /// By peers, for data: the port of the first data core, core `i` at `+ i`.
    pub peer: String,
    /// By peers, for this state.
    pub raft: String,
    /// By peers, for liveness and load.
    pub gossip: String,
}

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// Identity, written into its data directory; an empty disk has a new one.
    pub id: NodeId,
    /// Name for people, unique in the cluster.
    pub name: String,
    /// Where it is reached.
    pub addresses: Addresses,
    /// What operators say about it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its data cores: homes are below this number.
    pub data_cores: u32,
    /// Its part in the cluster.
    pub state: NodeState,
    /// It was alone before and has collections of its own, which it brings in before anything is
    /// created.
    #[serde(default, skip_serializing_if = "is_false")]
    pub brings_collections: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl NodeRecord {
    /// The zone it stands in; the unnamed one when no label says so.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.labels.get(ZONE_LABEL).map_or("", String::as_str)
    }

    /// Checks every rule that concerns this node alone.
    ///
    /// Errors: `InvalidName` or `InvalidArgument`, naming the part and what it should be.
    pub fn validate(&self) -> Result<(), ApiError> {
        if self.id == NodeId::default() {
            return Err(invalid("the node's id is all zeros", "the id of its data directory"));
        }
        check_node_name(&self.name)?;
        let addresses = &self.addresses;
        for (what, address) in [
            ("native", &addresses.native),
            ("core", &addresses.core),
            ("http", &addresses.http),
            ("peer", &addresses.peer),
            ("raft", &addresses.raft),
            ("gossip", &addresses.gossip),
        ] {
            check_address(what, address)?;
        }
        if !(1..=CORES_MAX as u32).contains(&self.data_cores) {
            let found = format!("data_cores is {}", self.data_cores);
            return Err(invalid(found, format!("1 to {CORES_MAX}")));
        }
        check_labels("labels", &self.labels)
    }
}

fn invalid(message: impl Into<String>, expected: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, message, expected)
}

/// Checks the name of a node. Host names are names too, so dots and dashes are allowed.
///
/// Errors: `InvalidName`, naming the name and the alphabet.
pub fn check_node_name(name: &str) -> Result<(), ApiError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.bytes().all(is_allowed) && name.len() <= NAME_LENGTH_BYTES_MAX {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_LENGTH_BYTES_MAX).collect();
    let alphabet = "a letter or digit, then letters, digits, _, - or .";
    Err(ApiError::new(
        ErrorCode::InvalidName,
        format!("node name {shown:?} is not allowed"),
        format!("{alphabet}, at most {NAME_LENGTH_BYTES_MAX} bytes"),
    ))
}

fn check_address(what: &str, address: &str) -> Result<(), ApiError> {
    let is_whole = address.rsplit_once(':').is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
        is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_whole && address.len() <= ADDRESS_BYTES_MAX {
        return Ok(());
    }
    let shown: String = address.chars().take(ADDRESS_BYTES_MAX).collect();
    let found = format!("the {what} address is {shown:?}");
    Err(invalid(found, format!("host:port, at most {ADDRESS_BYTES_MAX} bytes")))
}

#[cfg(test)]
mod tests {
    use super::super::testing::node;
    use super::*;

    #[test]
    fn each_rule_of_a_node_is_enforced_by_name() {
        assert_eq!(node(1).validate(), Ok(()));
        let check = |change: fn(&mut NodeRecord), part: &str| {
            let mut record = node(1);
            change(&mut record);
            let error = record.validate().expect_err("the record is bad");
            assert!(error.message.contains(part), "{error}");
        };
        check(|node| node.id = NodeId::default(), "id");
        check(|node| node.name = "-a".to_owned(), "-a");
        check(|node| node.name = "a".repeat(129), "aaa");
        check(|node| node.addresses.raft = "host".to_owned(), "raft");
        check(|node| node.addresses.native = ":7700".to_owned(), "native");
        check(|node| node.addresses.peer = "a b:1".to_owned(), "peer");
        check(|node| node.addresses.gossip = "host:0".to_owned(), "gossip");
        check(|node| node.addresses.gossip = format!("{}:1", "h".repeat(260)), "gossip");
        check(|node| node.data_cores = 0, "data_cores");
        check(|node| node.data_cores = 1_025, "data_cores");
        check(|node| drop(node.labels.insert("zone".to_owned(), String::new())), "zone");
        check(
            |node| node.labels.extend((0..33).map(|n| (format!("l{n}"), "x".to_owned()))),
            "33 labels",
        );
    }

    #[test]
    fn host_names_and_ipv6_addresses_are_accepted() {
        let mut record = node(1);
        record.name = "db-1.example.net".to_owned();
        record.addresses.raft = "[::1]:7500".to_owned();
        assert_eq!(record.validate(), Ok(()));
    }
}
