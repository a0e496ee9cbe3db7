//! How the replicas of a shard agree, as state machines: what happened goes in, what must be done
//! comes out, and nothing else happens. No IO, no clock, no threads, no randomness of their own;
//! the node and the simulator drive the same code.
//!
//! - [`WriteMachine`]: one request of writes to one shard, sent to all of its replicas at once.
//! - [`ReadMachine`]: objects by id, from as many replicas as the level asks for.
//! - [`SearchMerge`]: candidates of several replicas of one shard become one list.
//! - [`RepairSession`]: all replicas of a shard compare what they have and become equal.
//! - [`HintPolicy`]: which writes are kept for replicas that are away, and when they are sent.
//! - [`replica_order`]: whom to ask first.
//!
//! A machine knows replicas by their position in the shard's list, items by their position in the
//! request, and time as microseconds of any clock that does not go back. Effects are to be
//! executed in the order given. An event that does not fit (an answer of a replica that was not
//! asked, or a second one) changes nothing, so a driver need not remember what it has fed.

#![forbid(unsafe_code)]

mod hints;
mod order;
mod read;
mod repair;
mod replicas;
mod search;
mod tree;
mod winner;
mod write;

pub use hints::{Admission, HintEffect, HintEvent, HintLimits, HintPolicy};
pub use order::{Candidate, ReplicaOrder, replica_order};
pub use read::{Copy, ReadEffect, ReadEvent, ReadMachine, ReadOutcome, ReadRequest};
pub use repair::{RepairEffect, RepairEvent, RepairReport, RepairRequest, RepairSession};
pub use replicas::{ItemAnswer, Items, ReplicaSet};
pub use search::{Hit, SearchMerge};
pub use tree::{LeafSet, TreeLeaves};
pub use write::{WriteEffect, WriteEvent, WriteMachine, WriteOutcome, WriteRequest};
