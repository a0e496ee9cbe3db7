//! The network between the Raft nodes of a simulated cluster: it delays, loses and cuts.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use heddle_meta::raft::{ClusterMachine, Host, LocalRuntime, RaftTypes, Vote};
use heddle_types::NodeId;
use openraft::errors::{RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{AsyncRuntime, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use crate::SimDisk;

/// A Raft node on a simulated disk.
pub type SimRaft<H> = openraft::Raft<RaftTypes<H>, ClusterMachine<SimDisk>>;

/// Longest way of a message in one direction.
const DELAY_MAX: Duration = Duration::from_millis(20);

/// Who runs, and who hears whom.
pub(super) struct Router<H: Host> {
    /// The running nodes, each with the number of its run.
    nodes: RefCell<BTreeMap<NodeId, (u64, SimRaft<H>)>>,
    /// Directions in which nothing arrives.
    cuts: RefCell<BTreeSet<(NodeId, NodeId)>>,
    /// One message of so many is lost; none for 0.
    loss: Cell<u64>,
    delivered: Cell<u64>,
    snapshots: Cell<u64>,
}

impl<H: Host> Router<H> {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            nodes: RefCell::default(),
            cuts: RefCell::default(),
            loss: Cell::new(0),
            delivered: Cell::new(0),
            snapshots: Cell::new(0),
        })
    }

    pub(super) fn set_loss(&self, one_in: u64) {
        self.loss.set(one_in);
    }

    /// Snapshots that were sent from node to node.
    pub(super) fn snapshots(&self) -> u64 {
        self.snapshots.get()
    }

    pub(super) fn join(&self, node: NodeId, run: u64, raft: SimRaft<H>) {
        self.nodes.borrow_mut().insert(node, (run, raft));
    }

    pub(super) fn leave(&self, node: NodeId) -> Option<SimRaft<H>> {
        self.nodes.borrow_mut().remove(&node).map(|(_, raft)| raft)
    }

    pub(super) fn raft(&self, node: NodeId) -> Option<SimRaft<H>> {
        self.nodes.borrow().get(&node).map(|(_, raft)| raft.clone())
    }

    pub(super) fn running(&self) -> Vec<NodeId> {
        self.nodes.borrow().keys().copied().collect()
    }

    /// Lets nothing through from one node to the other; the way back stays.
    pub(super) fn cut(&self, source: NodeId, target: NodeId) {
        self.cuts.borrow_mut().insert((source, target));
    }

    pub(super) fn heal(&self) {
        self.cuts.borrow_mut().clear();
    }

    fn is_running(&self, node: NodeId, run: u64) -> bool {
        self.nodes.borrow().get(&node).is_some_and(|(running, _)| *running == run)
    }

    /// Takes a message its way, if it gets there.
    async fn travel(&self, source: NodeId, target: NodeId) -> bool {
        let delay = Duration::from_nanos(H::random() % DELAY_MAX.as_nanos() as u64);
        H::sleep(delay).await;
        let loss = self.loss.get();
        let is_lost = loss > 0 && H::random().is_multiple_of(loss);
        !is_lost && !self.cuts.borrow().contains(&(source, target))
    }
}

/// Makes the links of one run of a node.
pub(super) struct Links<H: Host> {
    pub(super) router: Rc<Router<H>>,
    pub(super) source: NodeId,
    pub(super) run: u64,
}

impl<H: Host> RaftNetworkFactory<RaftTypes<H>> for Links<H> {
    type Network = Link<H>;

    async fn new_client(&mut self, target: NodeId, _member: &heddle_meta::raft::Member) -> Link<H> {
        Link { router: Rc::clone(&self.router), source: self.source, run: self.run, target }
    }
}

/// The way from one run of a node to another node.
pub(super) struct Link<H: Host> {
    router: Rc<Router<H>>,
    source: NodeId,
    run: u64,
    target: NodeId,
}

fn unreachable<H: Host>(what: &str) -> Unreachable<RaftTypes<H>> {
    Unreachable::from_string(what)
}

impl<H: Host> Link<H> {
    /// Takes a request there and its answer back, within a time limit.
    async fn call<T, F>(
        &self,
        limit: Duration,
        ask: impl FnOnce(SimRaft<H>) -> F,
    ) -> Result<T, Unreachable<RaftTypes<H>>>
    where
        F: Future<Output = Result<T, RaftError<RaftTypes<H>>>>,
    {
        let exchange = async {
            let router = &self.router;
            // A node that was killed may still be winding down.
            let is_sent = router.is_running(self.source, self.run);
            if !is_sent || !router.travel(self.source, self.target).await {
                // What is lost is noticed only by the time it takes.
                return std::future::pending().await;
            }
            let raft = router.raft(self.target).ok_or_else(|| unreachable("not running"))?;
            let answer = ask(raft).await;
            if !router.travel(self.target, self.source).await {
                return std::future::pending().await;
            }
            router.delivered.set(router.delivered.get() + 1);
            answer.map_err(|error| unreachable(&error.to_string()))
        };
        let answer = LocalRuntime::<H>::timeout(limit, exchange).await;
        answer.unwrap_or_else(|_timed_out| Err(unreachable("timed out")))
    }
}

type Answer<H, T> = Result<T, RPCError<RaftTypes<H>>>;

impl<H: Host> RaftNetworkV2<RaftTypes<H>> for Link<H> {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<RaftTypes<H>>,
        option: RPCOption,
    ) -> Answer<H, AppendEntriesResponse<RaftTypes<H>>> {
        let ask = |raft: SimRaft<H>| async move { raft.append_entries(request).await };
        Ok(self.call(option.soft_ttl(), ask).await?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<RaftTypes<H>>,
        option: RPCOption,
    ) -> Answer<H, VoteResponse<RaftTypes<H>>> {
        let ask = |raft: SimRaft<H>| async move { raft.vote(request).await };
        Ok(self.call(option.soft_ttl(), ask).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<RaftTypes<H>>,
        option: RPCOption,
    ) -> Answer<H, VoteResponse<RaftTypes<H>>> {
        let ask = |raft: SimRaft<H>| async move { raft.pre_vote(request).await };
        Ok(self.call(option.soft_ttl(), ask).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<RaftTypes<H>, Vec<u8>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes<H>>, StreamingError<RaftTypes<H>>> {
        let ask = |raft: SimRaft<H>| async move {
            raft.install_full_snapshot(vote, snapshot).await.map_err(RaftError::Fatal)
        };
        let sent = std::pin::pin!(self.call(option.soft_ttl(), ask));
        let cancel = std::pin::pin!(cancel);
        match futures::future::select(sent, cancel).await {
            futures::future::Either::Left((answer, _)) => {
                let answer = answer?;
                self.router.snapshots.set(self.router.snapshots.get() + 1);
                Ok(answer)
            }
            futures::future::Either::Right((closed, _)) => Err(closed.into()),
        }
    }
}
