//! Sending hints to their node.

use std::rc::Rc;
use std::time::Duration;

use heddle_core::engine::{Durability, Replicated, StampedWrite};
use heddle_core::hints::{Hint, HintBatch, HintPosition};
use heddle_types::limits::OBJECT_BATCH_MAX;
use heddle_types::{ApiError, CollectionId, ErrorCode, NodeId, Retry, ShardId};
use heddle_wire::message::{
    Durability as WireDurability, ReplicaWriteReply, ReplicaWriteRequest, ShardHead,
};
use heddle_wire::{Body, decode, encode_body};

use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::peer::{Lane, Target};
use crate::registry::ShardAt;

/// How long a node may take for one message of hints.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages of one delivery that may get no answer in time: the rest is not tried then.
const LATE_MAX: u32 = 2;

/// The end of a delivery.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) target: NodeId,
    /// The folder of the log that it was taken from.
    pub(super) log: String,
    pub(super) bytes: u64,
    /// When the first of the hints was written; none is older.
    pub(super) written_us: u64,
    pub(super) end: HintPosition,
    pub(super) outcome: Outcome,
}

/// What became of hints.
#[derive(Default, Debug)]
pub(super) struct Outcome {
    /// Hints that the node has now.
    pub(super) delivered: u64,
    /// Hints that nobody can use any more.
    pub(super) dropped: u64,
    /// Hints that may be taken later.
    pub(super) left: Vec<Hint>,
    /// A replica said what it thinks of a hint, were it that it cannot take it now.
    pub(super) is_answered: bool,
    /// Parts that got no answer in time.
    late: u32,
}

impl Outcome {
    /// Something became of a hint.
    pub(super) fn is_progress(&self) -> bool {
        self.delivered + self.dropped > 0
    }

    /// Takes in the end of a call with some hints, all of one shard. False when the rest of that
    /// shard is not worth asking for now.
    fn take(
        &mut self,
        hints: &[Hint],
        result: Result<Vec<Result<(), ApiError>>, ApiError>,
    ) -> bool {
        match result {
            Ok(results) => {
                self.is_answered = true;
                for (hint, result) in hints.iter().zip(results) {
                    self.take_one(hint, result);
                }
                true
            }
            Err(error) => {
                tracing::debug!(shard = %hints[0].shard, %error, "hints are not delivered");
                self.late += u32::from(error.code == ErrorCode::DeadlineExceeded);
                self.is_answered |= !is_silence(&error);
                let is_over = is_final(&error);
                if is_over {
                    self.dropped += hints.len() as u64;
                } else {
                    self.left.extend_from_slice(hints);
                }
                is_over
            }
        }
    }

    fn take_one(&mut self, hint: &Hint, result: Result<(), ApiError>) {
        match result {
            Ok(()) => self.delivered += 1,
            Err(error) if is_final(&error) => {
                tracing::debug!(shard = %hint.shard, %error, "a hint is not taken");
                self.dropped += 1;
            }
            Err(error) => {
                tracing::debug!(shard = %hint.shard, %error, "a hint is not taken yet");
                self.left.push(hint.clone());
            }
        }
    }
}

/// Sends a batch, shard by shard. What one shard, or one hint, cannot have now holds up no other.
pub(super) async fn deliver(
    core: Rc<Core>,
    target: NodeId,
    log: String,
    batch: HintBatch,
) -> Delivered {
    let HintBatch { mut hints, bytes, written_us, end } = batch;
    // Of each object the newer stamp wins, so the order between shards does not matter.
    hints.sort_by_key(|hint| hint.shard);
    let mut outcome = Outcome::default();
    for same in hints.chunk_by(|left, right| left.shard == right.shard) {
        let mut is_taking = outcome.late < LATE_MAX;
        for part in same.chunks(OBJECT_BATCH_MAX) {
            if is_taking {
                let result = send(&core, target, part, &mut outcome.dropped).await;
                is_taking = result.is_none_or(|result| outcome.take(part, result));
            } else {
                outcome.left.extend_from_slice(part);
            }
        }
    }
    Delivered { target, log, bytes, written_us, end, outcome }
}

/// Where a node has a shard by now, and of which collection it is; none when the shard is gone, has
/// moved away, or rests with its tenant.
fn place_of(core: &Core, target: NodeId, shard: ShardId) -> Option<(CollectionId, ShardAt)> {
    let route = core.registry.route_with(shard)?;
    let place = &route.shards[route.position(shard)?];
    let replica = place.replicas.iter().position(|replica| replica.node == target)?;
    Some((route.id, place.at(replica)))
}

/// Sends hints of one shard; none when the node has no use for them any more, which is counted.
async fn send(
    core: &Rc<Core>,
    target: NodeId,
    hints: &[Hint],
    dropped: &mut u64,
) -> Option<Result<Vec<Result<(), ApiError>>, ApiError>> {
    let Some((collection, shard)) = place_of(core, target, hints[0].shard) else {
        *dropped += hints.len() as u64;
        return None;
    };
    let results = if shard.is_here {
        write_here(core, shard, hints).await
    } else {
        write_there(core, collection, shard, hints).await
    };
    Some(results.and_then(|results| {
        if results.len() == hints.len() {
            return Ok(results);
        }
        Err(ApiError::internal("a replica did not answer for each hint"))
    }))
}

/// Whether an error may be that of a node that does not answer at all.
fn is_silence(error: &ApiError) -> bool {
    use ErrorCode::{DeadlineExceeded, Overloaded, Unavailable, Unknown};
    matches!(error.code, Unavailable | DeadlineExceeded | Overloaded | Unknown)
}

/// Whether the same write is refused for ever: by its content, because it is below the floor of the
/// shard, or because the shard is damaged there; what is lacking is found by comparison then.
fn is_final(error: &ApiError) -> bool {
    error.code == ErrorCode::BelowFloor
        || (error.retry == Retry::Never
            && !matches!(error.code, ErrorCode::DiskFull | ErrorCode::MemoryFull))
}

async fn write_here(
    core: &Rc<Core>,
    shard: ShardAt,
    hints: &[Hint],
) -> Result<Vec<Result<(), ApiError>>, ApiError> {
    let decoded = |hint: &Hint| {
        let wrong = |error| ApiError::internal(format!("a hint cannot be read: {error}"));
        StampedWrite::decode(&hint.write).map_err(wrong)
    };
    let writes: Vec<StampedWrite> = hints.iter().map(decoded).collect::<Result<_, _>>()?;
    let order = CoreRequest::ReplicaWrite { shard: shard.id, durability: Durability::Sync, writes };
    let results = expect_reply!(core.write_home(shard.home, order).await?, Replicated)?;
    Ok(results.into_iter().map(|result: Result<Replicated, _>| result.map(|_| ())).collect())
}

async fn write_there(
    core: &Rc<Core>,
    collection: CollectionId,
    shard: ShardAt,
    hints: &[Hint],
) -> Result<Vec<Result<(), ApiError>>, ApiError> {
    let nodes = core.registry.nodes();
    let address = nodes.get(shard.node).and_then(|node| node.peer_address(shard.home));
    let Some(address) = address else {
        let message = "the cluster does not say where the node is reached";
        return Err(ApiError::transient(ErrorCode::Unavailable, message));
    };
    let mut message = ReplicaWriteRequest {
        head: ShardHead { collection: collection.0.into_bytes(), epoch: core.registry.epoch().0 },
        shard: shard.id.0,
        durability: WireDurability::Sync as u8,
        ends: Vec::with_capacity(hints.len()),
        writes: Vec::new(),
    };
    for hint in hints {
        message.writes.extend_from_slice(&hint.write);
        message.ends.push(message.writes.len() as u32);
    }
    let target = Target { node: Some(shard.node), address };
    let kind = ReplicaWriteRequest::NUMBER;
    let body = encode_body(&message)?;
    let answer = core.links.call(&target, Lane::Repair, kind, body, PATIENCE).await?;
    if answer.header.type_number != ReplicaWriteReply::NUMBER {
        return Err(ApiError::internal("a replica answered something else than asked for"));
    }
    let reply = decode::<ReplicaWriteReply>(&answer.body);
    let reply = reply.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(reply.into_results().into_iter().map(|result| result.map(|_| ())).collect())
}

#[cfg(test)]
mod tests {
    use heddle_types::ShardId;

    use super::*;

    fn hints(shard: u64, count: u8) -> Vec<Hint> {
        (0..count).map(|number| Hint { shard: ShardId(shard), write: vec![number] }).collect()
    }

    fn refusal(code: ErrorCode) -> ApiError {
        ApiError::transient(code, "")
    }

    #[test]
    fn a_hint_that_is_refused_for_now_holds_up_no_other_of_its_batch() {
        let hints = hints(1, 4);
        let mut outcome = Outcome::default();
        let skewed = Err(refusal(ErrorCode::ClockSkew));
        let below = Err(refusal(ErrorCode::BelowFloor));
        assert!(outcome.take(&hints, Ok(vec![Ok(()), skewed, below, Ok(())])));
        assert_eq!((outcome.delivered, outcome.dropped), (2, 1));
        assert_eq!(outcome.left, hints[1..2]);
        assert!(outcome.is_progress() && outcome.is_answered);
    }

    #[test]
    fn a_shard_that_is_damaged_drops_its_hints_and_one_that_rests_keeps_them() {
        let mut outcome = Outcome::default();
        let damaged = ApiError::new(ErrorCode::Corrupt, "", "");
        assert!(outcome.take(&hints(1, 3), Err(damaged)));
        assert!(outcome.is_answered && outcome.is_progress());
        let full = ApiError::new(ErrorCode::DiskFull, "", "");
        assert!(!outcome.take(&hints(2, 2), Err(full)));
        assert!(!outcome.take(&hints(3, 1), Err(refusal(ErrorCode::StaleEpoch))));
        assert_eq!((outcome.delivered, outcome.dropped), (0, 3));
        assert_eq!(outcome.left, [hints(2, 2), hints(3, 1)].concat());
    }

    #[test]
    fn a_node_that_does_not_answer_is_told_from_one_that_refuses() {
        let mut outcome = Outcome::default();
        assert!(!outcome.take(&hints(1, 1), Err(refusal(ErrorCode::Unavailable))));
        assert!(!outcome.take(&hints(2, 1), Err(refusal(ErrorCode::DeadlineExceeded))));
        assert!(!outcome.is_answered && !outcome.is_progress());
        assert_eq!(outcome.late, 1);
        assert!(!outcome.take(&hints(3, 1), Err(refusal(ErrorCode::StaleEpoch))));
        assert!(outcome.is_answered && !outcome.is_progress());
    }
}
