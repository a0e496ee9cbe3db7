//! The error that leaves Heddle: what was wrong, what was expected, whether to retry.
//!
//! Inside, each module family has its own typed enum; all of them become an [`ApiError`] at the
//! edge, so that every client (native, REST, gRPC, command line) tells the user the same thing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kind of failure, stable on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
pub enum ErrorCode {
    /// A frame broke the protocol: magic, version, length, checksum or body layout.
    Protocol = 1,
    /// The message type is unknown to this server.
    UnknownMessage = 2,
    /// An argument is out of range or malformed.
    InvalidArgument = 3,
    /// No collection of that name.
    UnknownCollection = 4,
    /// A collection of that name exists already.
    CollectionExists = 5,
    /// A name breaks the naming rules.
    InvalidName = 6,
    /// The property is not part of the schema, or its value has the wrong type.
    InvalidProperty = 7,
    /// The vector is missing, has the wrong dimension, or holds NaN, infinity or only zeros.
    InvalidVector = 8,
    /// The filter is malformed or does not fit the schema.
    InvalidFilter = 9,
    /// The object does not exist.
    ObjectNotFound = 10,
    /// A documented option that this server does not support in this configuration.
    Unsupported = 11,
    /// A count or size is above its limit.
    TooLarge = 12,
    /// The deadline passed before the work was done.
    DeadlineExceeded = 13,
    /// Queues are full; try again later.
    Overloaded = 14,
    /// The disk is too full to accept this write.
    DiskFull = 15,
    /// The memory budget is used up.
    MemoryFull = 16,
    /// The node is starting, draining, or the shard is not served here yet.
    Unavailable = 17,
    /// The request was routed by an outdated catalog.
    StaleEpoch = 18,
    /// Stored data is damaged; the message names where.
    Corrupt = 19,
    /// The outcome of a write is unknown: it may or may not have been applied.
    Unknown = 20,
    /// A bug in Heddle.
    Internal = 21,
    /// The clocks of two nodes, or of one node before and after, are too far apart for the write.
    ClockSkew = 22,
    /// The write is older than what all replicas have compared, and nothing is known of its object:
    /// it may have been deleted since.
    BelowFloor = 23,
    /// The object is not in the state that the write asks for. Nothing was applied.
    ConditionFailed = 24,
    /// No tenant of that name in the collection.
    UnknownTenant = 25,
    /// The tenant is inactive: its objects are on disk and take no requests.
    TenantInactive = 26,
}

impl ErrorCode {
    /// Every code, in wire order.
    pub const ALL: [Self; 26] = [
        Self::Protocol,
        Self::UnknownMessage,
        Self::InvalidArgument,
        Self::UnknownCollection,
        Self::CollectionExists,
        Self::InvalidName,
        Self::InvalidProperty,
        Self::InvalidVector,
        Self::InvalidFilter,
        Self::ObjectNotFound,
        Self::Unsupported,
        Self::TooLarge,
        Self::DeadlineExceeded,
        Self::Overloaded,
        Self::DiskFull,
        Self::MemoryFull,
        Self::Unavailable,
        Self::StaleEpoch,
        Self::Corrupt,
        Self::Unknown,
        Self::Internal,
        Self::ClockSkew,
        Self::BelowFloor,
        Self::ConditionFailed,
        Self::UnknownTenant,
        Self::TenantInactive,
    ];

    /// The wire number.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The code of a wire number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// May the caller send the same request again?
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same request fails again.
    Never,
    /// Nothing was applied; try again, at best after a pause.
    Safe,
    /// It may have been applied; a retry is safe only because puts and deletes are idempotent.
    MayHaveApplied,
}

/// A failure as clients see it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}{}", expected_suffix(.expected))]
pub struct ApiError {
    /// Kind of failure.
    pub code: ErrorCode,
    /// What was wrong, with the offending name or number.
    pub message: String,
    /// What would have been right; empty when nothing the caller sends would be.
    pub expected: String,
    /// May the caller retry.
    pub retry: Retry,
}

fn expected_suffix(expected: &str) -> String {
    if expected.is_empty() { String::new() } else { format!(" (expected {expected})") }
}

impl ApiError {
    /// An error that the same request will meet again.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { code, message: message.into(), expected: expected.into(), retry: Retry::Never }
    }

    /// A refusal before anything was applied; the same request may succeed later.
    #[must_use]
    pub fn transient(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), expected: String::new(), retry: Retry::Safe }
    }

    /// A request whose outcome is not known.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        Self {
            code: ErrorCode::Unknown,
            message: message.into(),
            expected: String::new(),
            retry: Retry::MayHaveApplied,
        }
    }

    /// A bug: state that no input should reach.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_numbers_are_dense_and_round_trip() {
        for (index, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(code.number()), index + 1);
            assert_eq!(ErrorCode::from_number(code.number()), Some(code));
        }
        assert_eq!(ErrorCode::from_number(0), None);
        assert_eq!(ErrorCode::from_number(999), None);
    }

    #[test]
    fn text_names_what_was_expected() {
        let error = ApiError::new(ErrorCode::InvalidVector, "vector has 3 dimensions", "128");
        assert_eq!(error.to_string(), "InvalidVector: vector has 3 dimensions (expected 128)");
    }
}
