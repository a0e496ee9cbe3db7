//! The first exchange on a connection.

use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::{Checked, at_most, name};
use crate::limits::HELLO_TEXT_BYTES_MAX;

/// The client wants to hear when the topology has changed: [`super::TopologyNotice`].
pub const FEATURE_TOPOLOGY_NOTICES: u64 = 1;
/// The client wants `StaleEpoch` when it routed a request by an older catalog than the server has,
/// instead of a server that routes it anew.
pub const FEATURE_STALE_EPOCH: u64 = 2;
/// Feature bits that this version knows. Unknown bits are ignored by both sides.
pub const FEATURES: u64 = FEATURE_TOPOLOGY_NOTICES | FEATURE_STALE_EPOCH;

/// Who connects and which versions it speaks. Optional: a client may start with any request.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct HelloRequest {
    /// Lowest version that the client speaks.
    pub version_min: u16,
    /// Highest version that the client speaks.
    pub version_max: u16,
    /// Feature bits that the client understands.
    pub features: u64,
    /// Name and version of the client program, for logs.
    pub client: String,
}

impl Layout for HelloRequest {
    fn check(archived: &ArchivedHelloRequest) -> Checked {
        at_most("client name length", archived.client.len(), HELLO_TEXT_BYTES_MAX)
    }
}

/// Who answers and what it allows.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct HelloReply {
    /// The version that both sides speak from now on.
    pub version: u16,
    /// Data core that serves this connection.
    pub core: u16,
    /// Data cores of the node.
    pub core_count: u16,
    /// Feature bits that both sides understand.
    pub features: u64,
    /// Identity of the node, the bytes of its UUID.
    pub node_id: [u8; 16],
    /// Name of the node.
    pub node_name: String,
    /// Version of the server program.
    pub server_version: String,
    /// Wall clock of the node, microseconds since the Unix epoch.
    pub server_time_us: u64,
    /// Largest body that the server accepts.
    pub body_bytes_max: u32,
    /// Most requests of one connection that may wait for their replies.
    pub requests_in_flight_max: u32,
    /// Most request bytes of one connection that may wait for their replies.
    pub bytes_in_flight_max: u32,
}

impl Layout for HelloReply {
    fn check(archived: &ArchivedHelloReply) -> Checked {
        name("node name length", &archived.node_name)?;
        at_most("server version length", archived.server_version.len(), HELLO_TEXT_BYTES_MAX)
    }
}
