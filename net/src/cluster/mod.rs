//! The node as part of a cluster: its Raft, the way into the group, changes of the common state,
//! and making true on this node what the state says. All of it runs on the meta core.
//!
//! ```text
//!  client ─▶ Meta ─▶ Cluster::change ─▶ whoever leads ─▶ Raft log ─▶ state machine of every node
//!                          ▲                                                   │
//!                          └───── reply once this node has made it true ◀── follow ─▶ Meta::follow
//! ```
//!
//! A node serves by what it has made true (`catalog.0`, `catalog.1`), so it starts and answers
//! without the others; only changes need a leader.

mod book;
mod changed;
mod control;
mod describe;
mod lead;
mod meet;
mod open;
mod propose;
mod raft_network;
mod status;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use heddle_meta::cluster::{
    Addresses, Assembly, ClusterState, CoreUse, NodeLoad, NodeRecord, NodeState,
};
use heddle_meta::raft::{ClusterMachine, RaftTypes};
use heddle_runtime::{GlommioDevice, Queue, fatal, sleep, spawn};
use heddle_types::{ApiError, Clock, CoreIndex, Epoch, ErrorCode, FatalReason, NodeId};
use heddle_wire::AlignedVec;
use openraft::async_runtime::WatchReceiver;

pub(crate) use changed::Changed;

use crate::core::Core;
use crate::disk::Space;
use crate::gossip::GossipHandle;
use crate::meta::Meta;
use crate::peer::{self, PeerCall};
use crate::raft_host::GlommioHost;
use book::AddressBook;
pub(crate) use open::cluster_of;
pub(crate) use propose::CHANGE_BUDGET;
pub(crate) use status::ClusterReport;

/// The Raft of a node.
pub(crate) type Raft = openraft::Raft<RaftTypes<GlommioHost>, Machine>;
type Machine = ClusterMachine<GlommioDevice>;

/// Pause before what failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// This node's part in the cluster. Stays on the meta core.
pub(crate) struct Cluster {
    core: Rc<Core>,
    own: NodeId,
    raft: Raft,
    machine: Machine,
    book: Rc<AddressBook>,
    assembly: RefCell<Assembly>,
    /// Does the Raft of this node belong to a group?
    is_member: Cell<bool>,
    /// Is the catalog of this node that of the cluster?
    follows: Cell<bool>,
    /// Has this node collections of its own, from a time when it was alone?
    has_own: bool,
    /// When it was last logged that a node belongs elsewhere.
    complained_at: Cell<Option<Duration>>,
    /// This node has made the state of this epoch true.
    made_true: Cell<Epoch>,
    changed: Changed,
}

impl Cluster {
    /// Opens this node's Raft, answers other nodes, and goes on in tasks: it finds its cluster,
    /// follows the state, and leads when it is its turn.
    ///
    /// What cannot be opened ends the process.
    pub(crate) async fn start(core: &Rc<Core>, meta: &Rc<Meta>, device: GlommioDevice) -> Rc<Self> {
        let cluster = open::open(core, device, !meta.catalog().is_untouched()).await;
        cluster.listen();
        let is_first = core.cluster.set(Rc::clone(&cluster)).is_ok();
        assert!(is_first, "a node is part of one cluster");
        let spawn = |task: LocalBoxFuture<'static, ()>| spawn(Queue::Control, task);
        spawn(Box::pin(watch(Rc::clone(&cluster))));
        spawn(Box::pin(follow(Rc::clone(&cluster), Rc::clone(meta))));
        spawn(Box::pin(meet::run(Rc::clone(&cluster))));
        spawn(Box::pin(describe::run(Rc::clone(&cluster), Rc::clone(meta))));
        spawn(Box::pin(lead::run(Rc::clone(&cluster))));
        cluster
    }

    /// Waits until this node is part of a cluster and has made its state true. A node that was part
    /// of one before does not wait: what it has made true is what it serves by.
    pub(crate) async fn joined(&self) {
        let known = self.with_state(|state| state.node(self.own).map(|node| node.name.clone()));
        if let Some(known) = known {
            let name = &self.core.node.config.name;
            if *name != known {
                tracing::warn!(name, known, "the cluster keeps the name that a node joined with");
            }
            return;
        }
        tracing::info!("waiting to become part of a cluster");
        let joined = || {
            let epoch = self
                .machine
                .with_state(|state| state.node(self.own).is_some().then(|| state.epoch()))?;
            (self.made_true.get() >= epoch).then_some(epoch)
        };
        let epoch = self.changed.until(joined).await;
        tracing::info!(%epoch, "part of the cluster");
    }

    /// The state as this node has applied it.
    pub(crate) fn state(&self) -> ClusterState {
        self.machine.state()
    }

    /// Looks at the state as this node has applied it.
    pub(crate) fn with_state<T>(&self, look: impl FnOnce(&ClusterState) -> T) -> T {
        self.machine.with_state(look)
    }

    /// Is the catalog of this node that of the cluster?
    pub(crate) fn follows(&self) -> bool {
        self.follows.get()
    }

    /// From now on, durably, the catalog of this node is that of the cluster.
    pub(crate) fn begin_to_follow(&self) {
        let config = &self.core.node.config;
        let stored = open::store_cluster(&config.data_dir, &config.cluster_name);
        stored.unwrap_or_else(|error| fatal(FatalReason::CatalogWrite, error));
        self.follows.set(true);
    }

    /// Waits until this node has made the state of an epoch true.
    pub(crate) async fn until_made_true(&self, epoch: Epoch) {
        self.changed.until(|| (self.made_true.get() >= epoch).then_some(())).await;
    }

    /// Nodes that begin together enter the state one after the other, and one of them may have
    /// collections of its own to bring along. Errors: `Unavailable` until all are there.
    pub(crate) fn check_founders(&self, state: &ClusterState) -> Result<(), ApiError> {
        let is_new = |node: &NodeId| state.node(*node).is_none() && !state.is_removed(*node);
        match self.raft.voter_ids().find(is_new) {
            None => Ok(()),
            Some(node) => {
                let message = format!("node {node} has not yet said what it is: try again");
                Err(ApiError::transient(ErrorCode::Unavailable, message))
            }
        }
    }

    /// What each node that seems to live has to do: where new shards may go.
    pub(crate) fn loads(&self, state: &ClusterState) -> BTreeMap<NodeId, NodeLoad> {
        let own_free = Space::of(&self.core.node.config.data_dir).free_bytes;
        let members = self.core.gossip.get().map(GossipHandle::members).unwrap_or_default();
        let free = members.iter().map(|member| (member.node, member.offer.disk_free_bytes));
        let free: BTreeMap<NodeId, u64> = free.chain([(self.own, own_free)]).collect();
        let mut loads = BTreeMap::new();
        for node in state.nodes() {
            let Some(free_bytes) = free.get(&node.id).copied() else { continue };
            let mut cores = vec![CoreUse::default(); node.data_cores as usize];
            for place in state.places_of(node.id) {
                if let Some(core) = cores.get_mut(place.home as usize) {
                    core.shards += 1;
                }
            }
            for (_, home, uses) in state.catalog().tenant_cores().filter(|it| it.0 == node.id) {
                if let Some(core) = cores.get_mut(home as usize) {
                    core.shards += uses.shards;
                }
            }
            loads.insert(node.id, NodeLoad { free_bytes, cores });
        }
        loads
    }

    /// Leaves the group in order: nothing is written any more.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop in order");
        }
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.core.clock.monotonic_ns())
    }

    /// Who leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// What this node says of itself.
    fn own_record(&self, state: NodeState) -> NodeRecord {
        let brings_collections = self.has_own && !self.follows.get();
        NodeRecord { brings_collections, ..own_record(&self.core, state) }
    }

    fn listen(self: &Rc<Self>) {
        let config = &self.core.node.config;
        let address = (config.listen, config.raft_port).into();
        let cluster = Rc::clone(self);
        let handler: peer::Handler = Rc::new(move |call| {
            let cluster = Rc::clone(&cluster);
            Box::pin(async move { cluster.answer(call).await })
        });
        if let Err(error) = peer::listen(&self.core, address, handler) {
            fatal(FatalReason::Listen, format_args!("{address}: {error}"));
        }
    }

    async fn answer(&self, call: PeerCall) -> Result<(u16, AlignedVec<16>), ApiError> {
        match call.header.type_number {
            control::MEET => self.answer_meeting(&call),
            control::JOIN => self.answer_join(&call).await,
            control::PROPOSE => self.answer_proposal(&call).await,
            control::BARRIER => self.answer_barrier(&call).await,
            _ => raft_network::answer_raft(&self.raft, call).await,
        }
    }
}

/// The record of a node as its configuration has it.
fn own_record(core: &Core, state: NodeState) -> NodeRecord {
    let config = &core.node.config;
    let address = |port| config.advertised(port);
    NodeRecord {
        id: core.node.identity.node,
        name: config.name.clone(),
        addresses: Addresses {
            native: address(config.native_port),
            core: address(config.core_port_base),
            http: address(config.http_port),
            peer: address(config.peer_port_base),
            raft: address(config.raft_port),
            gossip: address(config.gossip_port),
        },
        labels: config.cluster_labels.clone(),
        data_cores: core.data_cores as u32,
        state,
        brings_collections: false,
    }
}

/// Tells of every change of the Raft, and ends the process when it has failed.
async fn watch(cluster: Rc<Cluster>) {
    let mut metrics = cluster.raft.metrics();
    loop {
        {
            let metrics = metrics.borrow_watched();
            if let Err(error) = &metrics.running_state
                && !cluster.core.is_draining()
            {
                fatal(FatalReason::CatalogWrite, error);
            }
            let group = metrics.membership_config.membership();
            cluster.is_member.set(group.voter_ids().next().is_some());
        }
        cluster.changed.tell();
        if metrics.changed().await.is_err() {
            if !cluster.core.is_draining() {
                fatal(FatalReason::CatalogWrite, "Raft has ended");
            }
            return;
        }
    }
}

/// Makes true on this node what the state says, state after state.
async fn follow(cluster: Rc<Cluster>, meta: Rc<Meta>) {
    let mut followed = Epoch(0);
    loop {
        let news = || cluster.with_state(|state| state.epoch() > followed);
        cluster.changed.until(|| news().then_some(())).await;
        let state = cluster.state();
        cluster.learn_identity(&state);
        cluster.book.follow(&state);
        if let Some(gossip) = cluster.core.gossip.get() {
            let others = state.nodes().filter(|node| node.id != cluster.own);
            gossip.set_known(others.map(|node| node.addresses.gossip.clone()).collect());
        }
        match meta.follow(&state).await {
            Ok(true) => {
                followed = state.epoch();
                // After a start the state may lag behind what was made true before.
                cluster.made_true.set(state.epoch().max(meta.catalog().epoch()));
                cluster.changed.tell();
            }
            // The node's own collections have to get into the state first.
            Ok(false) => sleep(RETRY_PAUSE).await,
            Err(error) => {
                tracing::warn!(%error, "what the cluster decided is not yet true here");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Where peers reach a data core of this node.
pub(crate) fn peer_port(core: &Core, data_core: CoreIndex) -> u16 {
    core.node.config.peer_port_base + data_core as u16
}
