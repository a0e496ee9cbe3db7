//! The types that Raft moves: what openraft's generic ones are filled with.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use heddle_types::NodeId;
use openraft::RaftTypeConfig;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_adv};
use serde::{Deserialize, Serialize};

use super::{Host, LocalRuntime};
use crate::cluster::{ClusterError, Outcome, Request};

/// What a member of the Raft group needs to know of another one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its `host:port` for Raft.
    pub address: String,
}

/// What applying an entry of the log answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The entry was Raft's own.
    Nothing,
    /// The change was applied, now or before.
    Done(Outcome),
    /// The change was refused; the state is unchanged.
    Refused(ClusterError),
}

/// Who leads, in which term. A term may see several candidates, of whom the greatest node wins:
/// fewer elections end without a leader than when each node votes for the first one only.
pub type Leader = leader_id_adv::LeaderId<u64, NodeId>;
/// Position of an entry of the log.
pub type LogId = openraft::LogId<Leader>;
/// A vote of a node.
pub type Vote = openraft::Vote<Leader>;
/// What an entry of the log holds.
pub type Payload = openraft::EntryPayload<Request, NodeId, Member>;
/// An entry of the log.
pub type Entry = openraft::Entry<Leader, Payload>;
/// Who votes and who follows.
pub type Membership = openraft::Membership<NodeId, Member>;
/// Who votes and who follows, and since which entry.
pub type StoredMembership = openraft::StoredMembership<Leader, NodeId, Member>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<Leader, NodeId, Member>;

/// openraft's configuration of types, on the executor `H`.
pub struct RaftTypes<H>(PhantomData<fn() -> H>);

impl<H: Host> RaftTypeConfig for RaftTypes<H> {
    type D = Request;
    type R = Response;
    type NodeId = NodeId;
    type Node = Member;
    type Term = u64;
    type LeaderId = Leader;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = LocalRuntime<H>;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: 'static;
    type ErrorSource = BoxedErrorSource;
}

impl<H> fmt::Debug for RaftTypes<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RaftTypes")
    }
}

impl<H> Default for RaftTypes<H> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<H> Clone for RaftTypes<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for RaftTypes<H> {}

// There is one value of the type; openraft asks for order and equality all the same.
impl<H> PartialEq for RaftTypes<H> {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl<H> Eq for RaftTypes<H> {}

impl<H> PartialOrd for RaftTypes<H> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<H> Ord for RaftTypes<H> {
    fn cmp(&self, _other: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// The stored form of a membership: ours, so that it does not change with openraft's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MembershipRecord {
    /// Sets of voters; a change is decided by a majority of each.
    voters: Vec<BTreeSet<NodeId>>,
    /// Everyone, voter or not.
    members: BTreeMap<NodeId, Member>,
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        let members = membership.nodes().map(|(node, member)| (*node, member.clone()));
        Self { voters: membership.get_joint_config().clone(), members: members.collect() }
    }
}

impl TryFrom<MembershipRecord> for Membership {
    type Error = String;

    fn try_from(record: MembershipRecord) -> Result<Self, String> {
        Self::new(record.voters, record.members).map_err(|error| error.to_string())
    }
}
