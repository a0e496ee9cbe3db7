//! Why a handshake failed.

use heddle_types::{ApiError, ClusterId, ErrorCode, NodeId};
use heddle_wire::{HeaderError, MessageError};

use super::LINK_VERSION;

/// A handshake that failed. The connection is of no use; nothing was asked on it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// No header, or one of a body that no handshake has.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The body changed on the way.
    #[error(transparent)]
    Body(#[from] MessageError),
    /// A message that is not the next one of a handshake.
    #[error("message type {found:#06x} in a handshake, expected {expected:#06x}")]
    Type {
        /// The type field.
        found: u16,
        /// That of the message which is due.
        expected: u16,
    },
    /// A body that is too short or too long for its message.
    #[error("a {message} of {found} bytes, expected {expected}")]
    Length {
        /// The message.
        message: &'static str,
        /// Its bytes.
        found: usize,
        /// How many there should be, at least.
        expected: usize,
    },
    /// A field with a value that it never has.
    #[error("{field} of a {message} is {found}")]
    Field {
        /// The message.
        message: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// The name of the cluster is no text.
    #[error("the name of the cluster in a hello is no UTF-8")]
    ClusterText,
    /// The peer speaks another version of the protocol between nodes.
    #[error(
        "the peer's version of links between nodes is {found}, this side speaks {LINK_VERSION}"
    )]
    Version {
        /// The peer's version.
        found: u16,
    },
    /// The dialer belongs to another cluster.
    #[error("the dialer belongs to cluster {found:?}, this node to another one")]
    Cluster {
        /// The name that the dialer gave.
        found: String,
    },
    /// The two nodes belong to clusters of the same name that are not the same cluster.
    #[error(
        "the peer belongs to cluster {found}, this node to cluster {own}: two clusters of one name \
         and secret; one of them needs another name or join list"
    )]
    OtherCluster {
        /// The cluster of this side.
        own: ClusterId,
        /// That of the peer.
        found: ClusterId,
    },
    /// Both ends are on the same node.
    #[error("the node has dialed itself")]
    OwnNode,
    /// Another node answers at the address than the one that was meant.
    #[error("node {found} answers where node {expected} was expected")]
    OtherNode {
        /// The node that was meant.
        expected: NodeId,
        /// The node that is there.
        found: NodeId,
    },
    /// The peer does not know the secret of the cluster.
    #[error("the peer's proof is wrong: the two nodes have different cluster secrets")]
    Proof,
    /// The peer refused, and said why.
    #[error("the peer refused: {0}")]
    Refused(#[source] ApiError),
}

impl From<&HandshakeError> for ApiError {
    /// What the refusing side tells the other one.
    fn from(error: &HandshakeError) -> Self {
        let code = match error {
            HandshakeError::Version { .. } => ErrorCode::Unsupported,
            HandshakeError::Cluster { .. }
            | HandshakeError::OtherCluster { .. }
            | HandshakeError::OwnNode
            | HandshakeError::OtherNode { .. }
            | HandshakeError::Proof => ErrorCode::InvalidArgument,
            _ => ErrorCode::Protocol,
        };
        Self::new(code, error.to_string(), "")
    }
}
