//! What the log did not do.

use heddle_types::{DeviceError, Lsn};

/// A failure of the log. Each variant says whether something was applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The disk is full and the current segment has no room. Nothing was appended; reads go on, and
    /// appends work again once space returned.
    #[error("the log has no room: the disk is full")]
    Full,
    /// More bytes wait for the disk than allowed, or the next segment is still being made. Nothing
    /// was appended; wait for [`super::Wal::room`] and try again.
    #[error("the log is {backlog_bytes} bytes behind the disk")]
    Backlog {
        /// Bytes accepted and not durable yet.
        backlog_bytes: usize,
    },
    /// The record is larger than a record may be. Nothing was appended; retrying does not help.
    #[error("record of {found} bytes, at most {limit} fit")]
    TooLarge {
        /// Bytes of the record.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A write or sync of the log failed before. What was not durable then never will be; the
    /// process has to end.
    #[error("the log failed: {source}")]
    Failed {
        /// The first failure.
        #[source]
        source: DeviceError,
    },
    /// The log is damaged where no crash can explain it. Nothing was changed on disk.
    #[error("{file}: corrupt at offset {offset}: {what} is {found:#x}, expected {expected:#x}")]
    Corrupt {
        /// The segment file.
        file: String,
        /// Where the first bad byte range begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The log was written by another version of the format. Nothing was changed on disk.
    #[error("{file}: log format version {found}, this server reads {expected}")]
    Version {
        /// The segment file.
        file: String,
        /// The version this server reads.
        expected: u64,
        /// The version of the file.
        found: u64,
    },
    /// Records that a checkpoint relies on are missing. Nothing is wrong with what is there.
    #[error("the log holds records {first} up to before {next}, a checkpoint needs {needed}")]
    Missing {
        /// First record of the log.
        first: Lsn,
        /// The record after the last.
        next: Lsn,
        /// A record that should be there.
        needed: Lsn,
    },
    /// The caller refused a record during recovery.
    #[error("record {lsn} cannot be applied: {reason}")]
    Refused {
        /// The record.
        lsn: Lsn,
        /// The caller's words.
        reason: String,
    },
    /// The configuration cannot work.
    #[error("segments of {segment_bytes} bytes are too small or not whole pages")]
    SegmentSize {
        /// The configured size.
        segment_bytes: u64,
    },
    /// The storage failed outside an append: open, list, read, create.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
