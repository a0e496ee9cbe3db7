//! Requests of other nodes about shards of this one: one file a message family.
//!
//! The sender has routed the request by its own catalog. A request that is ahead of this node's
//! waits until the catalog has come that far; one about a shard that is not here is `StaleEpoch`.

mod read;
mod replica;
mod write;

use std::rc::Rc;
use std::sync::Arc;

use heddle_runtime::Queue;
use heddle_types::{ApiError, CollectionId, Epoch, ErrorCode, ShardId};
use heddle_wire::message::{
    ArchivedShardHead, ReplicaConditionalRequest, ReplicaDigestRequest, ReplicaReadRequest,
    ReplicaWriteRequest, ShardCountRequest, ShardDeleteRequest, ShardGetRequest, ShardPutRequest,
    ShardScanRequest, ShardSearchRequest,
};
use heddle_wire::{AlignedVec, Body, MessageError, MessageType, ShardMessage, access, encode_body};
use uuid::Uuid;

use super::{Deadline, reach, search};
use crate::admission;
use crate::core::Core;
use crate::limits::EPOCH_PATIENCE;
use crate::peer::PeerCall;
use crate::registry::{CollectionRoute, ShardAt};
use crate::server::request::ReplyBudget;

/// A reply: its type and body.
type Reply = (u16, AlignedVec<16>);

/// Answers a request of another node that concerns shards.
///
/// Errors: `UnknownMessage` for any other request, `StaleEpoch`, and those that a client would get.
pub(crate) async fn answer(core: Rc<Core>, call: PeerCall) -> Result<Reply, ApiError> {
    let number = call.header.type_number;
    let Some(kind) = ShardMessage::from_number(number) else {
        return Err(MessageError::UnknownType { number }.into());
    };
    core.metrics.executed_for_peers.add(1);
    let work = Work::begin(&core, kind, &call)?;
    let deadline = Deadline::of_peer(&core, call.arrived_ns, call.header.deadline_us);
    deadline.check()?;
    let job = Job { core: &core, deadline, budget: ReplyBudget::of_peer(&core) };
    let reply = job.answer(kind, &call.body).await;
    drop(work);
    reply
}

/// A request that is counted as being worked on.
struct Work<'a> {
    core: &'a Core,
    queue: Queue,
    bytes: usize,
}

impl<'a> Work<'a> {
    /// Errors: as for a request of a client: `Overloaded`, `DiskFull`, `MemoryFull`.
    fn begin(core: &'a Core, kind: ShardMessage, call: &PeerCall) -> Result<Self, ApiError> {
        let bytes = call.body.len();
        let queue = match kind {
            ShardMessage::Put
            | ShardMessage::Delete
            | ShardMessage::ReplicaWrite
            | ShardMessage::ReplicaConditional => Queue::Wal,
            ShardMessage::Get
            | ShardMessage::Scan
            | ShardMessage::Count
            | ShardMessage::Search
            | ShardMessage::ReplicaDigest
            | ShardMessage::ReplicaRead => Queue::Search,
        };
        // Among the writes between replicas are deletions, which always go on; the engine tells
        // them apart.
        if kind == ShardMessage::Put {
            admission::of_header(core, MessageType::Put, bytes)?;
        }
        if !core.server.admits(bytes) {
            let message = "this core holds as many requests and request bytes as it may";
            return Err(ApiError::transient(ErrorCode::Overloaded, message));
        }
        core.server.begin(queue, bytes);
        Ok(Self { core, queue, bytes })
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.core.server.end(self.queue, self.bytes);
    }
}

/// What the work on a request needs besides the request.
struct Job<'a> {
    core: &'a Rc<Core>,
    deadline: Deadline<'a>,
    budget: ReplyBudget,
}

impl Job<'_> {
    async fn answer(&self, kind: ShardMessage, body: &[u8]) -> Result<Reply, ApiError> {
        match kind {
            ShardMessage::Put => {
                let message = access::<ShardPutRequest>(body)?;
                let (route, shard) = self.one(&message.head, message.shard.to_native()).await?;
                reply(&write::put(self.core, &route, shard, message).await?)
            }
            ShardMessage::Delete => {
                let message = access::<ShardDeleteRequest>(body)?;
                let (_, shard) = self.one(&message.head, message.shard.to_native()).await?;
                reply(&write::delete(self.core, shard, message).await?)
            }
            ShardMessage::Get => {
                let message = access::<ShardGetRequest>(body)?;
                let shards = message.parts().map(|(shard, _)| shard).collect();
                let (route, shards) = self.readable(&message.head, shards).await?;
                reply(&read::get(self, &route, &shards, message).await?)
            }
            ShardMessage::Scan => {
                let message = access::<ShardScanRequest>(body)?;
                let shard = vec![message.shard.to_native()];
                let (route, shards) = self.readable(&message.head, shard).await?;
                reply(&read::scan(self, &route, shards[0], message).await?)
            }
            ShardMessage::Count => {
                let message = access::<ShardCountRequest>(body)?;
                let shards = message.shards().to_vec();
                let (route, shards) = self.readable(&message.head, shards).await?;
                reply(&read::count(self, &route, &shards, message).await?)
            }
            ShardMessage::Search => {
                let message = access::<ShardSearchRequest>(body)?;
                let shards = message.shards().to_vec();
                let (route, shards) = self.readable(&message.head, shards).await?;
                let (budget, deadline) = (&self.budget, self.deadline);
                let found =
                    search::answer_peer(self.core, &route, &shards, message, budget, deadline);
                reply(&found.await?)
            }
            _ => self.answer_replica(kind, body).await,
        }
    }

    async fn answer_replica(&self, kind: ShardMessage, body: &[u8]) -> Result<Reply, ApiError> {
        match kind {
            ShardMessage::ReplicaWrite => {
                let message = access::<ReplicaWriteRequest>(body)?;
                let (_, shard) = self.one(&message.head, message.shard.to_native()).await?;
                reply(&replica::write(self.core, shard, message).await?)
            }
            ShardMessage::ReplicaDigest => {
                let message = access::<ReplicaDigestRequest>(body)?;
                let shard = vec![message.shard.to_native()];
                let (_, shards) = self.readable(&message.head, shard).await?;
                reply(&replica::digests(self.core, shards[0], message).await?)
            }
            ShardMessage::ReplicaRead => {
                let message = access::<ReplicaReadRequest>(body)?;
                let shard = vec![message.shard.to_native()];
                let (_, shards) = self.readable(&message.head, shard).await?;
                reply(&replica::copies(self, shards[0], message).await?)
            }
            ShardMessage::ReplicaConditional => {
                let message = access::<ReplicaConditionalRequest>(body)?;
                let (route, shard) = self.one(&message.head, message.shard.to_native()).await?;
                reply(&replica::conditional(self, &route, shard, message).await?)
            }
            _ => Err(ApiError::internal("no request to a replica")),
        }
    }

    async fn one(
        &self,
        head: &ArchivedShardHead,
        shard: u64,
    ) -> Result<(Arc<CollectionRoute>, ShardAt), ApiError> {
        let (route, shards) = self.some(head, std::iter::once(shard)).await?;
        Ok((route, shards[0]))
    }

    /// The route of a collection and the places of some of its shards, to read: at once when they
    /// are here, so that a node which is late with other changes answers all the same.
    ///
    /// Errors: as [`Self::some`].
    async fn readable(
        &self,
        head: &ArchivedShardHead,
        shards: Vec<u64>,
    ) -> Result<(Arc<CollectionRoute>, Vec<ShardAt>), ApiError> {
        let id = CollectionId(Uuid::from_bytes(head.collection));
        let first = ShardId(shards.first().copied().unwrap_or_default());
        if let Some(route) = self.core.registry.route_holding(id, first) {
            let places = shards.iter().map(|shard| {
                let shard = &route.shards[route.position(ShardId(*shard))?];
                Some(shard.at(shard.here()?))
            });
            if let Some(places) = places.collect::<Option<Vec<ShardAt>>>() {
                return Ok((route, places));
            }
        }
        self.some(head, shards.into_iter()).await
    }

    /// The route of a collection and the places of some of its shards, once the catalog has come to
    /// the version by which the sender routed.
    ///
    /// Errors: `StaleEpoch` when it does not in time, or a shard is not here.
    async fn some(
        &self,
        head: &ArchivedShardHead,
        shards: impl Iterator<Item = u64>,
    ) -> Result<(Arc<CollectionRoute>, Vec<ShardAt>), ApiError> {
        let asked = Epoch(head.epoch.to_native());
        let reached = reach(self.core, asked, self.deadline, EPOCH_PATIENCE).await;
        let epoch = reached.map_err(|what| ApiError::transient(ErrorCode::StaleEpoch, what))?;
        let id = CollectionId(Uuid::from_bytes(head.collection));
        let stale = |what: String| {
            let message = format!("{what} by epoch {epoch}, the request was routed by {asked}");
            ApiError::transient(ErrorCode::StaleEpoch, message)
        };
        let mut shards = shards.peekable();
        let first = ShardId(shards.peek().copied().unwrap_or_default());
        let route = self.core.registry.route_holding(id, first);
        let unknown = || stale(format!("there is no shard {first} of collection {id}"));
        let route = route.ok_or_else(unknown)?;
        let place = |shard| {
            let known = route.position(ShardId(shard)).and_then(|position| {
                let shard = &route.shards[position];
                Some(shard.at(shard.here()?))
            });
            known.ok_or_else(|| {
                stale(format!("shard {shard} of collection {} is not here", route.config.name))
            })
        };
        let shards = shards.map(place).collect::<Result<Vec<ShardAt>, ApiError>>()?;
        Ok((route, shards))
    }
}

fn reply<M: Body>(message: &M) -> Result<Reply, ApiError> {
    Ok((M::NUMBER, encode_body(message)?))
}
