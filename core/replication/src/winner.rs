//! Which version of an object wins among replicas that do not agree.

use heddle_types::{DeletionStrategy, ObjectDigest};

/// What several replicas say together about one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// This version wins; nothing does where nobody has any.
    Wins(Option<ObjectDigest>),
    /// A deletion and a write that nobody resolves.
    Conflict,
}

/// The version that wins among those of several replicas.
///
/// `DeleteOnConflict` makes a tombstone of the newest stamp: of equal stamps the tombstone wins,
/// so every replica takes it, in whatever order things arrive.
pub(crate) fn resolve(
    strategy: DeletionStrategy,
    versions: impl Iterator<Item = Option<ObjectDigest>>,
) -> Verdict {
    let mut newest = None;
    let (mut is_any_live, mut is_any_dead) = (false, false);
    for version in versions {
        let is_tombstone = version.is_some_and(|version| version.is_tombstone);
        is_any_dead |= is_tombstone;
        is_any_live |= version.is_some() && !is_tombstone;
        newest = newest.max(version);
    }
    let is_split = is_any_live && is_any_dead;
    match strategy {
        DeletionStrategy::NoAutomatedResolution if is_split => Verdict::Conflict,
        DeletionStrategy::DeleteOnConflict if is_split => {
            Verdict::Wins(newest.map(|newest| ObjectDigest::tombstone(newest.stamp)))
        }
        _ => Verdict::Wins(newest),
    }
}
