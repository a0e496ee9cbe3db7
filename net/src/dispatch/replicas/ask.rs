//! Asking one replica of a shard: on this node by the mesh, on another one by a link.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use heddle_core::engine::{Durability, Replicated, StampedWrite};
use heddle_replication::ItemAnswer;
use heddle_types::{ApiError, Clock, ErrorCode, ObjectDigest, ObjectId, Retry};
use heddle_wire::message::{
    ReplicaDigestReply, ReplicaDigestRequest, ReplicaOutcome, ReplicaReadReply, ReplicaReadRequest,
    ReplicaWriteReply, ReplicaWriteRequest,
};
use heddle_wire::{AlignedVec, encode_body};

use super::super::Deadline;
use super::super::remote::{self, Party};
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};

/// A replica of a shard, and all that it takes to ask it.
#[derive(Clone)]
pub(in crate::dispatch) struct Replica {
    pub(in crate::dispatch) core: Rc<Core>,
    pub(in crate::dispatch) route: Arc<CollectionRoute>,
    pub(in crate::dispatch) shard: ShardAt,
}

/// What became of writes that were sent to a replica.
pub(super) enum Sent {
    /// It answered for each of them.
    Answered(Vec<ItemAnswer>),
    /// It applied nothing.
    Refused(ApiError),
    /// Nobody knows.
    Lost,
}

/// Writes as they travel, encoded once for all replicas.
pub(super) struct Encoded {
    body: Result<AlignedVec<16>, ApiError>,
    count: usize,
}

impl Encoded {
    /// Encodes writes to the shard of a replica.
    pub(super) fn of(replica: &Replica, durability: Durability, writes: &[StampedWrite]) -> Self {
        let mut message = ReplicaWriteRequest {
            head: remote::head(&replica.core, &replica.route),
            shard: replica.shard.id.0,
            durability: super::super::wire_durability(durability) as u8,
            ends: Vec::with_capacity(writes.len()),
            writes: Vec::new(),
        };
        for write in writes {
            write.encode(&mut message.writes);
            message.ends.push(message.writes.len() as u32);
        }
        Self { body: encode_body(&message).map_err(ApiError::from), count: writes.len() }
    }
}

/// What the machine is told about one write.
fn answer_of(result: Result<ReplicaOutcome, ApiError>) -> ItemAnswer {
    match result {
        Ok(ReplicaOutcome::Applied { existed }) => ItemAnswer::Applied { existed },
        Ok(ReplicaOutcome::Known { existed }) => ItemAnswer::Known { existed },
        Ok(ReplicaOutcome::Superseded) => ItemAnswer::Superseded,
        Err(error) if error.code == ErrorCode::BelowFloor => ItemAnswer::BelowFloor,
        Err(error) => ItemAnswer::Refused(Box::new(error)),
    }
}

/// What the engine says about a write, as it travels.
pub(in crate::dispatch) fn outcome_of(replicated: &Replicated) -> ReplicaOutcome {
    match *replicated {
        Replicated::Applied { existed, .. } => ReplicaOutcome::Applied { existed },
        Replicated::Known { existed, .. } => ReplicaOutcome::Known { existed },
        Replicated::Superseded { .. } => ReplicaOutcome::Superseded,
    }
}

/// One answer for each write, or what it means that there is none. A write of unknown outcome makes
/// the whole answer unknown: the replica is brought up to date by a hint.
fn settle(sent: Result<Vec<Result<ReplicaOutcome, ApiError>>, ApiError>, count: usize) -> Sent {
    match sent {
        Ok(results) => {
            let may_have = |error: &ApiError| error.retry == Retry::MayHaveApplied;
            let is_unknown =
                |result: &Result<ReplicaOutcome, ApiError>| result.as_ref().is_err_and(may_have);
            if results.len() != count || results.iter().any(is_unknown) {
                return Sent::Lost;
            }
            Sent::Answered(results.into_iter().map(answer_of).collect())
        }
        Err(error) if error.retry == Retry::MayHaveApplied => Sent::Lost,
        Err(error) => Sent::Refused(error),
    }
}

impl Replica {
    /// Writes to the replica of this node.
    pub(super) async fn write_here(
        &self,
        durability: Durability,
        writes: Vec<StampedWrite>,
    ) -> Sent {
        let count = writes.len();
        let order = CoreRequest::ReplicaWrite { shard: self.shard.id, durability, writes };
        let reply = self.core.write_home(self.shard.home, order).await;
        let written = reply.and_then(|reply| expect_reply!(reply, Replicated));
        let outcome = |result: Result<Replicated, ApiError>| result.map(|done| outcome_of(&done));
        settle(written.map(|results| results.into_iter().map(outcome).collect()), count)
    }

    /// Writes to a replica of another node.
    pub(super) async fn write_there(&self, writes: &Encoded, deadline: Deadline<'_>) -> Sent {
        let body = match &writes.body {
            Ok(body) => body.clone(),
            Err(error) => return Sent::Refused(error.clone()),
        };
        let party = Party::home_of(&self.shard);
        let sent =
            remote::write_body::<ReplicaWriteRequest>(&self.core, party, body, deadline).await;
        // Whatever is wrong with the answer, the other node has worked on the request.
        let decoded = sent.and_then(|reply| {
            let reply = reply.decode::<ReplicaWriteReply>();
            reply.map_err(|error| ApiError::unknown(error.message))
        });
        settle(decoded.map(ReplicaWriteReply::into_results), writes.count)
    }

    /// Exact copies of objects, deletions too, in the order asked for.
    pub(super) async fn copies(
        &self,
        ids: Vec<ObjectId>,
        deadline: Deadline<'_>,
    ) -> Result<Vec<Option<StampedWrite>>, ApiError> {
        if self.shard.is_here {
            let order = CoreRequest::ReadStamped { shard: self.shard.id, ids };
            let reply = self.core.call_home(self.shard.home, order).await?;
            return expect_reply!(reply, Copies);
        }
        let mut copies = Vec::with_capacity(ids.len());
        while copies.len() < ids.len() {
            let rest = &ids[copies.len()..];
            let message = ReplicaReadRequest {
                head: remote::head(&self.core, &self.route),
                shard: self.shard.id.0,
                ids: rest.iter().flat_map(|id| id.0).collect(),
            };
            let party = Party::home_of(&self.shard);
            let reply = remote::read(&self.core, party, &message, deadline).await?;
            let read = reply.access::<ReplicaReadReply>()?;
            let answered = read.copies().len();
            if answered == 0 || answered > rest.len() {
                return Err(reply.broken("it speaks of other objects than asked for"));
            }
            for (bytes, id) in read.copies().zip(rest) {
                let copy = match bytes {
                    [] => None,
                    bytes => {
                        let decoded = StampedWrite::decode(bytes);
                        Some(decoded.map_err(|error| reply.broken(&error.to_string()))?)
                    }
                };
                if copy.as_ref().is_some_and(|copy| copy.id != *id) {
                    return Err(reply.broken("a copy of another object than asked for"));
                }
                copies.push(copy);
            }
        }
        Ok(copies)
    }

    /// The versions of objects, in the order asked for.
    pub(super) async fn versions(
        &self,
        ids: Vec<ObjectId>,
        deadline: Deadline<'_>,
    ) -> Result<Vec<Option<ObjectDigest>>, ApiError> {
        if self.shard.is_here {
            let order = CoreRequest::Digests { shard: self.shard.id, ids };
            let reply = self.core.call_home(self.shard.home, order).await?;
            return expect_reply!(reply, Digests);
        }
        let message = ReplicaDigestRequest {
            head: remote::head(&self.core, &self.route),
            shard: self.shard.id.0,
            ids: ids.iter().flat_map(|id| id.0).collect(),
        };
        let party = Party::home_of(&self.shard);
        let reply = remote::read(&self.core, party, &message, deadline).await?;
        let digests = reply.access::<ReplicaDigestReply>()?.digests();
        if digests.len() != ids.len() {
            return Err(reply.broken("not one version an object"));
        }
        Ok(digests)
    }
}

impl Replica {
    /// An answer that began at `begun_ns` has come.
    pub(super) fn note_latency(&self, begun_ns: u64) {
        if !self.shard.is_here {
            let took_ns = self.core.clock.monotonic_ns().saturating_sub(begun_ns);
            self.core.latencies.note(Duration::from_nanos(took_ns));
        }
    }
}

/// The versions of objects at one replica, however many there are.
pub(in crate::dispatch) async fn digests(
    replica: &Replica,
    ids: &[ObjectId],
    deadline: Deadline<'_>,
) -> Result<Vec<Option<ObjectDigest>>, ApiError> {
    let mut digests = Vec::with_capacity(ids.len());
    for part in ids.chunks(heddle_types::limits::OBJECT_BATCH_MAX) {
        digests.extend(replica.versions(part.to_vec(), deadline).await?);
    }
    Ok(digests)
}
