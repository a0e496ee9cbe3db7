//! What the Raft log refuses, and why.

use heddle_types::{DeviceError, NodeId};

/// Why the Raft log could not be opened or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk refused. A failed write may have reached the disk in part: the log takes no further
    /// one, and the process has to end.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A node that is new cannot have a log. Nothing was changed.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: String,
    },
    /// The file is damaged where no crash can explain it. Nothing was changed; what it promised to
    /// others is lost, so the node must not vote again: remove it and add it as a new one.
    #[error("{path} is damaged at offset {offset}: {what}")]
    Corrupt {
        /// The file.
        path: String,
        /// Where the damage begins, bytes.
        offset: u64,
        /// What does not hold.
        what: String,
    },
    /// The file was written by a newer version. Nothing was changed.
    #[error("{path} has format version {found}, this server reads up to {supported}")]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
        /// The newest version that is read.
        supported: u32,
    },
    /// The file belongs to another node. Nothing was changed.
    #[error("{path} belongs to node {found}, this is node {expected}")]
    OtherNode {
        /// The file.
        path: String,
        /// Whose it is.
        found: NodeId,
        /// Who asks.
        expected: NodeId,
    },
    /// An entry that does not follow the last one. Nothing was written.
    #[error("entry {found} cannot be appended, {expected} has to come")]
    Hole {
        /// Its index.
        found: u64,
        /// The index that has to come.
        expected: u64,
    },
    /// An earlier write failed. Nothing was written.
    #[error("the log takes no writes since one failed: {first}")]
    Failed {
        /// The first failure.
        first: Box<LogError>,
    },
}

impl From<LogError> for std::io::Error {
    fn from(error: LogError) -> Self {
        Self::other(error)
    }
}
