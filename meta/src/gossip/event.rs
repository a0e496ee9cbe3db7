//! What the machine is told, and what it wants done.

use std::net::SocketAddr;
use std::time::Duration;

use heddle_types::NodeId;

use super::details::Offer;
use super::identity::{Incarnation, Run};

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// The run begins: the first event, and once.
    Start,
    /// A datagram arrived, of whatever content.
    Packet {
        /// Where it says it comes from.
        source: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The time of a timer has passed; others than the newest are ignored.
    Timer {
        /// The token of [`Effect::Timer`].
        token: u64,
    },
    /// What this node offers from now on.
    Offer(Offer),
    /// The join list from now on, for lists that come from a name service.
    Seeds(Vec<SocketAddr>),
    /// The node stops in good order: some others are told, and later events are ignored.
    Leave,
}

/// What must be done, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send a datagram; it may get lost.
    Send {
        /// To whom.
        target: SocketAddr,
        /// At most [`super::PACKET_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// Feed back [`Event::Timer`] after a time. It replaces every timer before.
    Timer {
        /// The time from now.
        after: Duration,
        /// What to feed back.
        token: u64,
    },
    /// A node joined, or came back.
    MemberUp(Member),
    /// A member offers something else, or is in another run or at another address.
    MemberChanged(Member),
    /// A member seems dead or has left. It still owns what it owned.
    MemberDown(NodeId),
    /// More than one process claims, or has claimed, to be one node. Comes again while that lasts.
    Conflict(Conflict),
}

/// Another member of the cluster that seems to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
    /// Where it receives gossip; its other ports are on the same host.
    pub gossip: SocketAddr,
    /// What it offers.
    pub offer: Offer,
}

impl Member {
    /// Where it receives Raft's messages.
    #[must_use]
    pub fn raft(&self) -> SocketAddr {
        SocketAddr::new(self.gossip.ip(), self.offer.raft_port)
    }

    /// Where its first data core receives replication.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.gossip.ip(), self.offer.peer_port)
    }
}

/// A run of a node that lives although a later one is known: two processes claim the node at the
/// same time, as after copying a data directory, or an older copy of the directory of a node that
/// is down was started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict {
    /// The node they claim to be; the receiver's own when it is one of the two.
    pub node: NodeId,
    /// The run whose packets the members drop.
    pub earlier: Incarnation,
    /// The run whose packets they take.
    pub later: Incarnation,
}

impl Conflict {
    pub(super) fn new(run: Run, other: Incarnation) -> Self {
        let (earlier, later) = (run.incarnation.min(other), run.incarnation.max(other));
        Self { node: run.node, earlier, later }
    }
}
