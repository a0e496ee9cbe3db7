//! What a read is told, and what it wants done.

use heddle_types::{ApiError, Consistency, DeletionStrategy, ObjectDigest};

use crate::replicas::{ItemAnswer, Items};

/// What is to be read, for the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest<'a> {
    /// Configured replicas of the shard.
    pub replicas: usize,
    /// Replicas in the order in which to ask them ([`crate::replica_order`]); others are not asked.
    pub order: &'a [u8],
    /// How many must take part.
    pub level: Consistency,
    /// What to do about an object that one has deleted and another has.
    pub strategy: DeletionStrategy,
    /// Ids of the request.
    pub items: usize,
    /// The time now.
    pub now_us: u64,
    /// Another replica is asked as well whenever so long nothing was decided.
    pub hedge_after_us: u64,
    /// When the client is answered with what is known by then.
    pub deadline_us: u64,
}

/// What happened. `R` is a record as the driver has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadEvent<R> {
    /// The answer to [`ReadEffect::Fetch`].
    Copies {
        /// The replica.
        replica: u8,
        /// One an item asked for, in order, with its record; none for what the replica never had.
        /// Another number of them counts as no answer.
        copies: Vec<Option<(ObjectDigest, R)>>,
    },
    /// The answer to [`ReadEffect::Digest`].
    Digests {
        /// The replica.
        replica: u8,
        /// One an item asked for, in order. Another number of them counts as no answer.
        digests: Vec<Option<ObjectDigest>>,
    },
    /// A fetch or a digest failed, or no answer will come.
    Failed {
        /// The replica.
        replica: u8,
        /// Why, when it said so.
        error: Option<Box<ApiError>>,
    },
    /// The answer to [`ReadEffect::Repair`].
    Repaired {
        /// The replica.
        replica: u8,
        /// One an item sent, in order. Another number of them counts as no answer.
        answers: Vec<ItemAnswer>,
    },
    /// A repair failed as a whole, or no answer will come.
    RepairFailed {
        /// The replica.
        replica: u8,
    },
    /// The time of [`super::ReadMachine::deadline`] has come; ignored before.
    Due,
}

/// What must be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadEffect {
    /// Read whole records from a replica.
    Fetch {
        /// From whom.
        replica: u8,
        /// Which.
        items: Items,
    },
    /// Read digests from a replica.
    Digest {
        /// From whom.
        replica: u8,
        /// Which.
        items: Items,
    },
    /// Write [`super::ReadMachine::copy`] of these items to a replica, exactly as they are.
    Repair {
        /// To whom.
        replica: u8,
        /// Which, rising.
        items: Vec<u32>,
    },
    /// Answer the client ([`super::ReadMachine::outcome`]). Comes once, last; repairs that are not
    /// answered by then are those of replicas beyond the level, and need no answer.
    Answer,
}
