//! Gossip: who is in the cluster, where, how busy, and who seems dead (SWIM, by foca).
//!
//! [`Gossip`] is a plain struct: events go in, effects come out, time and randomness are given. It
//! informs routing and never decides who owns what.
//!
//! foca knows neither authentication nor replays, so each of its messages travels in an envelope
//! ([`packet`]) sealed with a key of the cluster's secret. A run of a node is listened to only when
//! it has sent back a number just drawn for it, which no recorded packet can do; from then on every
//! packet counts once (`window.rs`). The same proof shows that two processes claim one node.

mod codec;
mod counters;
mod details;
mod event;
mod identity;
mod machine;
mod outbox;
pub mod packet;
mod random;
mod session;
mod settings;
mod timers;
mod window;

pub use codec::CodecError;
pub use counters::{Counters, DropReason};
pub use details::Offer;
pub use event::{Conflict, Effect, Event, Member};
pub use identity::{Incarnation, Run};
pub use machine::Gossip;
pub use packet::{Key, Kind, Packet};
pub use settings::{
    CHALLENGES_MAX, GossipConfig, MEMBERS_MAX, PACKET_BYTES_MAX, PROBE_PERIOD, REACH_OUT_MAX,
    SUSPICION, cluster_of_identity, cluster_of_name, detection_time_max,
};
