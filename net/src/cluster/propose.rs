//! Changes of the cluster's state, made through any node: sent to whoever leads until it is known
//! what became of them, always under the same identity, so that no attempt counts twice.

use std::time::Duration;

use heddle_meta::cluster::{ClusterCommand, CommandId, Request};
use heddle_runtime::{fatal, sleep, timeout};
use heddle_types::{ApiError, Epoch, ErrorCode, FatalReason, NodeId, Retry};
use heddle_wire::AlignedVec;
use heddle_wire::kind::REPLY_BIT;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use uuid::Uuid;

use super::Cluster;
use super::control::{self, JoinRequest, Proposal, Reached, Verdict};
use crate::peer::{Lane, PeerCall, Target};

/// How long a change is tried: longer than an election takes.
pub(crate) const CHANGE_BUDGET: Duration = Duration::from_secs(10);
/// How long one attempt may take before the leader is asked for again.
const ATTEMPT_BUDGET: Duration = Duration::from_secs(3);
/// Pause between attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);

impl Cluster {
    /// Makes a change of the common state: the epoch it made. It is durable on a majority then;
    /// this node may not have made it true yet.
    ///
    /// Errors: the state's refusal; `Unavailable` when nobody led within [`CHANGE_BUDGET`] and
    /// nothing was proposed, `Unknown` when it may be applied later.
    pub(crate) async fn change(&self, command: ClusterCommand) -> Result<Epoch, ApiError> {
        let change = Request::new(CommandId(Uuid::new_v4()), command)?;
        self.insist(&change).await
    }

    pub(super) async fn insist(&self, change: &Request) -> Result<Epoch, ApiError> {
        let deadline = self.now() + CHANGE_BUDGET;
        let mut hint = None;
        let mut is_open = false;
        loop {
            let left = deadline.saturating_sub(self.now());
            if left.is_zero() {
                return Err(self.without_leader(is_open));
            }
            let verdict = match hint.take().or_else(|| self.leader()) {
                Some(node) => self.propose_to(node, change, left.min(ATTEMPT_BUDGET)).await,
                None => Verdict::Elsewhere(None),
            };
            match verdict {
                Verdict::Done(epoch) => return Ok(epoch),
                Verdict::Refused(error) => return Err(error),
                Verdict::Elsewhere(other) => hint = other,
                Verdict::Unknown => is_open = true,
            }
            if hint.is_none() {
                sleep(ATTEMPT_PAUSE).await;
            }
        }
    }

    fn without_leader(&self, is_open: bool) -> ApiError {
        let voters = self.raft.voter_ids().count();
        let message = format!("no node leads the cluster: most of its {voters} voters must answer");
        if is_open {
            return ApiError::unknown(message);
        }
        ApiError::transient(ErrorCode::Unavailable, message)
    }

    async fn propose_to(&self, node: NodeId, change: &Request, budget: Duration) -> Verdict {
        if node == self.own {
            return self.propose(change, budget).await;
        }
        let Some(address) = self.book.address(node) else { return Verdict::Elsewhere(None) };
        let target = Target { node: Some(node), address };
        let body = control::encode(&Proposal { change: change.clone() });
        let answer = self.core.links.call(&target, Lane::Control, control::PROPOSE, body, budget);
        match answer.await.and_then(|answer| control::decode::<Verdict>(&answer.body)) {
            Ok(verdict) => verdict,
            Err(error) if error.retry == Retry::Safe => Verdict::Elsewhere(None),
            Err(_) => Verdict::Unknown,
        }
    }

    /// Proposes a change here, if this node leads.
    async fn propose(&self, change: &Request, budget: Duration) -> Verdict {
        let write = self.raft.client_write(change.clone());
        match timeout(budget, write).await {
            Ok(Ok(written)) => written.data.into(),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Verdict::Elsewhere(forward.leader_id.filter(|leader| *leader != self.own))
            }
            Ok(Err(RaftError::Fatal(error))) if !self.core.is_draining() => {
                fatal(FatalReason::CatalogWrite, error)
            }
            // Its entry may be in the log of a later leader, or be acknowledged in a moment.
            Ok(Err(_)) | Err(_) => Verdict::Unknown,
        }
    }

    pub(super) async fn answer_proposal(
        &self,
        call: &PeerCall,
    ) -> Result<(u16, AlignedVec<16>), ApiError> {
        let Proposal { change } = control::decode(&call.body)?;
        let budget = match call.header.deadline_us {
            0 => ATTEMPT_BUDGET,
            budget_us => Duration::from_micros(budget_us.into()).min(ATTEMPT_BUDGET),
        };
        let verdict = self.propose(&change, budget).await;
        Ok((control::PROPOSE | REPLY_BIT, control::encode(&verdict)))
    }

    /// A node asks to become part of the cluster; whichever member hears it takes it to the leader.
    pub(super) async fn answer_join(
        &self,
        call: &PeerCall,
    ) -> Result<(u16, AlignedVec<16>), ApiError> {
        let JoinRequest { change } = control::decode(&call.body)?;
        match change.command() {
            ClusterCommand::AddNode(record) if record.id == call.peer.node => {}
            command => {
                let found = format!("a node that joins may not propose {}", command.name());
                return Err(ApiError::new(ErrorCode::InvalidArgument, found, "its own record"));
            }
        }
        let verdict = match self.insist(&change).await {
            Ok(epoch) => Verdict::Done(epoch),
            Err(error) if error.retry == Retry::Never => Verdict::Refused(error),
            Err(_) => Verdict::Unknown,
        };
        Ok((control::JOIN | REPLY_BIT, control::encode(&verdict)))
    }

    /// Waits until this node has made everything true that was acknowledged before, anywhere.
    ///
    /// Errors: `Unavailable` when nobody led within [`CHANGE_BUDGET`].
    pub(crate) async fn catch_up(&self) -> Result<(), ApiError> {
        let epoch = self.reached_epoch().await?;
        let wait = timeout(CHANGE_BUDGET, self.until_made_true(epoch)).await;
        wait.map_err(|_late| {
            let message = format!("this node has not made true what was decided by epoch {epoch}");
            ApiError::transient(ErrorCode::Unavailable, message)
        })
    }

    /// Waits until this node has applied everything that was acknowledged before, anywhere; it may
    /// not have made it true.
    pub(super) async fn catch_up_state(&self) -> Result<(), ApiError> {
        let epoch = self.reached_epoch().await?;
        let applied = || self.with_state(|state| (state.epoch() >= epoch).then_some(()));
        let wait = timeout(CHANGE_BUDGET, self.changed.until(applied)).await;
        wait.map_err(|_late| self.without_leader(false))
    }

    /// The epoch that holds everything that was acknowledged before, anywhere.
    async fn reached_epoch(&self) -> Result<Epoch, ApiError> {
        let deadline = self.now() + CHANGE_BUDGET;
        let mut hint = None;
        loop {
            let left = deadline.saturating_sub(self.now());
            if left.is_zero() {
                return Err(self.without_leader(false));
            }
            let reached = match hint.take().or_else(|| self.leader()) {
                Some(node) => self.reached_by(node, left.min(ATTEMPT_BUDGET)).await,
                None => Reached::Elsewhere(None),
            };
            match reached {
                Reached::Epoch(epoch) => return Ok(epoch),
                Reached::Elsewhere(other) => hint = other,
            }
            if hint.is_none() {
                sleep(ATTEMPT_PAUSE).await;
            }
        }
    }

    async fn reached_by(&self, node: NodeId, budget: Duration) -> Reached {
        if node == self.own {
            return self.reached(budget).await;
        }
        let Some(address) = self.book.address(node) else { return Reached::Elsewhere(None) };
        let target = Target { node: Some(node), address };
        let body = control::encode(&());
        let answer = self.core.links.call(&target, Lane::Control, control::BARRIER, body, budget);
        let answer = answer.await.and_then(|answer| control::decode(&answer.body));
        answer.unwrap_or(Reached::Elsewhere(None))
    }

    async fn reached(&self, budget: Duration) -> Reached {
        let read = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match timeout(budget, read).await {
            Ok(Ok(_)) => Reached::Epoch(self.with_state(|state| state.epoch())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Reached::Elsewhere(forward.leader_id.filter(|leader| *leader != self.own))
            }
            Ok(Err(_)) | Err(_) => Reached::Elsewhere(None),
        }
    }

    pub(super) async fn answer_barrier(
        &self,
        _call: &PeerCall,
    ) -> Result<(u16, AlignedVec<16>), ApiError> {
        let reached = self.reached(ATTEMPT_BUDGET).await;
        Ok((control::BARRIER | REPLY_BIT, control::encode(&reached)))
    }
}
