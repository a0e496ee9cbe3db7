//! Settings: what the caller chooses, and the times and bounds that hold for every node.

use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::PeriodicParams;
use heddle_types::{ClusterId, NodeId};
use uuid::Uuid;

use super::details::Offer;
use super::packet::{ENVELOPE_BYTES, Key};

/// Largest packet: below the MTU of Ethernet with room for tunnels.
pub const PACKET_BYTES_MAX: usize = 1_400;

/// Nodes whose packets, details and past a node remembers. Those in the cluster come first.
pub const MEMBERS_MAX: usize = 1_024;

/// Addresses to which a node reaches out in one round of joining.
pub const REACH_OUT_MAX: usize = 16;

/// Challenges that wait for their answers.
pub const CHALLENGES_MAX: usize = 256;

/// Each member asks another one for a sign of life this often.
pub const PROBE_PERIOD: Duration = Duration::from_secs(1);

/// Time for a direct sign of life, before others are asked to try. A meta core that shares its CPU
/// with a busy data core answers late without any fault.
const PROBE_ANSWER: Duration = Duration::from_millis(400);

/// A suspected member has this long to object. On a box of two cores a process may get no CPU for
/// seconds while an image is written or a graph is built.
pub const SUSPICION: Duration = Duration::from_secs(6);

/// How long news of a death may take to the last member.
const SPREADING: Duration = Duration::from_secs(2);

/// Rounds of joining while the node is alone, and otherwise.
pub(super) const JOIN_PERIOD_ALONE: Duration = Duration::from_secs(1);
/// See [`JOIN_PERIOD_ALONE`].
pub(super) const JOIN_PERIOD: Duration = Duration::from_secs(5);
/// The round after the others have called this node dead: they know its new identity only then.
pub(super) const JOIN_AFTER_REJOIN: Duration = Duration::from_millis(200);

/// A changed offer spreads this often at most.
pub(super) const OFFER_PERIOD: Duration = Duration::from_secs(5);
/// An unchanged offer spreads once in so many periods.
pub(super) const OFFER_PERIODS_IDLE: u32 = 6;

/// A challenge is sent again after this time at the earliest, and forgotten after the next.
pub(super) const CHALLENGE_REPEAT: Duration = Duration::from_millis(200);
/// See [`CHALLENGE_REPEAT`].
pub(super) const CHALLENGE_LIFE: Duration = Duration::from_secs(5);

/// A twin that was proven is let be for this long, then proven and reported to both again.
pub(super) const CONFLICT_REPEAT: Duration = Duration::from_secs(10);

/// A node that is held for down is told so this often at most.
pub(super) const UNDEAD_REPEAT: Duration = Duration::from_millis(500);

/// A machine that wakes up later than this was itself asleep: the time it missed does not count,
/// or it would declare everyone dead whose answers still wait in its socket.
pub(super) const LATE_MAX: Duration = Duration::from_millis(500);

const _: () = assert!(PROBE_ANSWER.as_millis() * 2 < PROBE_PERIOD.as_millis());
const _: () = assert!(CHALLENGE_REPEAT.as_millis() < CHALLENGE_LIFE.as_millis());

/// Longest time from the death of one of `members` nodes until every other one has reported it,
/// when nothing else is wrong.
///
/// A member walks through the others in random order and shuffles them at the end, so two visits to
/// the same one lie at most `2 (members - 1)` periods apart. One more period passes until the probe
/// has failed, then the suspicion, then the news spreads. The usual case is much shorter: all
/// members probe at the same time.
#[must_use]
pub fn detection_time_max(members: u32) -> Duration {
    PROBE_PERIOD * (2 * members.saturating_sub(1) + 1) + SUSPICION + SPREADING
}

/// What a node needs to take part in gossip.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// The node.
    pub node: NodeId,
    /// Number of this start, higher than that of every earlier one.
    pub boot: u64,
    /// Where the others reach its gossip: an address of its own, never an unspecified one.
    pub gossip: SocketAddr,
    /// What it offers at first.
    pub offer: Offer,
    /// The cluster; packets of another one are dropped.
    pub cluster: Uuid,
    /// What packets are sealed with, made of the cluster's secret.
    pub key: Key,
    /// The join list: addresses of some members. The node's own may be among them.
    pub seeds: Vec<SocketAddr>,
    /// Where all randomness comes from. In production of the operating system: two processes with
    /// equal seeds and boots could not be told apart.
    pub seed: [u8; 32],
}

/// The cluster of a name: nodes that are given the same name, and nothing else, gossip together.
#[must_use]
pub fn cluster_of_name(name: &str) -> Uuid {
    let hash = blake3::derive_key("heddle 2026 gossip cluster of a name 1", name.as_bytes());
    Uuid::from_bytes(*hash.first_chunk().expect("a hash is longer than that"))
}

/// The cluster of a name and an identity: two may have grown from one join list under one name.
#[must_use]
pub fn cluster_of_identity(name: &str, cluster: ClusterId) -> Uuid {
    let context = "heddle 2026 gossip cluster of an identity 1";
    let hash = blake3::derive_key(context, &[cluster.0.as_bytes(), name.as_bytes()].concat());
    Uuid::from_bytes(*hash.first_chunk().expect("a hash is longer than that"))
}

const fn at_most(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("the counts below are not zero")
}

pub(super) fn foca_config() -> foca::Config {
    let every = |frequency, count| Some(PeriodicParams { frequency, num_members: at_most(count) });
    foca::Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_ANSWER,
        num_indirect_probes: at_most(3),
        max_transmissions: NonZeroU8::new(10).expect("it is not zero"),
        suspect_to_down_after: SUSPICION,
        // Forgetting sooner lets late news of the dead look like news of the living.
        remove_down_after: Some(Duration::from_secs(24 * 60 * 60)),
        max_packet_size: at_most(PACKET_BYTES_MAX - ENVELOPE_BYTES),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        periodic_announce_to_down_members: every(Duration::from_secs(10), 2),
        periodic_gossip: every(Duration::from_millis(200), 3),
    }
}
