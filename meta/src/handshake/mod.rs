//! How the two ends of a connection between nodes prove to each other that they know the secret of
//! the cluster, and say who they are. Knows no socket, clock or randomness.
//!
//! Challenge and response in both directions, over four messages:
//!
//! ```text
//! dialer                                    acceptor
//!   hello: identity, nonce, lane, cluster ──▶
//!   ◀────────────── challenge: identity, nonce
//!   proof: MAC of all of it ────────────────▶
//!   ◀──── accepted: another MAC of all of it
//! ```
//!
//! The secret never travels, and an acceptor shows nothing that depends on it before the dialer has
//! proven itself. Each side draws its nonce anew, so nothing recorded is of use; the MACs differ by
//! a label, so nothing can be sent back to where it came from. What is proven is who stands at
//! the ends when the connection begins: the bytes after it carry checksums and no seal, so a
//! network in which somebody can change packets needs encryption below.
//!
//! The steps are types, each made by the one before it: a message out of turn is not something that
//! can be handled.

mod error;
mod message;
#[cfg(test)]
mod tests;

use std::fmt;

use heddle_types::limits::NAME_LENGTH_BYTES_MAX;
use heddle_types::{ClusterId, NodeId};
use heddle_wire::{HEADER_BYTES, Header, header};

pub use error::HandshakeError;
pub use message::{
    ACCEPTED_NUMBER, CHALLENGE_NUMBER, HANDSHAKE_BODY_BYTES_MAX, HELLO_NUMBER, PROOF_NUMBER,
};
use message::{Challenge, Hello, PROOF_BYTES};

/// Version of the handshake and of the messages between nodes after it.
pub const LINK_VERSION: u16 = 2;
/// Bytes of a nonce: so many that none is ever drawn twice.
pub const NONCE_BYTES: usize = 32;

/// A number used once.
pub type Nonce = [u8; NONCE_BYTES];

/// What a connection between nodes is for. Lanes keep long transfers out of the way of short calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Lane {
    /// Reads and writes of objects, between data cores.
    Data = 0,
    /// Consensus and membership, between meta cores.
    Control = 1,
    /// Copies of shards.
    Repair = 2,
}

impl Lane {
    /// Every lane, by number.
    pub const ALL: [Self; 3] = [Self::Data, Self::Control, Self::Repair];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The lane of a number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.number() == number)
    }

    /// Lower-case name, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Control => "control",
            Self::Repair => "repair",
        }
    }
}

/// One end of a connection between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// The node.
    pub node: NodeId,
    /// Which of its starts.
    pub boot: u64,
    /// Which of its cores.
    pub core: u32,
}

/// What proofs are made with.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkKey([u8; blake3::KEY_LEN]);

impl LinkKey {
    /// The key of a cluster's secret.
    ///
    /// An empty secret gives a key that everybody knows: the network is trusted then. Who pretends
    /// to be an acceptor receives a proof, and may try secrets on it: a secret should be 16 random
    /// bytes or more, not a word.
    #[must_use]
    pub fn from_secret(secret: &[u8]) -> Self {
        Self(blake3::derive_key("heddle 2026 link between nodes proof 1", secret))
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(..)")
    }
}

/// What a side brings to every handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Party {
    /// Its own end.
    pub end: End,
    /// Name of the cluster, 1 to [`NAME_LENGTH_BYTES_MAX`] bytes.
    pub cluster: String,
    /// Identity of the cluster, once the node knows it.
    pub cluster_id: Option<ClusterId>,
    /// Of the cluster's secret.
    pub key: LinkKey,
}

impl Party {
    /// Two clusters may have one name and one secret: they have grown from one join list. A side
    /// that knows of no cluster yet may belong to any.
    fn check_cluster(&self, peers: Option<ClusterId>) -> Result<(), HandshakeError> {
        match (self.cluster_id, peers) {
            (Some(own), Some(found)) if own != found => {
                Err(HandshakeError::OtherCluster { own, found })
            }
            _ => Ok(()),
        }
    }
}

/// A message of a handshake as it came off the wire, header checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received<'a> {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: &'a [u8],
}

/// Reads the header of a message of a handshake: how many bytes of body to read.
///
/// Errors: no header, or a body above [`HANDSHAKE_BODY_BYTES_MAX`].
pub fn read_header(bytes: &[u8; HEADER_BYTES]) -> Result<Header, HandshakeError> {
    Ok(header::parse(bytes, HANDSHAKE_BODY_BYTES_MAX)?)
}

/// The side that has sent its hello.
#[derive(Debug)]
pub struct Dialer {
    party: Party,
    hello: Hello,
}

/// The dialing side that has sent its proof.
#[derive(Debug)]
pub struct Proving {
    peer: End,
    expected: blake3::Hash,
}

impl Dialer {
    /// Begins: the hello to send.
    ///
    /// `expected`: the node that must answer; none takes whoever does. `nonce`: never used before,
    /// and nobody can guess it. Panics: the cluster has no name, or a long one (checked when the
    /// node starts).
    #[must_use]
    pub fn start(
        party: Party,
        lane: Lane,
        expected: Option<NodeId>,
        nonce: Nonce,
    ) -> (Self, Vec<u8>) {
        let names = 1..=NAME_LENGTH_BYTES_MAX;
        assert!(names.contains(&party.cluster.len()), "the settings were checked");
        let (end, cluster) = (party.end, party.cluster.clone());
        let cluster_id = party.cluster_id;
        let hello = Hello { end, lane, expected, nonce, cluster_id, cluster };
        let frame = hello.encode();
        (Self { party, hello }, frame)
    }

    /// Takes the challenge: the proof to send. Nothing is proven of the peer yet.
    ///
    /// Errors: it is none, or that of a node which must not answer or of another cluster.
    pub fn challenged(self, message: Received<'_>) -> Result<(Proving, Vec<u8>), HandshakeError> {
        let challenge = Challenge::decode(message)?;
        let peer = challenge.end;
        if peer.node == self.party.end.node {
            return Err(HandshakeError::OwnNode);
        }
        if let Some(expected) = self.hello.expected.filter(|expected| *expected != peer.node) {
            return Err(HandshakeError::OtherNode { expected, found: peer.node });
        }
        self.party.check_cluster(challenge.cluster_id)?;
        let proofs = Proofs::of(&self.party.key, &self.hello, &challenge);
        let frame = message::encode_proof(PROOF_NUMBER, &proofs.dialer);
        Ok((Proving { peer, expected: proofs.acceptor }, frame))
    }
}

impl Proving {
    /// Takes the acceptor's proof: who is at the other end.
    ///
    /// Errors: it is none, or a wrong one.
    pub fn accepted(self, message: Received<'_>) -> Result<End, HandshakeError> {
        check_proof(ACCEPTED_NUMBER, message, &self.expected)?;
        Ok(self.peer)
    }
}

/// The side that waits for a hello.
#[derive(Debug)]
pub struct Acceptor {
    party: Party,
    nonce: Nonce,
}

/// The accepting side that has sent its challenge.
#[derive(Debug)]
pub struct Challenging {
    peer: End,
    lane: Lane,
    proofs: Proofs,
}

impl Acceptor {
    /// `nonce`: never used before, and nobody can guess it.
    #[must_use]
    pub fn new(party: Party, nonce: Nonce) -> Self {
        Self { party, nonce }
    }

    /// Takes a hello: the challenge to send.
    ///
    /// Errors: it is none, or of another cluster, of this node itself, or meant for another node.
    pub fn hello(self, message: Received<'_>) -> Result<(Challenging, Vec<u8>), HandshakeError> {
        let hello = Hello::decode(message)?;
        let own = self.party.end;
        if hello.cluster != self.party.cluster {
            return Err(HandshakeError::Cluster { found: hello.cluster });
        }
        self.party.check_cluster(hello.cluster_id)?;
        if hello.end.node == own.node {
            return Err(HandshakeError::OwnNode);
        }
        if let Some(expected) = hello.expected.filter(|expected| *expected != own.node) {
            return Err(HandshakeError::OtherNode { expected, found: own.node });
        }
        let cluster_id = self.party.cluster_id;
        let challenge = Challenge { end: own, nonce: self.nonce, cluster_id };
        let proofs = Proofs::of(&self.party.key, &hello, &challenge);
        let frame = challenge.encode();
        Ok((Challenging { peer: hello.end, lane: hello.lane, proofs }, frame))
    }
}

impl Challenging {
    /// Takes the dialer's proof: who is at the other end, what for, and the answer to send.
    ///
    /// Errors: it is none, or a wrong one.
    pub fn proven(self, message: Received<'_>) -> Result<(End, Lane, Vec<u8>), HandshakeError> {
        check_proof(PROOF_NUMBER, message, &self.proofs.dialer)?;
        let frame = message::encode_proof(ACCEPTED_NUMBER, &self.proofs.acceptor);
        Ok((self.peer, self.lane, frame))
    }
}

/// What each side has to show.
#[derive(Debug)]
struct Proofs {
    dialer: blake3::Hash,
    acceptor: blake3::Hash,
}

impl Proofs {
    fn of(key: &LinkKey, hello: &Hello, challenge: &Challenge) -> Self {
        let (hello, challenge) = (hello.body(), challenge.body());
        let proof = |label: &[u8; 8]| {
            let mut hasher = blake3::Hasher::new_keyed(&key.0);
            hasher.update(label);
            // The hello has no fixed length; the challenge has.
            hasher.update(&(hello.len() as u64).to_le_bytes());
            hasher.update(&hello);
            hasher.update(&challenge);
            hasher.finalize()
        };
        Self { dialer: proof(b"dialer  "), acceptor: proof(b"acceptor") }
    }
}

fn check_proof(
    number: u16,
    message: Received<'_>,
    expected: &blake3::Hash,
) -> Result<(), HandshakeError> {
    let found: [u8; PROOF_BYTES] = message::decode_proof(number, message)?;
    // The comparison of hashes takes the same time wherever they differ.
    if *expected != blake3::Hash::from_bytes(found) {
        return Err(HandshakeError::Proof);
    }
    Ok(())
}
