//! Why a body was refused.

use heddle_types::{ApiError, ErrorCode};

/// A body that cannot be used. Nothing was applied; the same bytes fail again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The number in the header is no message of this version.
    #[error("message type {number:#06x} is unknown")]
    UnknownType {
        /// The type field.
        number: u16,
    },
    /// The bytes changed on the way.
    #[error("body checksum is {found:08x}, the bytes give {expected:08x}")]
    BodyChecksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the body.
        expected: u32,
    },
    /// The body lies at an address that its numbers cannot be read from (a fault of the reader).
    #[error("body lies {found} bytes past a multiple of {expected}")]
    Unaligned {
        /// Bytes past the boundary.
        found: usize,
        /// The boundary.
        expected: usize,
    },
    /// The bytes are not laid out as this message.
    #[error("body is not a valid {message}")]
    Layout {
        /// The message that was expected.
        message: &'static str,
    },
    /// Two fields that belong together disagree.
    #[error("{field} is {found}, the rest of the message needs {expected}")]
    Mismatch {
        /// The field that is off.
        field: &'static str,
        /// What it says.
        found: u64,
        /// What fits.
        expected: u64,
    },
    /// A count or length is above its limit.
    #[error("{field} is {found}, above the limit of {limit}")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// What it says.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A column that must ascend does not.
    #[error("{field} does not ascend at position {index}")]
    Order {
        /// The column.
        field: &'static str,
        /// Position of the first value that breaks the order.
        index: usize,
    },
    /// A number that must be finite is not.
    #[error("{field} holds NaN or infinity at position {index}")]
    NotFinite {
        /// The column.
        field: &'static str,
        /// Position of the first such number.
        index: usize,
    },
    /// A field holds a value that this version does not know.
    #[error("{field} has the unknown value {found}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// The value.
        found: u64,
    },
}

impl MessageError {
    /// May the connection be used on after an error reply?
    ///
    /// Not after a wrong checksum: bytes are being damaged, and the next header may be too.
    #[must_use]
    pub fn stream_goes_on(&self) -> bool {
        !matches!(self, Self::BodyChecksum { .. } | Self::Unaligned { .. })
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownType { .. } => ErrorCode::UnknownMessage,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::NotFinite { .. } => ErrorCode::InvalidVector,
            Self::Unaligned { .. } => ErrorCode::Internal,
            Self::UnknownValue { .. } => ErrorCode::InvalidArgument,
            Self::BodyChecksum { .. }
            | Self::Layout { .. }
            | Self::Mismatch { .. }
            | Self::Order { .. } => ErrorCode::Protocol,
        }
    }

    fn expected(&self) -> String {
        match self {
            Self::UnknownType { .. } => "a message type of this version".to_owned(),
            Self::BodyChecksum { expected, .. } => format!("{expected:08x}"),
            Self::Unaligned { expected, .. } => format!("a multiple of {expected}"),
            Self::Layout { message } => format!("a {message} as docs/protocol.md describes it"),
            Self::Mismatch { expected, .. } => expected.to_string(),
            Self::TooLarge { limit, .. } => format!("at most {limit}"),
            Self::Order { .. } => "ascending values".to_owned(),
            Self::NotFinite { .. } => "finite numbers".to_owned(),
            Self::UnknownValue { .. } => "a value that docs/protocol.md lists".to_owned(),
        }
    }
}

impl From<MessageError> for ApiError {
    fn from(error: MessageError) -> Self {
        Self::new(error.code(), error.to_string(), error.expected())
    }
}
