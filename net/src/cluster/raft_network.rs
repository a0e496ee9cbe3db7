//! Raft between nodes: openraft's messages over links, and the answers to those of others.
//!
//! Short messages go by the control lane. Snapshots go in parts and by a lane of their own, so that
//! a leader's signs of life never wait behind them. What a message says of its sender is compared
//! with who has proven to be at the other end.

mod parts;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use heddle_meta::raft::message as encoding;
use heddle_meta::raft::message::{SNAPSHOT_PART_BYTES, SnapshotPart};
use heddle_meta::raft::{Member, RaftTypes, Vote};
use heddle_types::{ApiError, Clock, ErrorCode, NodeId};
use heddle_wire::kind::REPLY_BIT;
use heddle_wire::{AlignedVec, MessageError};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::Raft;
use crate::peer::{Lane, Links, PeerCall, Target};
use crate::raft_host::GlommioHost;
use parts::Parts;

/// Entries of the log, or a leader's sign of life.
const APPEND: u16 = 0x0190;
/// A candidate asks for a vote.
const VOTE: u16 = 0x0191;
/// A node asks whether it would get votes.
const PRE_VOTE: u16 = 0x0192;
/// A part of a snapshot.
const SNAPSHOT: u16 = 0x0193;
/// A leader names its successor.
const TRANSFER: u16 = 0x0194;

/// Least time for a follower to make entries durable: openraft allows no more than the time between
/// two signs of life, in which a busy disk may not even sync.
const APPEND_BUDGET_MIN: Duration = Duration::from_secs(2);
/// Bytes of entries that a network carries in a millisecond at least (2 KiB): 2 MiB a second.
const BYTES_PER_MS: usize = 2 << 10;

type Types = RaftTypes<GlommioHost>;
type Answer<T> = Result<T, RPCError<Types>>;

/// Where the Raft of a node is dialed.
pub(super) type Dial = Rc<dyn Fn(NodeId, &Member) -> Target>;

/// Makes the ways to the other members of the group.
pub(super) struct RaftLinks {
    links: Rc<Links>,
    dial: Dial,
}

impl RaftLinks {
    /// `dial` is asked before each message: addresses change.
    pub(super) fn new(links: Rc<Links>, dial: Dial) -> Self {
        Self { links, dial }
    }
}

impl RaftNetworkFactory<Types> for RaftLinks {
    type Network = RaftLink;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> RaftLink {
        RaftLink {
            links: Rc::clone(&self.links),
            dial: Rc::clone(&self.dial),
            target,
            member: member.clone(),
        }
    }
}

/// The way to one member of the group. Connections are shared and made when they are needed.
pub(super) struct RaftLink {
    links: Rc<Links>,
    dial: Dial,
    target: NodeId,
    member: Member,
}

impl RaftLink {
    async fn call(
        &self,
        lane: Lane,
        kind: u16,
        bytes: &[u8],
        budget: Duration,
    ) -> Result<AlignedVec<16>, ApiError> {
        let target = (self.dial)(self.target, &self.member);
        let answer = self.links.call(&target, lane, kind, aligned(bytes), budget).await?;
        Ok(answer.body)
    }

    /// A call of the control lane, and what openraft is told when it fails.
    async fn ask<T>(
        &self,
        kind: u16,
        action: RPCTypes,
        bytes: &[u8],
        budget: Duration,
        decode: impl FnOnce(&[u8]) -> Result<T, encoding::MessageError>,
    ) -> Answer<T> {
        match self.call(Lane::Control, kind, bytes, budget).await {
            Ok(body) => decode(&body).map_err(|error| Unreachable::new(&error).into()),
            Err(error) if error.code == ErrorCode::DeadlineExceeded => {
                Err(self.late(action, budget).into())
            }
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }

    fn late(&self, action: RPCTypes, budget: Duration) -> Timeout<Types> {
        let id = self.links.own_node();
        Timeout { action, id, target: self.target, timeout: budget }
    }

    /// Sends a snapshot part by part.
    async fn send_parts(
        &self,
        vote: Vote,
        snapshot: &[u8],
        budget: Duration,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let clock = self.links.clock();
        let deadline_ns = clock.monotonic_ns().saturating_add(budget.as_nanos() as u64);
        let checksum = crc32c::crc32c(snapshot);
        let length = snapshot.len();
        let mut offset = 0;
        for bytes in snapshot.chunks(SNAPSHOT_PART_BYTES) {
            let left_ns = deadline_ns.saturating_sub(clock.monotonic_ns());
            let part = SnapshotPart { vote, checksum, length, offset, bytes };
            let left = Duration::from_nanos(left_ns);
            let body = match self.call(Lane::Repair, SNAPSHOT, &part.encode(), left).await {
                Ok(body) => body,
                Err(error) if error.code == ErrorCode::DeadlineExceeded => {
                    return Err(self.late(RPCTypes::InstallSnapshot, budget).into());
                }
                Err(error) => return Err(Unreachable::new(&error).into()),
            };
            let taken = encoding::decode_taken(&body);
            let taken = taken.map_err(|error| StreamingError::from(Unreachable::new(&error)))?;
            if let Some(response) = taken {
                // Also before the last part: the node knows of a later leader.
                return Ok(response);
            }
            offset += bytes.len();
        }
        Err(Unreachable::from_string("the node took every part and not the snapshot").into())
    }
}

/// Time for entries: what openraft allows for a sign of life; with entries what a sync of a busy
/// disk and the bytes may take.
fn append_budget(option: &RPCOption, has_entries: bool, bytes: usize) -> Duration {
    if !has_entries {
        return option.soft_ttl();
    }
    option.soft_ttl().max(APPEND_BUDGET_MIN) + Duration::from_millis((bytes / BYTES_PER_MS) as u64)
}

fn aligned(bytes: &[u8]) -> AlignedVec<16> {
    let mut body = AlignedVec::with_capacity(bytes.len());
    body.extend_from_slice(bytes);
    body
}

impl RaftNetworkV2<Types> for RaftLink {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Answer<AppendEntriesResponse<Types>> {
        let bytes = encoding::encode_append(&request);
        let budget = append_budget(&option, !request.entries.is_empty(), bytes.len());
        let action = RPCTypes::AppendEntries;
        self.ask(APPEND, action, &bytes, budget, encoding::decode_appended).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Answer<VoteResponse<Types>> {
        let bytes = encoding::encode_ballot(&request);
        let budget = option.soft_ttl();
        self.ask(VOTE, RPCTypes::Vote, &bytes, budget, encoding::decode_voted).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Answer<VoteResponse<Types>> {
        let bytes = encoding::encode_ballot(&request);
        let budget = option.soft_ttl();
        self.ask(PRE_VOTE, RPCTypes::Vote, &bytes, budget, encoding::decode_voted).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Vec<u8>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Snapshot { meta, snapshot: state } = snapshot;
        let bytes = encoding::encode_snapshot(&meta, state);
        let sent = pin!(self.send_parts(vote, &bytes, option.soft_ttl()));
        match select(sent, pin!(cancel)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Answer<TransferLeaderResponse<Types>> {
        let bytes = encoding::encode_transfer(&request);
        let budget = option.soft_ttl();
        self.ask(TRANSFER, RPCTypes::TransferLeader, &bytes, budget, encoding::decode_moved).await
    }
}

/// Answers a message of another node's Raft.
///
/// Errors: `UnknownMessage` for other numbers, `Protocol` for bytes that are no message,
/// `InvalidArgument` for one in the name of another node than the sender, `Unavailable` when the
/// Raft of this node has stopped.
pub(super) async fn answer_raft(
    raft: &Raft,
    call: PeerCall,
) -> Result<(u16, AlignedVec<16>), ApiError> {
    let kind = call.header.type_number;
    let reply = match kind {
        APPEND => {
            let request = encoding::decode_append(&call.body)?;
            check_sender(&call, &request.vote)?;
            encoding::encode_appended(&raft.append_entries(request).await.map_err(stopped)?)
        }
        VOTE | PRE_VOTE => {
            let request = encoding::decode_ballot(&call.body)?;
            check_sender(&call, &request.vote)?;
            let answered = match kind {
                VOTE => raft.vote(request).await,
                _ => raft.pre_vote(request).await,
            };
            encoding::encode_voted(&answered.map_err(stopped)?)
        }
        SNAPSHOT => take_part(raft, &call).await?,
        TRANSFER => {
            let request = encoding::decode_transfer(&call.body)?;
            check_sender(&call, request.from_leader())?;
            let moved = raft.handle_transfer_leader(request).await.map_err(stopped)?;
            encoding::encode_moved(&moved)
        }
        number => return Err(MessageError::UnknownType { number }.into()),
    };
    Ok((kind | REPLY_BIT, aligned(&reply)))
}

async fn take_part(raft: &Raft, call: &PeerCall) -> Result<Vec<u8>, ApiError> {
    let part = SnapshotPart::decode(&call.body)?;
    check_sender(call, &part.vote)?;
    let Some(bytes) = Parts::take(call.peer.node, &part)? else {
        return Ok(encoding::encode_taken::<GlommioHost>(None));
    };
    let (meta, state) = encoding::decode_snapshot(&bytes)?;
    drop(bytes);
    let snapshot = Snapshot { meta, snapshot: state };
    let response = raft.install_full_snapshot(part.vote, snapshot).await.map_err(stopped)?;
    Ok(encoding::encode_taken(Some(&response)))
}

fn check_sender(call: &PeerCall, vote: &Vote) -> Result<(), ApiError> {
    let (peer, named) = (call.peer.node, vote.leader_id.node_id);
    if peer == named {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InvalidArgument,
        format!("node {peer} speaks to Raft in the name of node {named}"),
        peer.to_string(),
    ))
}

fn stopped(error: impl std::fmt::Display) -> ApiError {
    ApiError::transient(ErrorCode::Unavailable, format!("Raft does not answer: {error}"))
}
