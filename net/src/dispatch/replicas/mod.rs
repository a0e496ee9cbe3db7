//! Shards with several replicas: the core that got the request coordinates, by the machines of
//! `heddle-replication`; here is what they need of a node.
//!
//! A shard with one replica does not come here: its home core stamps and answers.

mod ask;
mod conditional;
mod coordinate;
mod latency;
mod read;
mod selection;
mod tail;
mod write;

pub(crate) use self::conditional::{Conditional, Held, answer as answer_conditional};
pub(crate) use self::latency::Latencies;
pub(crate) use self::tail::Tails;

pub(super) use self::ask::{Replica, digests, outcome_of};
pub(super) use self::conditional::{ConditionalChange, ConditionalItem};
pub(super) use self::coordinate::{Coordination, item_of};
pub(super) use self::read::read;
pub(super) use self::selection::Selection;
pub(super) use self::write::Stamped;
