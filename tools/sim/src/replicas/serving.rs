//! What a node does when another one asks.

use std::rc::Rc;

use heddle_core::engine::{Replicated, StampedWrite};
use heddle_types::limits::STAMP_AHEAD_US_MAX;
use heddle_types::{ApiError, Clock, ErrorCode, ObjectDigest, ObjectId, ShardId};

use super::World;
use super::bugs::Bug;
use super::node::{Node, Running};
use super::rpc::{Answer, Call, ENTRIES_MAX, Request, refused};

impl World {
    pub(crate) async fn serve(
        self: &Rc<Self>,
        node: &Rc<Node>,
        running: &Running,
        request: Request,
    ) -> Result<Answer, ApiError> {
        let Request { identity, shard, is_copy, call } = request;
        if identity != running.identity {
            return Err(refused("another node has the name"));
        }
        match call {
            Call::Write(writes) => {
                let mut writes = decoded(&writes);
                if is_copy && self.bug == Some(Bug::RetryTakesEffectTwice) {
                    for write in &mut writes {
                        write.stamp = running.store.issue().await?;
                    }
                }
                self.apply(node, running, shard, writes).await
            }
            Call::Hint { kept_for, writes } => {
                if kept_for != running.identity {
                    self.fail(format!("a hint for {kept_for} came to {}", running.identity));
                }
                self.apply(node, running, shard, decoded(&writes)).await
            }
            Call::Digest(ids) => {
                let digests = running.store.digests(shard, &ids)?.into_iter();
                Ok(Answer::Digests(digests.map(|known| self.as_told(known)).collect()))
            }
            Call::Read(ids) => self.read_copies(running, shard, ids).await,
            Call::Live => {
                let entries = running.store.dump(shard).await.into_iter();
                let live = entries.filter(|(_, digest)| !digest.is_tombstone);
                Ok(Answer::Live(live.map(|(id, digest)| (id, digest.stamp)).collect()))
            }
            Call::Begin => {
                // Its time comes first, its leaves last.
                let hlc = running.store.time();
                running.hints.flush(self, node, running, shard).await;
                let leaves = running.store.tree(shard).await?;
                let floor = running.store.floor(shard);
                Ok(Answer::Began { hlc, floor, leaves })
            }
            Call::Entries { leaves, after } => {
                let entries = running.store.entries(shard, leaves, after, ENTRIES_MAX).await?;
                let told = entries.into_iter().filter_map(|(id, digest)| {
                    self.as_told(Some(digest)).map(|digest| (id, digest))
                });
                Ok(Answer::Entries(told.collect()))
            }
            Call::SetFloor(floor) => {
                running.store.set_floor(shard, floor).await?;
                self.trace.note("floor", &[node.position as u64, floor.0], || {
                    format!("node {} shard {} {floor:?}", node.position, shard.0)
                });
                Ok(Answer::Done)
            }
        }
    }

    async fn read_copies(
        &self,
        running: &Running,
        shard: ShardId,
        ids: Vec<ObjectId>,
    ) -> Result<Answer, ApiError> {
        let copies = running.store.read(shard, ids).await?.into_iter();
        let told = copies.map(|copy| {
            let digest = copy.as_ref().map(super::model::digest_of);
            copy.filter(|_| self.as_told(digest).is_some())
        });
        Ok(Answer::Copies(told.collect()))
    }

    fn as_told(&self, known: Option<ObjectDigest>) -> Option<ObjectDigest> {
        let hides = self.bug == Some(Bug::DeletedIsAbsent);
        known.filter(|known| !hides || !known.is_tombstone)
    }

    async fn apply(
        self: &Rc<Self>,
        node: &Rc<Node>,
        running: &Running,
        shard: ShardId,
        writes: Vec<StampedWrite>,
    ) -> Result<Answer, ApiError> {
        let sent = writes.clone();
        let newest_us = node.clock.unix_us().saturating_add(STAMP_AHEAD_US_MAX);
        let jumps = node.clock.jumps();
        let results = match running.store.apply(shard, writes).await {
            Ok(results) => results,
            Err(error) => {
                if error.code == ErrorCode::Unknown {
                    // The log failed: the node ends, without an answer.
                    self.log_failed(node.position);
                }
                return Err(error);
            }
        };
        let code_of = |result: &Result<_, ApiError>| result.as_ref().err().map(|error| error.code);
        let is_unknown = |result: &Result<_, ApiError>| code_of(result) == Some(ErrorCode::Unknown);
        if results.iter().any(is_unknown) {
            self.log_failed(node.position);
        }
        for (write, result) in sent.iter().zip(&results) {
            if let Ok(replicated) = result {
                let is_ahead = write.stamp.hlc.unix_us() > newest_us && node.clock.jumps() == jumps;
                if is_ahead && matches!(replicated, Replicated::Applied { .. }) {
                    let (identity, stamp) = (running.identity, write.stamp);
                    self.fail(format!("{identity} took {stamp:?}, which is of the future"));
                }
                self.note_applied(node, running.identity, shard, write, replicated);
            }
        }
        Ok(Answer::Written(results))
    }
}

fn decoded(writes: &[Rc<[u8]>]) -> Vec<StampedWrite> {
    let decode = |bytes: &Rc<[u8]>| StampedWrite::decode(bytes).expect("encoded by a node");
    writes.iter().map(decode).collect()
}
