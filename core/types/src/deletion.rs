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

impl DeletionStrategy {
    /// Every strategy.
    pub const ALL: [Self; 3] =
        [Self::TimeBasedResolution, Self::DeleteOnConflict, Self::NoAutomatedResolution];

    /// Its name in definitions.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAutomatedResolution => "NoAutomatedResolution",
            Self::DeleteOnConflict => "DeleteOnConflict",
            Self::TimeBasedResolution => "TimeBasedResolution",
        }
    }

    /// The strategy of a name; none when there is no such.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|strategy| strategy.name() == name)
    }

    /// Whether it is the one of collections that name none.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
