//! Asking other nodes about their shards, and saying which node it was when that fails.

use std::time::Duration;

use heddle_types::{ApiError, CoreIndex, ErrorCode, NodeId, Retry};
use heddle_wire::message::{ShardHead, ShardRequest};
use heddle_wire::{AlignedVec, Body, access, decode, encode_body};

use super::Deadline;
use crate::core::Core;
use crate::limits::PEER_PATIENCE;
use crate::peer::{Lane, Target};
use crate::registry::{CollectionRoute, ShardAt};

/// A reply whose type is right; its body is not looked at yet.
#[derive(Debug)]
pub(super) struct RemoteReply {
    node: String,
    body: AlignedVec<16>,
}

impl RemoteReply {
    /// Reads it in place. Errors: `Internal` when it breaks the protocol.
    pub(super) fn access<M: Body>(&self) -> Result<&M::Archived, ApiError> {
        access::<M>(&self.body).map_err(|error| self.broken(&error.to_string()))
    }

    /// Copies it. Errors: as [`RemoteReply::access`].
    pub(super) fn decode<M: Body>(&self) -> Result<M, ApiError> {
        decode::<M>(&self.body).map_err(|error| self.broken(&error.to_string()))
    }

    /// The error for a reply that does not fit its request.
    pub(super) fn broken(&self, what: &str) -> ApiError {
        ApiError::internal(format!("node {}: its reply cannot be used: {what}", self.node))
    }
}

/// A data core of another node, and the shards that it is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party<'a> {
    pub(super) node: NodeId,
    pub(super) core: CoreIndex,
    pub(super) shards: &'a [ShardAt],
}

impl<'a> Party<'a> {
    /// The home core of a shard.
    pub(super) fn home_of(shard: &'a ShardAt) -> Self {
        Self { node: shard.node, core: shard.home, shards: std::slice::from_ref(shard) }
    }

    /// Some core of a node that holds these shards, in turns.
    pub(super) fn any_of(core: &Core, shards: &'a [ShardAt]) -> Self {
        let node = shards[0].node;
        let cores = core.registry.nodes().get(node).map_or(1, |node| node.data_cores.max(1));
        Self { node, core: core.next_turn() % cores as usize, shards }
    }

    fn shards_named(&self) -> String {
        const NAMED_MAX: usize = 4;
        let mut text = if self.shards.len() == 1 { "shard" } else { "shards" }.to_owned();
        for shard in self.shards.iter().take(NAMED_MAX) {
            text.push_str(&format!(" {}", shard.id));
        }
        if self.shards.len() > NAMED_MAX {
            text.push_str(&format!(" and {} more", self.shards.len() - NAMED_MAX));
        }
        text
    }

    fn node_named(&self, core: &Core) -> String {
        match core.registry.nodes().get(self.node) {
            Some(node) => format!("{} ({})", node.name, self.node),
            None => self.node.to_string(),
        }
    }
}

/// How a request about a collection is routed by what this core knows.
pub(super) fn head(core: &Core, route: &CollectionRoute) -> ShardHead {
    ShardHead { collection: route.id.0.into_bytes(), epoch: core.registry.epoch().0 }
}

/// Asks another node to read. Sent again it does no harm, so a failure says that.
///
/// Errors: `Unavailable`, `DeadlineExceeded`, or what the node answered; the message names node and
/// shards.
pub(super) async fn read<M: ShardRequest>(
    core: &Core,
    party: Party<'_>,
    message: &M,
    deadline: Deadline<'_>,
) -> Result<RemoteReply, ApiError> {
    let body = encode_body(message)?;
    ask::<M>(core, party, body, deadline).await.map_err(|mut error| {
        if error.retry == Retry::MayHaveApplied {
            error.retry = Retry::Safe;
        }
        named(core, party, error)
    })
}

/// Asks another node to write.
///
/// Errors: `Unknown` when it may have been done, else as [`read`].
pub(super) async fn write<M: ShardRequest>(
    core: &Core,
    party: Party<'_>,
    message: &M,
    deadline: Deadline<'_>,
) -> Result<RemoteReply, ApiError> {
    write_body::<M>(core, party, encode_body(message)?, deadline).await
}

/// As [`write`], with a request that is encoded already.
pub(super) async fn write_body<M: ShardRequest>(
    core: &Core,
    party: Party<'_>,
    body: AlignedVec<16>,
    deadline: Deadline<'_>,
) -> Result<RemoteReply, ApiError> {
    ask::<M>(core, party, body, deadline).await.map_err(|mut error| {
        if error.retry == Retry::MayHaveApplied {
            error.code = ErrorCode::Unknown;
        }
        named(core, party, error)
    })
}

async fn ask<M: ShardRequest>(
    core: &Core,
    party: Party<'_>,
    body: AlignedVec<16>,
    deadline: Deadline<'_>,
) -> Result<RemoteReply, ApiError> {
    deadline.check()?;
    let nodes = core.registry.nodes();
    let address = nodes.get(party.node).and_then(|node| node.peer_address(party.core));
    let Some(address) = address else {
        let message = "the cluster does not say where it is reached";
        return Err(ApiError::transient(ErrorCode::Unavailable, message));
    };
    let budget = deadline.left().unwrap_or(PEER_PATIENCE).max(Duration::from_micros(1));
    let target = Target { node: Some(party.node), address };
    core.metrics.forwarded_to_nodes.add(1);
    let answer = core.links.call(&target, Lane::Data, M::NUMBER, body, budget).await?;
    let reply = RemoteReply { node: party.node_named(core), body: answer.body };
    let (found, expected) = (answer.header.type_number, M::Reply::NUMBER);
    if found != expected {
        let mut error = reply.broken(&format!("type {found:#06x} instead of {expected:#06x}"));
        // Whatever it says, the other node has worked on the request.
        error.retry = Retry::MayHaveApplied;
        return Err(error);
    }
    Ok(reply)
}

fn named(core: &Core, party: Party<'_>, mut error: ApiError) -> ApiError {
    let (node, shards) = (party.node_named(core), party.shards_named());
    error.message = format!("{shards} on node {node}: {}", error.message);
    if error.code == ErrorCode::StaleEpoch {
        // Between nodes: the route has changed meanwhile. The client may well know it already.
        error.code = ErrorCode::Unavailable;
        error.retry = Retry::Safe;
    }
    error
}
