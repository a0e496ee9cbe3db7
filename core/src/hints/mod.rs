//! The durable log of writes that wait for one node: hints, in the order in which they were given,
//! and the position up to which the node has them.
//!
//! A hint never counts as an acknowledgement, and comparison of replicas finds whatever a lost one
//! would have brought. So damage costs the batch or segment that has it, and is counted; a failed
//! write costs its hints and never the process. What was appended and is not acknowledged is found
//! again after a crash, in order; what is acknowledged is not.
//!
//! Segments are files that grow by whole batches. A start never appends to a file it finds: behind
//! its last whole batch there may be the rest of one. One task owns the log.

mod format;
pub mod fuzz;
mod log;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

use heddle_types::{DeviceError, ShardId};

pub use log::HintLog;

/// Sizes of a hint log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HintLogConfig {
    /// A segment that reached this takes no further batch.
    pub segment_bytes: u64,
    /// A batch that reached this takes no further hint.
    pub batch_bytes: usize,
}

impl Default for HintLogConfig {
    /// Segments of 16 MiB, so that what was delivered makes room soon; batches of 256 KiB.
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, batch_bytes: 256 << 10 }
    }
}

/// One write that waits for a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// The shard it changes.
    pub shard: ShardId,
    /// The write, as it travels between nodes; the log does not look inside.
    pub write: Vec<u8>,
}

/// Hints to deliver together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HintBatch {
    /// In the order in which they were given.
    pub hints: Vec<Hint>,
    /// Bytes that these and damaged ones among them take in the log.
    pub bytes: u64,
    /// When the first was written, microseconds since the Unix epoch; none is older.
    pub written_us: u64,
    /// What to acknowledge once the node has all of them.
    pub end: HintPosition,
}

/// A place in a hint log, between two batches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct HintPosition {
    segment: u64,
    offset: u64,
    /// Hints before this place, since the log was made.
    count: u64,
}

/// What waits in a hint log.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HintsWaiting {
    /// Hints; those lost by damage may still be counted until they are come to.
    pub hints: u64,
    /// Bytes that they take on disk.
    pub bytes: u64,
    /// When the first was written, microseconds since the Unix epoch. One that was put behind
    /// others again may be older.
    pub oldest_us: Option<u64>,
    /// Bytes that were given up as damaged since the log was opened.
    pub damaged_bytes: u64,
}

/// What a hint log did not do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HintError {
    /// The device refused. Hints that were to be appended are lost; those from before are still
    /// there, and the log goes on in a new file.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The hint is larger than a hint may be. Nothing was appended; retrying does not help.
    #[error("hint of {found} bytes, at most {limit} fit")]
    TooLarge {
        /// Bytes of the hint.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The log was written by another version of the format. Nothing was changed on disk.
    #[error("{file}: hint log format version {found}, this server reads {expected}")]
    Version {
        /// The file.
        file: String,
        /// The version this server reads.
        expected: u32,
        /// The version of the file.
        found: u32,
    },
}
