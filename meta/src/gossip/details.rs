//! What members say of themselves, and how that spreads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Buf, BufMut};
use heddle_types::NodeId;

use super::codec::CodecError;
use super::identity::{Identity, RUN_BYTES, Run};
use super::settings::MEMBERS_MAX;

/// What a member offers: where it is reached beside gossip, how large it is, how busy it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// Port of Raft, on the host of the gossip address.
    pub raft_port: u16,
    /// Port of replication on the first data core, on the same host.
    pub peer_port: u16,
    /// Data cores.
    pub cores: u16,
    /// How busy its data cores are, in thousandths of all of them.
    pub load_permille: u16,
    /// Free space of its data directory.
    pub disk_free_bytes: u64,
}

/// A member's offer, and which of its offers it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Details {
    pub(super) run: Run,
    /// Counts the offers of the run.
    pub(super) sequence: u64,
    pub(super) offer: Offer,
}

/// Bytes of encoded [`Details`]: fixed, so that they never crowd out the news of who lives.
pub(super) const DETAILS_BYTES: usize = RUN_BYTES + 8 + 4 * 2 + 8;

impl Details {
    pub(super) fn encode(&self, buffer: &mut impl BufMut) {
        self.run.encode(buffer);
        buffer.put_u64_le(self.sequence);
        buffer.put_u16_le(self.offer.raft_port);
        buffer.put_u16_le(self.offer.peer_port);
        buffer.put_u16_le(self.offer.cores);
        buffer.put_u16_le(self.offer.load_permille);
        buffer.put_u64_le(self.offer.disk_free_bytes);
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DETAILS_BYTES);
        self.encode(&mut bytes);
        bytes
    }

    /// Reads exactly [`DETAILS_BYTES`].
    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, CodecError> {
        if bytes.len() != DETAILS_BYTES {
            return Err(CodecError::DetailsLength { found: bytes.len() });
        }
        let run = Run::decode(&mut bytes)?;
        let sequence = bytes.get_u64_le();
        let offer = Offer {
            raft_port: bytes.get_u16_le(),
            peer_port: bytes.get_u16_le(),
            cores: bytes.get_u16_le(),
            load_permille: bytes.get_u16_le(),
            disk_free_bytes: bytes.get_u64_le(),
        };
        Ok(Self { run, sequence, offer })
    }

    fn age(&self) -> (super::Incarnation, u64) {
        (self.run.incarnation, self.sequence)
    }
}

/// The newest details of each node, and whose are news to the machine.
#[derive(Debug)]
pub(super) struct Roster {
    own: NodeId,
    known: BTreeMap<NodeId, Details>,
    news: Vec<NodeId>,
}

impl Roster {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, known: BTreeMap::new(), news: Vec::new() }
    }

    pub(super) fn get(&self, run: Run) -> Option<Offer> {
        self.known.get(&run.node).filter(|known| known.run == run).map(|known| known.offer)
    }

    /// Takes details that are newer than those known; false for all others.
    pub(super) fn merge(&mut self, details: Details) -> bool {
        let node = details.run.node;
        let known = self.known.get(&node);
        let is_full = known.is_none() && self.known.len() >= MEMBERS_MAX;
        if is_full || known.is_some_and(|known| known.age() >= details.age()) {
            return false;
        }
        self.known.insert(node, details);
        self.news.push(node);
        true
    }

    /// The nodes whose details changed since the last call.
    pub(super) fn take_news(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.news)
    }

    /// Forgets nodes when half the room is taken, so that those that are gone never fill it.
    pub(super) fn prune(&mut self, is_kept: impl Fn(NodeId) -> bool) {
        if self.known.len() > MEMBERS_MAX.div_euclid(2) {
            self.known.retain(|node, _| is_kept(*node));
        }
    }
}

/// The roster as foca calls it; shared, because foca owns its handler and lends it to nobody.
#[derive(Clone, Debug)]
pub(super) struct SharedRoster(pub(super) Rc<RefCell<Roster>>);

/// Of the broadcasts waiting to be sent, one per node is kept.
#[derive(Debug)]
pub(super) struct DetailsKey(NodeId);

impl foca::Invalidates for DetailsKey {
    fn invalidates(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl foca::BroadcastHandler<Identity> for SharedRoster {
    type Key = DetailsKey;
    type Error = CodecError;

    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&Identity>,
    ) -> Result<Option<DetailsKey>, CodecError> {
        let details = Details::decode(data)?;
        let node = details.run.node;
        let mut roster = self.0.borrow_mut();
        // What others say of this node is an echo, or the words of a twin.
        if node == roster.own && sender.is_some() {
            return Ok(None);
        }
        Ok(roster.merge(details).then_some(DetailsKey(node)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Incarnation;
    use super::*;

    fn details(node: u64, boot: u64, sequence: u64) -> Details {
        let run = Run { node: NodeId::from(node), incarnation: Incarnation { boot, run: 1 } };
        let offer = Offer { cores: 2, disk_free_bytes: sequence, ..Offer::default() };
        Details { run, sequence, offer }
    }

    #[test]
    fn newer_details_replace_older_ones_and_a_later_run_starts_anew() {
        let mut roster = Roster::new(NodeId::from(1));
        assert!(roster.merge(details(2, 1, 5)));
        assert!(!roster.merge(details(2, 1, 5)));
        assert!(!roster.merge(details(2, 1, 4)));
        assert!(roster.merge(details(2, 2, 0)));
        assert!(!roster.merge(details(2, 1, 9)));
        assert_eq!(roster.get(details(2, 1, 5).run), None);
        assert_eq!(roster.get(details(2, 2, 0).run), Some(details(2, 2, 0).offer));
        assert_eq!(roster.take_news(), vec![NodeId::from(2); 2]);
    }

    #[test]
    fn the_number_of_known_nodes_is_bounded() {
        let mut roster = Roster::new(NodeId::from(1));
        for node in 0..MEMBERS_MAX as u64 {
            assert!(roster.merge(details(node, 1, 0)));
        }
        assert!(!roster.merge(details(u64::MAX, 1, 0)));
        roster.prune(|node| node < NodeId::from(10));
        assert!(roster.merge(details(u64::MAX, 1, 0)));
    }

    #[test]
    fn details_of_any_other_length_are_refused() {
        let bytes = details(2, 1, 5).to_bytes();
        assert_eq!(Details::decode(&bytes), Ok(details(2, 1, 5)));
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Details::decode(&longer), Err(CodecError::DetailsLength { found: 65 - 8 }));
        assert!(Details::decode(&bytes[1..]).is_err());
    }
}
