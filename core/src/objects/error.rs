//! What the object store did not do.

use heddle_types::DeviceError;

use super::Location;

/// A failure of the object store. No variant changes what is stored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// Stored bytes are damaged. Retrying does not help; the object is elsewhere or lost.
    #[error("{file}: corrupt at offset {offset}: {what} is {found:#x}, expected {expected:#x}")]
    Corrupt {
        /// The segment file.
        file: String,
        /// Where in the file the damaged part begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The segment was written by another version of the format.
    #[error("{file}: object format version {found}, this server reads {expected}")]
    Version {
        /// The segment file.
        file: String,
        /// The version this server reads.
        expected: u64,
        /// The version of the file.
        found: u64,
    },
    /// No segment holds this location: it was moved by a compaction, or an image is wrong. Look the
    /// object's location up again.
    #[error("no object at {location:?}")]
    NotThere {
        /// The location.
        location: Location,
    },
    /// A compaction made way for something else. Nothing was written; begin it again later.
    #[error("the compaction was given up after {read_bytes} bytes")]
    GivenUp {
        /// Bytes that it had read.
        read_bytes: u64,
    },
    /// The storage failed. A failed flush or compaction may be tried again.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
