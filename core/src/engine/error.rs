//! What an engine did not do, and how it is told to clients.

use heddle_types::{ApiError, DeviceError, ErrorCode, ShardId};

use crate::checkpoint::CheckpointError;
use crate::objects::ObjectError;
use crate::shard::{ApplyError, RecordError};
use crate::wal::WalError;
use heddle_index::IndexError;

/// A failure of opening, checkpointing or maintaining. Acknowledged writes are on disk in any case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The log is damaged or cannot be read or written.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The storage refused. Try again when the cause is gone; a full disk is one.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The image of a shard is damaged or could not be written.
    #[error("shard {shard}: {source}")]
    Checkpoint {
        /// The shard.
        shard: ShardId,
        /// What was wrong.
        #[source]
        source: CheckpointError,
    },
    /// The object segments of a shard are damaged or could not be written.
    #[error("shard {shard}: {source}")]
    Objects {
        /// The shard.
        shard: ShardId,
        /// What was wrong.
        #[source]
        source: ObjectError,
    },
    /// An intact log record cannot be applied: no memory, or another version wrote it.
    #[error("shard {shard}: {source}")]
    Apply {
        /// The shard.
        shard: ShardId,
        /// What was wrong.
        #[source]
        source: ApplyError,
    },
    /// An intact log record does not decode: another version wrote it.
    #[error("shard {shard}: {source}")]
    Record {
        /// The shard.
        shard: ShardId,
        /// What was wrong.
        #[source]
        source: RecordError,
    },
    /// Memory for an empty or restored index was refused.
    #[error("shard {shard}: {source}")]
    Index {
        /// The shard.
        shard: ShardId,
        /// What was wrong.
        #[source]
        source: IndexError,
    },
    /// The image of a shard is intact but does not belong to it.
    #[error("shard {shard}: image {problem}")]
    Image {
        /// The shard.
        shard: ShardId,
        /// What does not fit.
        problem: String,
    },
    /// A durable write of the shard could not be applied; it is in the log alone.
    #[error("shard {shard} holds less than its log; restart the node")]
    Poisoned {
        /// The shard.
        shard: ShardId,
    },
    /// The shard is here and damaged, so that it is not served.
    #[error("{}", refusal.message)]
    Unserved {
        /// The shard.
        shard: ShardId,
        /// What a request to it is told.
        refusal: ApiError,
    },
    /// No such shard here, or it was dropped meanwhile, or it is not served yet.
    #[error("shard {shard} is not served by this core")]
    NoShard {
        /// The shard.
        shard: ShardId,
    },
}

impl EngineError {
    /// What the storage answered, if it is the cause: nothing is known to be damaged then.
    #[must_use]
    pub fn device(&self) -> Option<&DeviceError> {
        match self {
            Self::Device(error)
            | Self::Wal(WalError::Device(error) | WalError::Failed { source: error })
            | Self::Checkpoint { source: CheckpointError::Device(error), .. }
            | Self::Objects { source: ObjectError::Device(error), .. } => Some(error),
            _ => None,
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        if let EngineError::Unserved { refusal, .. } = error {
            return refusal;
        }
        let code = match &error {
            EngineError::Device(DeviceError::NoSpace { .. }) => ErrorCode::DiskFull,
            EngineError::NoShard { .. } | EngineError::Poisoned { .. } => ErrorCode::Unavailable,
            EngineError::Index { source: IndexError::Memory { .. }, .. } => ErrorCode::MemoryFull,
            EngineError::Device(_) => ErrorCode::Internal,
            _ => ErrorCode::Corrupt,
        };
        match code {
            ErrorCode::DiskFull | ErrorCode::Unavailable | ErrorCode::MemoryFull => {
                Self::transient(code, error.to_string())
            }
            _ => Self::new(code, error.to_string(), ""),
        }
    }
}

/// The refusal of a log append as the client sees it. Nothing was applied.
pub(super) fn append_refused(error: &WalError) -> ApiError {
    match error {
        WalError::Full => ApiError::transient(ErrorCode::DiskFull, error.to_string()),
        WalError::TooLarge { limit, .. } => {
            let expected = format!("at most {limit} bytes with all vectors");
            ApiError::new(ErrorCode::TooLarge, format!("object: {error}"), expected)
        }
        _ => ApiError::transient(ErrorCode::Unavailable, error.to_string()),
    }
}

/// The error for a shard that is not here.
pub(super) fn no_shard(shard: ShardId) -> ApiError {
    let message = format!("shard {shard} is not served by this core");
    ApiError::transient(ErrorCode::Unavailable, message)
}
