//! The cluster's state replicated by Raft: the consensus of openraft between the state machine of
//! [`crate::cluster`] and files behind the [`heddle_types::Device`] seam.
//!
//! Nothing here knows which executor runs it. [`Host`] names the five things that an executor of
//! one core has to offer; [`LocalRuntime`] makes of them the runtime that openraft asks for. So the
//! same consensus runs on the meta core and, with virtual time and seeded randomness, in the
//! simulator.

mod config;
mod host;
mod local;
mod log;
mod machine;
pub mod message;
mod snapshot;
mod types;

pub use config::{
    ELECTION_TIMEOUT_MAX_MS, ELECTION_TIMEOUT_MIN_MS, ENTRIES_KEPT, HEARTBEAT_INTERVAL_MS,
    SNAPSHOT_EVERY_ENTRIES, raft_config,
};
pub use host::Host;
pub use local::{
    HostRandom, LocalInstant, LocalJoinHandle, LocalMpsc, LocalMutex, LocalOneshot, LocalReceiver,
    LocalRuntime, LocalSender, LocalTimeout, LocalWatch, LocalWeakSender, OneshotSender, TaskLost,
    TimedOut, WatchReceiver, WatchSender,
};
pub use log::{LogError, LogReader, RaftLog};
pub use machine::{ClusterMachine, SnapshotBuilder};
pub use snapshot::SnapshotError;
pub use types::{
    Entry, Leader, LogId, Member, Membership, Payload, RaftTypes, Response, SnapshotMeta,
    StoredMembership, Vote,
};
