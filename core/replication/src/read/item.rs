//! How the read of one id ends.

use heddle_types::{ObjectDigest, Stamp};

/// How the read of one id ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReadOutcome {
    /// It lives, in this version; [`super::ReadMachine::take`] has its record.
    Found(ObjectDigest),
    /// It was deleted.
    Deleted(Stamp),
    /// No replica asked ever had it, as far as is remembered.
    Absent,
    /// One replica has it and another its tombstone, and nobody resolves that
    /// ([`heddle_types::DeletionStrategy::NoAutomatedResolution`]).
    Conflict,
    /// Too few replicas took part.
    Failed,
}

/// What a repair writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copy<'a, R> {
    /// The record of an object that lives.
    Record(&'a R),
    /// A tombstone of this stamp.
    Tombstone(Stamp),
}
