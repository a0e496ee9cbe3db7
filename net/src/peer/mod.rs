//! Links between the cores of nodes: dialed on demand, authenticated, with many calls at once.
//!
//! Every core has its own [`Links`]. A call names an address, the node that must answer there and a
//! lane; the connection for these three is made when it is first needed, shared by all calls of the
//! core, and closed when it has been idle. Connections are one way: whoever dials asks, and whoever
//! accepts answers, in any order.
//!
//! ```text
//! call ─▶ slot (dial, back off) ─▶ link (room, pending calls) ─▶ pipe ═══ TCP ═══ pipe
//!                                                                                  │
//!              handler ◀─ task of the lane's queue ◀─ served connection (room) ◀───┘
//! ```
//!
//! What a caller may send again: a call that fails before all of its request was given to the
//! kernel cannot have been applied, and says [`heddle_types::Retry::Safe`]. One that fails later
//! says `MayHaveApplied`, whatever the reason.
//!
//! Both sides bound what is in flight, and hold up whoever wants more: callers wait for room, and a
//! served connection is not read on. See `docs/protocol.md` for the bytes.

mod accept;
mod counters;
mod dial;
mod link;
mod links;
mod pipe;
mod room;
mod served;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
pub(crate) use heddle_meta::handshake::Lane;
use heddle_runtime::Queue;
use heddle_types::{ApiError, NodeId};
use heddle_wire::{AlignedVec, Header};

use crate::core::Core;
pub(crate) use counters::{LaneReport, PeerReport};
pub(crate) use links::Links;

/// Type of the last frame of a node that stops: request id 0, no body. Every request that it has
/// taken in is answered before; others were never worked on.
const GOODBYE: u16 = 0x8100;

/// Numbers of the requests between nodes.
pub(crate) const KINDS: std::ops::RangeInclusive<u16> = 0x0110..=0x01FF;

/// Whom a call is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// The node that must answer; none takes whoever is there.
    pub(crate) node: Option<NodeId>,
    /// `host:port`, a name or an IP.
    pub(crate) address: String,
}

/// A reply that is no error.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Who answered.
    pub(crate) node: NodeId,
    pub(crate) header: Header,
    pub(crate) body: AlignedVec<16>,
}

/// Who is at the other end of a connection, proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerIdentity {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    /// Position of the core on its node.
    pub(crate) core: u32,
    pub(crate) lane: Lane,
    pub(crate) address: SocketAddr,
}

/// A request from another node.
#[derive(Debug)]
pub(crate) struct PeerCall {
    pub(crate) peer: PeerIdentity,
    pub(crate) header: Header,
    pub(crate) body: AlignedVec<16>,
    /// When its last byte was read, monotonic nanoseconds.
    pub(crate) arrived_ns: u64,
}

/// Answers requests: the type of the reply, which is that of the request with the reply bit, and
/// its body. Runs in the queue of the lane; goes on when the connection breaks meanwhile.
pub(crate) type Handler =
    Rc<dyn Fn(PeerCall) -> LocalBoxFuture<'static, Result<(u16, AlignedVec<16>), ApiError>>>;

/// Opens a listener for other nodes, and answers them for as long as the node does not drain.
///
/// Port 0 takes a free one; returns the real address. Errors: the operating system's.
pub(crate) fn listen(
    core: &Rc<Core>,
    address: SocketAddr,
    handler: Handler,
) -> io::Result<SocketAddr> {
    core.links.listen(address, handler)
}

/// The queue in which a lane's connections are read and its requests worked on.
fn queue_of(lane: Lane) -> Queue {
    match lane {
        Lane::Data => Queue::Search,
        Lane::Control => Queue::Control,
        Lane::Repair => Queue::Background,
    }
}
