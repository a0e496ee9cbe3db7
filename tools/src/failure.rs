//! Why a command did not succeed, and the exit code that says so to scripts.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use heddle_client::ClientError;
use heddle_types::{ApiError, ErrorCode, FatalReason};

/// Kind of failure; the number is the exit code. `serve` adds those of [`FatalReason`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The command failed, or a check said no.
    Failed,
    /// Arguments make no sense, or a file they name is missing or malformed.
    Usage,
    /// No server answered.
    Unreachable,
    /// The named collection or object does not exist.
    NotFound,
    /// A write may or may not have been applied.
    Unknown,
    /// The server ended for this reason.
    Fatal(FatalReason),
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotFound => 4,
            Self::Unknown => 5,
            Self::Fatal(reason) => u8::try_from(reason.exit_code()).unwrap_or(1),
        }
    }
}

/// A command that did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, message: message.into() }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { kind: Kind::NotFound, message: message.into() }
    }

    pub(crate) fn fatal(reason: FatalReason, message: impl Into<String>) -> Self {
        Self { kind: Kind::Fatal(reason), message: message.into() }
    }

    /// A file that the user named and that cannot be read, or not as what it should be.
    pub(crate) fn input(path: &Path, error: impl fmt::Display) -> Self {
        Self::usage(format!("{}: {error}", path.display()))
    }

    /// A file that the command itself writes or keeps.
    pub(crate) fn file(path: &Path, error: impl fmt::Display) -> Self {
        Self::failed(format!("{}: {error}", path.display()))
    }

    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let kind = match error.code {
            ErrorCode::UnknownCollection | ErrorCode::UnknownTenant | ErrorCode::ObjectNotFound => {
                Kind::NotFound
            }
            ErrorCode::Unknown => Kind::Unknown,
            _ => Kind::Failed,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let kind = match error {
            ClientError::Api(error) => return error.into(),
            ClientError::Connection { .. } | ClientError::Timeout { .. } => Kind::Unreachable,
            ClientError::UnknownOutcome { .. } => Kind::Unknown,
            _ => Kind::Failed,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<heddle_bench::vectors::VectorFileError> for Failure {
    fn from(error: heddle_bench::vectors::VectorFileError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::failed(error.to_string())
    }
}
