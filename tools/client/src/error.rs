//! What a call reports when it does not succeed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use heddle_types::filter::FilterError;
use heddle_types::row::RowError;
use heddle_types::{ApiError, ErrorCode};
use heddle_wire::MessageError;

/// A call that did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server answered with an error, or the client refused the call before sending it. A write
    /// was not applied unless `retry` says `MayHaveApplied`.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No server could be reached, or the connection broke. A write was not applied.
    #[error("no connection to {address}: {source}")]
    Connection {
        /// The address that was tried last.
        address: String,
        /// What the system reported.
        source: Arc<io::Error>,
    },
    /// The deadline passed. A write was not sent, so it was not applied.
    #[error("no reply within {} ms", .after.as_millis())]
    Timeout {
        /// How long the call waited.
        after: Duration,
    },
    /// A write was sent but not answered: it may or may not have been applied. Sending it again is
    /// safe where repeating it does no harm (puts and deletes by id).
    #[error("outcome unknown: {cause}")]
    UnknownOutcome {
        /// Why there is no answer.
        cause: Box<ClientError>,
    },
    /// The server's reply is not what the protocol allows. A write was probably applied.
    #[error("reply from {address} is invalid: {source}")]
    InvalidReply {
        /// Who sent it.
        address: String,
        /// What is wrong with it.
        source: MessageError,
    },
}

impl ClientError {
    /// The error code, where the server gave one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api(error) => Some(error.code),
            _ => None,
        }
    }

    pub(crate) fn connection(address: &str, source: io::Error) -> Self {
        Self::Connection { address: address.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn unknown(cause: Self) -> Self {
        match cause {
            Self::UnknownOutcome { .. } => cause,
            cause => Self::UnknownOutcome { cause: Box::new(cause) },
        }
    }

    pub(crate) fn argument(message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Api(ApiError::new(ErrorCode::InvalidArgument, message, expected))
    }
}

impl From<RowError> for ClientError {
    fn from(error: RowError) -> Self {
        let message = format!("properties cannot be encoded: {error}");
        Self::Api(ApiError::new(ErrorCode::InvalidProperty, message, "properties within limits"))
    }
}

impl From<FilterError> for ClientError {
    fn from(error: FilterError) -> Self {
        let message = format!("filter cannot be encoded: {error}");
        Self::Api(ApiError::new(ErrorCode::InvalidFilter, message, "a filter within limits"))
    }
}
