//! What a checkpoint did not do.

use heddle_types::DeviceError;

/// A failure of writing or reading a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file is damaged. Other sections of the image may be sound.
    #[error("{file}: corrupt at offset {offset}: {what} is {found:#x}, expected {expected:#x}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where the damaged part begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The file was written by another version of the format.
    #[error("{file}: checkpoint format version {found}, this server reads {expected}")]
    Version {
        /// The file.
        file: String,
        /// The version this server reads.
        expected: u64,
        /// The version of the file.
        found: u64,
    },
    /// The image has no such section.
    #[error("{file}: no section {section}")]
    NoSection {
        /// The image file.
        file: String,
        /// The section that was asked for.
        section: u32,
    },
    /// A section got more or fewer bytes than were announced. The image is not committed.
    #[error("section {section} got {found} bytes, {expected} were announced")]
    SectionLength {
        /// The section.
        section: u32,
        /// Bytes announced.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// A limit of the format is passed: sections, their ids, or bytes of `meta`.
    #[error("{what}: {found}, at most {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The storage failed. The last committed checkpoint is untouched.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
