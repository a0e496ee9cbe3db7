//! What the replicas of a shard say to each other about single objects.

use heddle_types::limits::OBJECT_BATCH_MAX;
use heddle_types::{ApiError, ObjectDigest, ObjectId, Stamp};
use rkyv::{Archive, Deserialize, Serialize};

use super::super::check::{Checked, at_most, ends, equal, ids, known};
use super::super::durability::Durability;
use super::super::level::{DeleteAtReply, STAMP_BYTES, WriteTerms};
use super::super::object::{outcome_number, outcome_result, outcomes, part};
use super::super::{ErrorReply, Layout, id_chunks, u16s, u32s};
use super::ShardHead;

/// Writes that have their stamps, to a replica of a shard.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ReplicaWriteRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// [`Durability`]: 0 sync, 1 batched.
    pub durability: u8,
    /// Where each write ends in `writes`.
    pub ends: Vec<u32>,
    /// The writes as the engine encodes them (docs/format.md, stamped writes), one after the other.
    pub writes: Vec<u8>,
}

impl ArchivedReplicaWriteRequest {
    /// When the writes are to be acknowledged.
    #[must_use]
    pub fn durability(&self) -> Durability {
        Durability::from_number(self.durability)
    }

    /// The encoded writes, in place.
    pub fn writes(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        parts(u32s(&self.ends), &self.writes)
    }
}

impl Layout for ReplicaWriteRequest {
    fn check(archived: &ArchivedReplicaWriteRequest) -> Checked {
        known("durability", archived.durability, Durability::Batched as u8)?;
        let count = archived.ends.len();
        at_most("writes", count, OBJECT_BATCH_MAX)?;
        ends("ends of writes", u32s(&archived.ends), count, archived.writes.len())
    }

    fn size_hint_bytes(&self) -> usize {
        128 + 4 * self.ends.len() + self.writes.len()
    }
}

/// What a replica did with a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaOutcome {
    /// It took effect.
    Applied {
        /// Did the object exist before?
        existed: bool,
    },
    /// It had taken effect before.
    Known {
        /// Did the object exist before that?
        existed: bool,
    },
    /// The replica has a newer version.
    Superseded,
}

impl ReplicaOutcome {
    const ALL: [Self; 5] = [
        Self::Applied { existed: false },
        Self::Applied { existed: true },
        Self::Known { existed: false },
        Self::Known { existed: true },
        Self::Superseded,
    ];

    fn number(self) -> u8 {
        Self::ALL.iter().position(|other| *other == self).expect("ALL lists every outcome") as u8
    }

    fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Superseded)
    }
}

/// What happened to each write, in the order of the request.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ReplicaWriteReply {
    /// 0 = see `done`, else 1 + a position in `errors`.
    pub outcomes: Vec<u16>,
    /// 0 and 1 took effect where there was no and an object, 2 and 3 had taken effect before, 4
    /// there is a newer version; 0 where there is an error.
    pub done: Vec<u8>,
    /// The errors; several writes may share one.
    pub errors: Vec<ErrorReply>,
}

impl ReplicaWriteReply {
    /// Adds the outcome of the next write.
    pub fn push(&mut self, outcome: Result<ReplicaOutcome, &ApiError>) {
        self.outcomes.push(outcome_number(&mut self.errors, outcome.err()));
        self.done.push(outcome.map_or(0, ReplicaOutcome::number));
    }

    /// The outcomes one by one.
    #[must_use]
    pub fn into_results(self) -> Vec<Result<ReplicaOutcome, ApiError>> {
        let Self { outcomes, done, errors } = self;
        let pairs = outcomes.iter().zip(done);
        pairs
            .map(|(outcome, done)| {
                outcome_result(*outcome, &errors, ReplicaOutcome::from_number(done))
            })
            .collect()
    }
}

impl Layout for ReplicaWriteReply {
    fn check(archived: &ArchivedReplicaWriteReply) -> Checked {
        outcomes(u16s(&archived.outcomes), &archived.errors)?;
        equal("outcomes of writes", archived.done.len(), archived.outcomes.len())?;
        let highest = ReplicaOutcome::ALL.len() as u8 - 1;
        archived.done.iter().try_for_each(|done| known("outcome of a write", *done, highest))
    }

    fn size_hint_bytes(&self) -> usize {
        256 + 3 * self.outcomes.len() + 256 * self.errors.len()
    }
}

/// Writes that depend on what is there, for the home core of a replica, which coordinates them.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ReplicaConditionalRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// Level, durability and conditions; the ticket is empty.
    pub terms: WriteTerms,
    /// The stamp that all of them get, 32 bytes; empty = the receiver gives one.
    pub stamp: Vec<u8>,
    /// 1 = puts are merged with what is there.
    pub merge: u8,
    /// Where each write ends in `writes`.
    pub ends: Vec<u32>,
    /// The writes as in [`ReplicaWriteRequest`]; their stamps mean nothing.
    pub writes: Vec<u8>,
}

impl ArchivedReplicaConditionalRequest {
    /// The stamp that all of them get.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp.first_chunk().map(Stamp::decode)
    }

    /// The encoded writes, in place.
    pub fn writes(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        parts(u32s(&self.ends), &self.writes)
    }
}

impl Layout for ReplicaConditionalRequest {
    fn check(archived: &ArchivedReplicaConditionalRequest) -> Checked {
        let count = archived.ends.len();
        at_most("writes", count, OBJECT_BATCH_MAX)?;
        archived.terms.check(count)?;
        equal("ticket length", archived.terms.ticket.len(), 0)?;
        if !archived.stamp.is_empty() {
            equal("stamp length", archived.stamp.len(), STAMP_BYTES)?;
        }
        known("merge flag", archived.merge, 1)?;
        ends("ends of writes", u32s(&archived.ends), count, archived.writes.len())
    }

    fn size_hint_bytes(&self) -> usize {
        192 + self.terms.expected.len() + 5 * self.ends.len() + self.writes.len()
    }
}

/// What happened to each write.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ReplicaConditionalReply {
    /// Outcomes, whether there was an object, and stamps, as of deletions.
    pub done: DeleteAtReply,
}

impl ReplicaConditionalReply {
    /// Adds the outcome of the next write: its stamp, and whether there was an object.
    pub fn push(&mut self, outcome: Result<(Stamp, bool), &ApiError>) {
        self.done.push(outcome);
    }

    /// The outcomes one by one.
    #[must_use]
    pub fn into_results(self) -> Vec<Result<(Stamp, bool), ApiError>> {
        let DeleteAtReply { delete, stamps } = self.done;
        let stamps = stamps.as_chunks::<STAMP_BYTES>().0.iter().map(Stamp::decode);
        let results = delete.into_results().into_iter().zip(stamps);
        results.map(|(existed, stamp)| Ok((stamp, existed?))).collect()
    }
}

impl Layout for ReplicaConditionalReply {
    fn check(archived: &ArchivedReplicaConditionalReply) -> Checked {
        DeleteAtReply::check(&archived.done)
    }

    fn size_hint_bytes(&self) -> usize {
        self.done.size_hint_bytes()
    }
}

macro_rules! by_ids {
    ($(#[$doc:meta])* $name:ident, $archived:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
        #[rkyv(derive(Debug))]
        pub struct $name {
            /// How it was routed.
            pub head: ShardHead,
            /// The shard.
            pub shard: u64,
            /// 16 bytes an id.
            pub ids: Vec<u8>,
        }

        impl $archived {
            /// The ids.
            pub fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
                id_chunks(&self.ids).iter().map(|id| ObjectId(*id))
            }
        }

        impl Layout for $name {
            fn check(archived: &$archived) -> Checked {
                ids("ids", &archived.ids).map(drop)
            }

            fn size_hint_bytes(&self) -> usize {
                128 + self.ids.len()
            }
        }
    };
}

by_ids! {
    /// Asks a replica which version it has of each object.
    ReplicaDigestRequest, ArchivedReplicaDigestRequest
}
by_ids! {
    /// Asks a replica for exact copies of what it has of each object, deletions too.
    ReplicaReadRequest, ArchivedReplicaReadRequest
}

const NEVER_HERE: u8 = 0;
const LIVE: u8 = 1;
const TOMBSTONE: u8 = 2;

/// The version of each object, in the order of the request.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ReplicaDigestReply {
    /// 0 nothing is known of it, 1 it lives, 2 it was deleted.
    pub kinds: Vec<u8>,
    /// The stamps of those of which something is known, 32 bytes each.
    pub stamps: Vec<u8>,
    /// When each of those was created, microseconds since the Unix epoch; 0 for a deletion.
    pub created_us: Vec<i64>,
}

impl ReplicaDigestReply {
    /// Adds the version of the next object.
    pub fn push(&mut self, digest: Option<ObjectDigest>) {
        let Some(ObjectDigest { stamp, is_tombstone, created_us }) = digest else {
            return self.kinds.push(NEVER_HERE);
        };
        self.kinds.push(if is_tombstone { TOMBSTONE } else { LIVE });
        self.stamps.extend_from_slice(&stamp.encode());
        self.created_us.push(created_us);
    }
}

impl ArchivedReplicaDigestReply {
    /// The versions, one an object.
    #[must_use]
    pub fn digests(&self) -> Vec<Option<ObjectDigest>> {
        let stamps = self.stamps.as_chunks::<STAMP_BYTES>().0.iter().map(Stamp::decode);
        let mut known = stamps.zip(self.created_us.iter().map(|at| at.to_native()));
        let kinds = self.kinds.iter();
        kinds
            .map(|kind| {
                let (stamp, created_us) = (*kind != NEVER_HERE).then(|| known.next())??;
                Some(ObjectDigest { stamp, is_tombstone: *kind == TOMBSTONE, created_us })
            })
            .collect()
    }
}

impl Layout for ReplicaDigestReply {
    fn check(archived: &ArchivedReplicaDigestReply) -> Checked {
        at_most("digests", archived.kinds.len(), OBJECT_BATCH_MAX)?;
        archived.kinds.iter().try_for_each(|kind| known("kind of a digest", *kind, TOMBSTONE))?;
        let count = archived.kinds.iter().filter(|kind| **kind != NEVER_HERE).count();
        equal("bytes of stamps", archived.stamps.len(), count * STAMP_BYTES)?;
        equal("creation times", archived.created_us.len(), count)
    }

    fn size_hint_bytes(&self) -> usize {
        128 + self.kinds.len() + self.stamps.len() + 8 * self.created_us.len()
    }
}

/// Copies, in the order of the request. It may speak of the first ids of the request alone, at
/// least of one; then the others have to be asked for again.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct ReplicaReadReply {
    /// Where each copy ends in `copies`; one of no bytes is of an object that was never here.
    pub ends: Vec<u32>,
    /// The copies as the engine encodes them, one after the other.
    pub copies: Vec<u8>,
}

impl ArchivedReplicaReadReply {
    /// The encoded copies, in place.
    pub fn copies(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        parts(u32s(&self.ends), &self.copies)
    }
}

impl Layout for ReplicaReadReply {
    fn check(archived: &ArchivedReplicaReadReply) -> Checked {
        let count = archived.ends.len();
        at_most("copies", count, OBJECT_BATCH_MAX)?;
        ends("ends of copies", u32s(&archived.ends), count, archived.copies.len())
    }

    fn size_hint_bytes(&self) -> usize {
        128 + 4 * self.ends.len() + self.copies.len()
    }
}

/// The byte strings that checked ends cut.
fn parts<'a>(ends: &'a [u32], bytes: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> {
    (0..ends.len()).map(|index| part(ends, bytes, index).unwrap_or_default())
}
