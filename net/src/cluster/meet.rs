//! Finding the others: by the join list, whose names are looked up each time, and by the addresses
//! that this node has heard of. A node without a cluster joins the one it finds, or makes one with
//! those that it expects.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use heddle_meta::cluster::{ClusterCommand, CommandId, NodeState, Request, Step};
use heddle_meta::handshake::HandshakeError;
use heddle_meta::raft::Member;
use heddle_runtime::{fatal, sleep};
use heddle_types::{ApiError, ErrorCode, FatalReason, NodeId};
use heddle_wire::AlignedVec;
use heddle_wire::kind::REPLY_BIT;
use uuid::Uuid;

use super::control::{self, Introduction, JoinRequest, Verdict};
use super::propose::CHANGE_BUDGET;
use super::{Cluster, open};
use crate::config::HostPort;
use crate::gossip::GossipHandle;
use crate::peer::{Lane, PeerCall, Target};
use crate::resolve::resolve;

/// How often a node looks for others while it has no cluster, or misses a node of it.
const PERIOD_SEEKING: Duration = Duration::from_millis(500);
/// How often it looks otherwise: somebody may have moved.
const PERIOD: Duration = Duration::from_secs(15);
/// How long one meeting may take.
const MEETING_BUDGET: Duration = Duration::from_secs(1);
/// How often the same obstacle is logged.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);
/// How often it is logged that a node of the join list belongs elsewhere.
const OTHER_CLUSTER_PERIOD: Duration = Duration::from_secs(60);
/// Addresses met at once.
const MEETINGS_MAX: usize = 256;

pub(super) async fn run(cluster: Rc<Cluster>) {
    let mut way_in = WayIn::new(&cluster);
    loop {
        if cluster.core.is_draining() {
            return;
        }
        if let Some(gossip) = cluster.core.gossip.get() {
            for member in gossip.members() {
                cluster.book.seen(member.node, member.raft());
            }
        }
        let met = cluster.meet_all().await;
        if !cluster.has_place() {
            way_in.go_on(&cluster, &met).await;
        }
        sleep(if cluster.is_settled() { PERIOD } else { PERIOD_SEEKING }).await;
    }
}

impl Cluster {
    /// Is this node in the cluster's state, or on its way there by its vote?
    fn has_place(&self) -> bool {
        let is_there = self.with_state(|state| state.node(self.own).is_some());
        is_there || self.raft.voter_ids().any(|voter| voter == self.own)
    }

    /// Does this node belong to a cluster whose nodes all seem to live? Who led before a restart
    /// says nothing.
    fn is_settled(&self) -> bool {
        let members = self.core.gossip.get().map(GossipHandle::members).unwrap_or_default();
        let seen: BTreeSet<NodeId> = members.iter().map(|member| member.node).collect();
        let is_seen = |node: NodeId| node == self.own || seen.contains(&node);
        self.is_member.get() && self.with_state(|state| state.nodes().all(|node| is_seen(node.id)))
    }

    fn introduction(&self) -> Introduction {
        Introduction {
            record: self.own_record(NodeState::Learner),
            cluster: self.core.node.cluster_id(),
            is_member: self.is_member.get(),
            word: self.assembly.borrow().word(),
            leader: self.leader(),
        }
    }

    fn heard(&self, other: &Introduction) {
        let record = &other.record;
        self.book.heard(record.id, &record.name, &record.addresses.raft);
        if !other.is_member {
            let now = self.now();
            self.assembly.borrow_mut().heard(record.id, other.word.clone(), now);
        }
    }

    /// Connections that are older than the two clusters do not find out about this.
    fn check_cluster(&self, other: &Introduction) -> Result<(), ApiError> {
        match (self.core.node.cluster_id(), other.cluster) {
            (Some(own), Some(found)) if own != found => {
                Err(ApiError::from(&HandshakeError::OtherCluster { own, found }))
            }
            _ => Ok(()),
        }
    }

    /// Errors: `InvalidArgument` when the record is not that of the node at the other end, or the
    /// node belongs to another cluster.
    pub(super) fn answer_meeting(
        &self,
        call: &PeerCall,
    ) -> Result<(u16, AlignedVec<16>), ApiError> {
        let other: Introduction = control::decode(&call.body)?;
        other.record.validate()?;
        if other.record.id != call.peer.node {
            let found = format!("node {} introduces node {}", call.peer.node, other.record.id);
            return Err(ApiError::new(ErrorCode::InvalidArgument, found, "its own record"));
        }
        self.check_cluster(&other)?;
        self.heard(&other);
        Ok((control::MEET | REPLY_BIT, control::encode(&self.introduction())))
    }

    /// What no other attempt will change is worth a warning, now and then.
    fn complain_of_other_cluster(&self, address: &str, error: &ApiError) {
        let now = self.now();
        let was = self.complained_at.get();
        let is_due = was.is_none_or(|was| now.saturating_sub(was) >= OTHER_CLUSTER_PERIOD);
        if error.code == ErrorCode::InvalidArgument && is_due {
            self.complained_at.set(Some(now));
            tracing::warn!(%address, %error, "a node of the join list refuses this one");
        } else {
            tracing::debug!(%address, %error, "nobody met");
        }
    }

    /// Introduces this node to everyone it knows an address of; what they said, by address.
    async fn meet_all(&self) -> Vec<(String, Introduction)> {
        let mut addresses = self.join_addresses().await;
        addresses.extend(self.book.addresses().into_values());
        addresses.remove(&self.own_record(NodeState::Learner).addresses.raft);
        let meetings = addresses.into_iter().take(MEETINGS_MAX).map(|address| async move {
            let target = Target { node: None, address: address.clone() };
            let body = control::encode(&self.introduction());
            let links = &self.core.links;
            let answer = links.call(&target, Lane::Control, control::MEET, body, MEETING_BUDGET);
            let answer = answer.await.and_then(|answer| {
                let other: Introduction = control::decode(&answer.body)?;
                other.record.validate()?;
                self.check_cluster(&other)?;
                Ok((answer.node == other.record.id).then_some(other))
            });
            match answer {
                Ok(other) => other.map(|other| (address, other)),
                Err(error) => {
                    self.complain_of_other_cluster(&address, &error);
                    None
                }
            }
        });
        let met: Vec<_> = join_all(meetings).await.into_iter().flatten().collect();
        for (_, other) in &met {
            self.heard(other);
        }
        met
    }

    /// Every address of every host of the join list.
    async fn join_addresses(&self) -> BTreeSet<String> {
        let config = &self.core.node.config;
        let lookups = config.cluster_join.iter().map(|entry| async move {
            let name = HostPort::parse(entry)?.with_default(config.raft_port);
            match resolve(&name).await {
                Ok(found) => Some(found),
                Err(error) => {
                    tracing::debug!(name, %error, "not resolved");
                    None
                }
            }
        });
        let found = join_all(lookups).await.into_iter().flatten().flatten();
        found.map(|address| address.to_string()).collect()
    }
}

/// What a node without a cluster remembers on its way into one.
struct WayIn {
    /// The same change in each attempt.
    join: Request,
    attempts: usize,
    complained_at: Option<Duration>,
}

impl WayIn {
    fn new(cluster: &Cluster) -> Self {
        let record = cluster.own_record(NodeState::Learner);
        let checked = record.validate();
        checked.unwrap_or_else(|error| fatal(FatalReason::Config, error));
        let join = Request::new(CommandId(Uuid::new_v4()), ClusterCommand::AddNode(record));
        let join = join.unwrap_or_else(|error| fatal(FatalReason::Config, error));
        Self { join, attempts: 0, complained_at: None }
    }

    async fn go_on(&mut self, cluster: &Cluster, met: &[(String, Introduction)]) {
        // In turns, those first that know of a leader: a member may be cut off from the others.
        let mut members: Vec<_> = met.iter().filter(|(_, other)| other.is_member).collect();
        members.sort_by_key(|(_, other)| other.leader.is_none());
        let led = members.iter().filter(|(_, other)| other.leader.is_some()).count();
        let count = if led > 0 { led } else { members.len() };
        if count > 0 {
            self.attempts += 1;
            self.join(cluster, &members[self.attempts % count].0).await;
            return;
        }
        let step = cluster.assembly.borrow().next(cluster.now());
        match step {
            Step::Meet => {
                let expect = cluster.core.node.config.cluster_bootstrap_expect;
                let (met, promised) = (met.len(), cluster.assembly.borrow().word().promised);
                self.complain(cluster, || {
                    tracing::info!(met, expect, ?promised, "waiting for other nodes");
                });
            }
            Step::Promise(nodes) => {
                let data_dir = &cluster.core.node.config.data_dir;
                match open::store_promise(data_dir, &nodes) {
                    Ok(()) => cluster.assembly.borrow_mut().promised(nodes),
                    Err(error) => fatal(FatalReason::CatalogWrite, error),
                }
            }
            Step::Begin(nodes) => self.begin(cluster, &nodes).await,
        }
    }

    /// The first of a set makes the group; the others hear from it.
    async fn begin(&mut self, cluster: &Cluster, nodes: &BTreeSet<NodeId>) {
        if nodes.first() != Some(&cluster.own) {
            return;
        }
        let own = cluster.own_record(NodeState::Voter).addresses.raft;
        let member = |node: &NodeId| {
            let address =
                if *node == cluster.own { Some(own.clone()) } else { cluster.book.address(*node) };
            Some((*node, Member { address: address? }))
        };
        let Some(members) = nodes.iter().map(member).collect::<Option<BTreeMap<_, _>>>() else {
            return;
        };
        tracing::info!(nodes = members.len(), "making a new cluster");
        if let Err(error) = cluster.raft.initialize(members).await {
            self.complain(cluster, || tracing::warn!(%error, "the cluster was not made"));
        }
    }

    async fn join(&mut self, cluster: &Cluster, address: &str) {
        let target = Target { node: None, address: address.to_owned() };
        let body = control::encode(&JoinRequest { change: self.join.clone() });
        let links = &cluster.core.links;
        let answer = links.call(&target, Lane::Control, control::JOIN, body, CHANGE_BUDGET).await;
        let verdict = answer.and_then(|answer| control::decode::<Verdict>(&answer.body));
        match verdict {
            Ok(Verdict::Done(epoch)) => {
                self.complain(cluster, || tracing::info!(%epoch, "joined: waiting for the leader"));
            }
            Ok(Verdict::Refused(error)) | Err(error) => {
                self.complain(cluster, || tracing::warn!(%error, "not joined yet"));
            }
            Ok(Verdict::Elsewhere(_) | Verdict::Unknown) => {}
        }
    }

    /// Says something, not too often.
    fn complain(&mut self, cluster: &Cluster, say: impl FnOnce()) {
        let now = cluster.now();
        let is_due = |since: Duration| now.saturating_sub(since) >= COMPLAINT_PERIOD;
        if self.complained_at.is_none_or(is_due) {
            self.complained_at = Some(now);
            say();
        }
    }
}
