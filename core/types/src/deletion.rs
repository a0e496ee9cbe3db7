//! What a read does when one replica has an object and another its tombstone.

use serde::{Deserialize, Serialize};

/// How a deletion that not every replica has seen is resolved; Weaviate's names.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub enum DeletionStrategy {
    /// Nobody resolves it: reads of the object fail until it is written or deleted anew.
    NoAutomatedResolution,
    /// The deletion wins, also against a newer write.
    DeleteOnConflict,
    /// The newer of write and deletion wins.
    #[default]
    TimeBasedResolution,
}
