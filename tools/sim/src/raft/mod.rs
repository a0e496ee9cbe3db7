//! A cluster of Raft nodes in one process: real consensus, real storage code on simulated disks, a
//! network that fails as told. It runs on any [`Host`], in virtual time or on a core.

mod network;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use heddle_meta::cluster::{ClusterState, Outcome, Request};
use heddle_meta::raft::{ClusterMachine, Host, LocalRuntime, Member, RaftLog, Response};
use heddle_types::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::{AsyncRuntime, Config};

use crate::{Crash, SimDisk};
pub use network::SimRaft;
use network::{Links, Router};

const DIRECTORY: &str = "raft";

/// What the group knows of a node.
#[must_use]
pub fn member_of(node: NodeId) -> Member {
    Member { address: format!("{node}:7500") }
}

/// What became of a proposed change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proposal {
    /// It was committed and applied.
    Done(Outcome),
    /// It was committed, and the state refused it.
    Refused(String),
    /// The node does not lead, or does not run. It may have led when it took the change, so the
    /// change may be committed all the same.
    NotLeader,
    /// No answer came; the change may be committed.
    Unknown,
}

struct SimNode {
    disk: SimDisk,
    /// The state, while the node runs.
    machine: Option<ClusterMachine<SimDisk>>,
    run: u64,
}

/// A cluster of voters, `NodeId::from(1)` and so on.
pub struct RaftCluster<H: Host> {
    router: Rc<Router<H>>,
    config: Arc<Config>,
    nodes: RefCell<BTreeMap<NodeId, SimNode>>,
}

impl<H: Host> RaftCluster<H> {
    /// Starts `count` nodes on empty disks; nobody leads yet.
    pub async fn new(count: u64, config: Config) -> Self {
        let cluster =
            Self { router: Router::new(), config: Arc::new(config), nodes: RefCell::default() };
        for node in (1..=count).map(NodeId::from) {
            cluster.add(node).await;
        }
        cluster
    }

    /// Starts another node on an empty disk; nobody knows it yet.
    pub async fn add(&self, node: NodeId) {
        let disk = SimDisk::new(H::random());
        let log = RaftLog::create(disk.clone(), DIRECTORY, node).await;
        drop(log.expect("an empty disk has room"));
        let new = SimNode { disk, machine: None, run: 0 };
        self.nodes.borrow_mut().insert(node, new);
        self.start(node).await;
    }

    /// Makes all nodes voters of one group.
    pub async fn initialize(&self) {
        let member = |node: &NodeId| (*node, member_of(*node));
        let members: BTreeMap<NodeId, Member> = self.nodes.borrow().keys().map(member).collect();
        let first = self.raft(NodeId::from(1)).expect("every node was started");
        first.initialize(members).await.expect("the group is new");
    }

    /// The Raft of a node that runs.
    #[must_use]
    pub fn raft(&self, node: NodeId) -> Option<SimRaft<H>> {
        self.router.raft(node)
    }

    /// The nodes that run.
    #[must_use]
    pub fn running(&self) -> Vec<NodeId> {
        self.router.running()
    }

    /// Looks at the state that a running node has applied.
    pub fn look<T>(&self, node: NodeId, look: impl FnOnce(&ClusterState) -> T) -> Option<T> {
        let machine = self.nodes.borrow().get(&node).and_then(|node| node.machine.clone());
        machine.map(|machine| machine.with_state(look))
    }

    /// Snapshots that were sent from node to node.
    #[must_use]
    pub fn snapshots_sent(&self) -> u64 {
        self.router.snapshots()
    }

    /// Loses one message of so many; none for 0.
    pub fn set_loss(&self, one_in: u64) {
        self.router.set_loss(one_in);
    }

    /// Lets nothing through from one node to the other; the way back stays.
    pub fn cut(&self, source: NodeId, target: NodeId) {
        self.router.cut(source, target);
    }

    /// Cuts a node off from all others, in both directions.
    pub fn isolate(&self, node: NodeId) {
        for other in self.nodes.borrow().keys().filter(|other| **other != node) {
            self.router.cut(node, *other);
            self.router.cut(*other, node);
        }
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.router.heal();
    }

    /// Cuts the power of a node; its disk keeps what the crash says.
    pub async fn kill(&self, node: NodeId, crash: Crash) {
        let Some(raft) = self.router.leave(node) else { return };
        {
            let mut nodes = self.nodes.borrow_mut();
            let stopped = nodes.get_mut(&node).expect("a running node is a node");
            stopped.disk = stopped.disk.crashed(crash);
            stopped.machine = None;
        }
        // What winds down writes to a disk that nobody reads again, so its end is of no interest.
        let _ = raft.shutdown().await;
    }

    /// Starts a node that does not run, from its disk.
    pub async fn start(&self, node: NodeId) {
        if self.raft(node).is_some() {
            return;
        }
        let (disk, run) = {
            let mut nodes = self.nodes.borrow_mut();
            let stopped = nodes.get_mut(&node).expect("the node is part of the cluster");
            stopped.run += 1;
            (stopped.disk.clone(), stopped.run)
        };
        let log = RaftLog::open(disk.clone(), DIRECTORY, node).await;
        let log = log.unwrap_or_else(|error| panic!("a crash is no damage: {error}"));
        let machine = ClusterMachine::open(disk, DIRECTORY).await;
        let machine = machine.unwrap_or_else(|error| panic!("a crash is no damage: {error}"));
        let links = Links { router: Rc::clone(&self.router), source: node, run };
        let config = Arc::clone(&self.config);
        let raft = SimRaft::<H>::new(node, config, links, log, machine.clone()).await;
        let raft = raft.unwrap_or_else(|error| panic!("the storage is whole: {error}"));
        self.router.join(node, run, raft);
        let mut nodes = self.nodes.borrow_mut();
        nodes.get_mut(&node).expect("it was there before").machine = Some(machine);
    }

    /// The node that most recently won an election among those that run, by their own account.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &NodeId| {
            let raft = self.raft(*node)?;
            let vote = raft.metrics().borrow_watched().vote;
            raft.is_leader().then_some((vote.leader_id.term, *node))
        };
        self.running().iter().filter_map(leads).max().map(|(_, node)| node)
    }

    /// Waits until some node believes that it leads.
    ///
    /// Errors: nobody did within the limit.
    pub async fn wait_for_leader(&self, limit: Duration) -> Result<NodeId, String> {
        let deadline = H::now() + limit;
        loop {
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            if H::now() > deadline {
                return Err(format!("nobody leads after {limit:?}"));
            }
            H::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Proposes a change to a node.
    pub async fn propose(&self, node: NodeId, request: &Request, limit: Duration) -> Proposal {
        use openraft::errors::{ClientWriteError, RaftError};
        let Some(raft) = self.raft(node) else { return Proposal::NotLeader };
        let write = raft.client_write(request.clone());
        match LocalRuntime::<H>::timeout(limit, write).await {
            Ok(Ok(written)) => match written.data {
                Response::Done(outcome) => Proposal::Done(outcome),
                Response::Refused(error) => Proposal::Refused(error.to_string()),
                Response::Nothing => panic!("the answer to a change is not Raft's own"),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Proposal::NotLeader
            }
            Ok(Err(_)) | Err(_) => Proposal::Unknown,
        }
    }

    /// Proposes a change to whoever leads until it is acknowledged; a node that has just won may
    /// not yet take changes. Returns who took it, and what became of it.
    ///
    /// Errors: nobody acknowledged it within the limit, or the state refused it.
    pub async fn insist(
        &self,
        request: &Request,
        limit: Duration,
    ) -> Result<(NodeId, Outcome), String> {
        let deadline = H::now() + limit;
        loop {
            let leader = self.wait_for_leader(limit).await?;
            match self.propose(leader, request, limit).await {
                Proposal::Done(outcome) => return Ok((leader, outcome)),
                Proposal::Refused(error) => return Err(error),
                Proposal::NotLeader | Proposal::Unknown => {}
            }
            if H::now() > deadline {
                return Err(format!("{request} was not taken within {limit:?}"));
            }
            H::sleep(Duration::from_millis(20)).await;
        }
    }
}
