//! Who a member is: a node, the run of it, and where it listens.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use heddle_types::NodeId;
use uuid::Uuid;

use super::codec::CodecError;

/// One run of a node: the higher one is the later start and wins at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation {
    /// Number of the start, counted in the node's data directory.
    pub boot: u64,
    /// Drawn at the start: tells two processes apart that count the same start, as copies of one
    /// data directory do. Never 0.
    pub run: u64,
}

/// A node in one of its runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The node.
    pub node: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
}

/// Bytes of an encoded [`Run`].
pub(super) const RUN_BYTES: usize = 16 + 8 + 8;

/// Bytes of an encoded [`Identity`].
pub(super) const IDENTITY_BYTES: usize = RUN_BYTES + 4 + 16 + 2;

impl Run {
    pub(super) fn encode(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(self.node.0.as_bytes());
        buffer.put_u64_le(self.incarnation.boot);
        buffer.put_u64_le(self.incarnation.run);
    }

    pub(super) fn decode(buffer: &mut impl Buf) -> Result<Self, CodecError> {
        let mut node = [0; 16];
        buffer.try_copy_to_slice(&mut node).map_err(|_short| CodecError::Truncated)?;
        let boot = buffer.try_get_u64_le().map_err(|_short| CodecError::Truncated)?;
        let run = buffer.try_get_u64_le().map_err(|_short| CodecError::Truncated)?;
        let node = NodeId(Uuid::from_bytes(node));
        Ok(Self { node, incarnation: Incarnation { boot, run } })
    }
}

/// What foca knows a member by. The order decides which of two claims to one node is kept: the
/// later run, then the later renewal of that run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// How often this run came back after the others had declared it down.
    pub(super) renewal: u32,
    /// Where it receives gossip.
    pub(super) gossip: SocketAddr,
}

impl Identity {
    pub(super) fn run(&self) -> Run {
        Run { node: self.node, incarnation: self.incarnation }
    }

    /// The caller has made sure of [`IDENTITY_BYTES`] of room.
    pub(super) fn encode(&self, buffer: &mut impl BufMut) {
        self.run().encode(buffer);
        buffer.put_u32_le(self.renewal);
        buffer.put_slice(&mapped(self.gossip.ip()).octets());
        buffer.put_u16_le(self.gossip.port());
    }

    pub(super) fn decode(buffer: &mut impl Buf) -> Result<Self, CodecError> {
        let run = Run::decode(buffer)?;
        let renewal = buffer.try_get_u32_le().map_err(|_short| CodecError::Truncated)?;
        let mut octets = [0; 16];
        buffer.try_copy_to_slice(&mut octets).map_err(|_short| CodecError::Truncated)?;
        let port = buffer.try_get_u16_le().map_err(|_short| CodecError::Truncated)?;
        let gossip = SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port);
        Ok(Self { node: run.node, incarnation: run.incarnation, renewal, gossip })
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        let renewal = self.renewal.checked_add(1)?;
        Some(Self { renewal, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self > adversary
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    fn identity(boot: u64, run: u64, renewal: u32, gossip: &str) -> Identity {
        let incarnation = Incarnation { boot, run };
        let gossip = gossip.parse().unwrap();
        Identity { node: NodeId::from(7), incarnation, renewal, gossip }
    }

    #[test]
    fn a_later_start_wins_over_any_renewal_of_an_earlier_one() {
        let earlier = identity(3, 900, 40, "10.0.0.9:1");
        let later = identity(4, 5, 0, "10.0.0.1:1");
        assert!(later.win_addr_conflict(&earlier));
        assert!(!earlier.win_addr_conflict(&later));
        assert!(earlier.renew().unwrap().win_addr_conflict(&earlier));
        assert_eq!(identity(1, 1, u32::MAX, "10.0.0.1:1").renew(), None);
    }

    #[test]
    fn both_families_of_addresses_survive_their_encoding() {
        for address in ["192.0.2.1:7946", "[2001:db8::7]:1", "[::1]:65535"] {
            let identity = identity(u64::MAX, 1, 2, address);
            let mut bytes = Vec::new();
            identity.encode(&mut bytes);
            assert_eq!(bytes.len(), IDENTITY_BYTES);
            assert_eq!(Identity::decode(&mut &bytes[..]), Ok(identity));
            for length in 0..bytes.len() {
                let cut = Identity::decode(&mut &bytes[..length]);
                assert_eq!(cut, Err(CodecError::Truncated));
            }
        }
    }
}
