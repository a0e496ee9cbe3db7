//! A cluster of replicas in one process: the machines of heddle-replication over stores on faulty
//! disks, a network that loses, doubles, delays and cuts, clocks that are wrong, nodes that crash,
//! pause and lose their disks. One seed is one history; equal seeds give equal histories.
//!
//! What clients saw is judged by heddle-checkers, and every replica by what it acknowledged.

mod bugs;
mod clients;
mod coordinator;
mod engine;
mod faults;
mod hints;
mod model;
mod network;
mod node;
mod plan;
mod reading;
mod repair;
mod rpc;
mod serving;
mod storage;
mod store;
mod time;
mod trace;
mod verify;
mod writing;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;

use heddle_checkers::Operation;
use heddle_checkers::resurrection::Sighting;
use heddle_core::engine::{Replicated, StampedWrite};
use heddle_meta::raft::Host;
use heddle_replication::RepairReport;
use heddle_types::{NodeId, ObjectDigest, ObjectId, ShardId, Stamp};

pub use bugs::Bug;
use clients::Client;
use coordinator::Coordinator;
use engine::SimEngine;
use hints::Hints;
use network::Network;
use node::{Node, Running};
pub use plan::FaultClass;
use plan::Plan;
pub use storage::Mode;
use storage::Storage;
use time::{NodeClock, now_us, sleep_us};
use trace::Trace;

use crate::{Random, SimHost};

/// Most violations that a report lists.
const VIOLATIONS_MAX: usize = 20;
/// Mean pause of a node between sessions that it leads.
const SESSION_US: u64 = 3_000_000;
/// How long until a node that could not start is started again.
const RESTART_US: u64 = 400_000;
/// How often nodes look whether a long wait is over.
pub(crate) const WAITING_US: u64 = 20_000_000;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The history.
    pub seed: u64,
    /// Nodes, instead of what the seed says: 3 to 7.
    pub nodes: Option<usize>,
    /// Operations of all clients together, instead of what the seed says.
    pub operations: Option<usize>,
    /// What holds the replicas.
    pub mode: Mode,
    /// What is wrong with the database; the engine has no bugs of storage.
    pub bug: Option<Bug>,
    /// Keeps a line of every event.
    pub keeps_lines: bool,
}

impl Settings {
    /// What a seed says, without bugs.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: None,
            operations: None,
            mode: Mode::Model,
            bug: None,
            keeps_lines: false,
        }
    }
}

/// What came of one history.
#[derive(Clone, Debug)]
pub struct Report {
    /// Equal in equal runs.
    pub hash: u64,
    /// What is broken, in words; empty for a good history.
    pub violations: Vec<String>,
    /// Fault classes of the seed.
    pub planned: BTreeSet<FaultClass>,
    /// Fault classes that did something.
    pub fired: BTreeSet<FaultClass>,
    /// Operations that clients called.
    pub operations: usize,
    /// Those that were acknowledged.
    pub acknowledged: usize,
    /// Writes whose outcome is unknown.
    pub unknown: usize,
    /// Repairs by reads, deliveries of hints, sessions in which all took part, deletions forgotten.
    pub repairs: u64,
    /// Hints that arrived.
    pub hints_delivered: u64,
    /// Sessions in which all replicas took part.
    pub sessions: u64,
    /// Deletions that were forgotten.
    pub purged: u64,
    /// The history, line by line, when asked for.
    pub lines: Vec<String>,
}

/// Runs one history.
#[must_use]
pub fn run(settings: Settings) -> Report {
    SimHost::run(settings.seed, async move { World::new(settings).live().await })
}

/// What is known of each version of an object that a node said it has.
type Kept = BTreeMap<(ShardId, ObjectId), BTreeMap<NodeId, ObjectDigest>>;

pub(crate) struct World {
    pub(crate) seed: u64,
    mode: Mode,
    pub(crate) plan: Plan,
    pub(crate) bug: Option<Bug>,
    pub(crate) network: Network,
    pub(crate) trace: Trace,
    pub(crate) random: RefCell<Random>,
    pub(crate) nodes: Vec<Rc<Node>>,
    storages: RefCell<Vec<Storage>>,
    /// Nodes that are about to run.
    starting: RefCell<BTreeSet<usize>>,
    /// The identity of each node by the catalog.
    members: RefCell<Vec<NodeId>>,
    identities: Cell<u64>,
    pub(crate) is_healed: Cell<bool>,
    /// Nothing happens for long; the nodes need not look after anything.
    pub(crate) is_waiting: Cell<bool>,
    pub(crate) has_wiped: Cell<bool>,
    pub(crate) history: RefCell<Vec<Operation<Stamp>>>,
    /// The value of each write of the history.
    values: RefCell<BTreeMap<usize, u64>>,
    pub(crate) sightings: RefCell<Vec<Sighting<Stamp>>>,
    stamps: RefCell<BTreeMap<u64, Stamp>>,
    value_next: Cell<u64>,
    pub(crate) kept: RefCell<Kept>,
    violations: RefCell<Vec<String>>,
    fired: RefCell<BTreeSet<FaultClass>>,
    pub(crate) repairs: Cell<u64>,
    pub(crate) hints_delivered: Cell<u64>,
    sessions: Cell<u64>,
    purged: Cell<u64>,
}

impl World {
    fn new(settings: Settings) -> Rc<Self> {
        let Settings { seed, nodes, operations, mode, bug, keeps_lines } = settings;
        let plan = Plan::new(seed, nodes, operations);
        let clock = |position: usize| NodeClock::new(plan.clocks[position]);
        let node = |position| Node::new(position, clock(position));
        let shards = plan.owners.len() as u64;
        let storage = |position: usize| {
            let number = position as u64 + 1;
            Storage::new(NodeId::from(number), seed ^ number << 32, mode, shards)
        };
        Rc::new(Self {
            seed,
            mode,
            bug,
            network: Network::new(seed ^ 0x004E_4554, plan.weather),
            trace: Trace::new(keeps_lines),
            random: RefCell::new(Random::new(seed ^ 0x0057_4F52)),
            nodes: (0..plan.nodes).map(node).collect(),
            storages: RefCell::new((0..plan.nodes).map(storage).collect()),
            starting: RefCell::default(),
            members: RefCell::new((1..=plan.nodes as u64).map(NodeId::from).collect()),
            identities: Cell::new(plan.nodes as u64),
            is_healed: Cell::new(false),
            is_waiting: Cell::new(false),
            has_wiped: Cell::new(false),
            history: RefCell::default(),
            values: RefCell::default(),
            sightings: RefCell::default(),
            stamps: RefCell::default(),
            value_next: Cell::new(1),
            kept: RefCell::default(),
            violations: RefCell::default(),
            fired: RefCell::default(),
            repairs: Cell::new(0),
            hints_delivered: Cell::new(0),
            sessions: Cell::new(0),
            purged: Cell::new(0),
            plan,
        })
    }

    async fn live(self: Rc<Self>) -> Report {
        self.trace.note("plan", &[self.plan.nodes as u64], || format!("{:#?}", self.plan));
        for position in 0..self.plan.nodes {
            self.start(position).await;
        }
        self.spawn(Rc::clone(&self).disturb());
        let clients = (0..self.plan.clients as u32).map(|number| {
            let random = Random::new(self.seed ^ (u64::from(number) + 1) << 40);
            Client { world: Rc::clone(&self), number, random }.run()
        });
        futures::future::join_all(clients).await;
        self.heal().await;
        self.verify().await;
        self.report()
    }

    fn report(&self) -> Report {
        self.count_weather();
        let history = self.history.borrow();
        let outcomes = || history.iter().filter_map(Operation::outcome);
        let is_done = |outcome: &heddle_checkers::Outcome<Stamp>| {
            matches!(outcome, heddle_checkers::Outcome::Done(_))
        };
        let is_unknown = |outcome: &heddle_checkers::Outcome<Stamp>| {
            matches!(outcome, heddle_checkers::Outcome::Unknown(_))
        };
        Report {
            hash: self.trace.hash(),
            violations: self.violations.borrow().clone(),
            planned: self.plan.classes.clone(),
            fired: self.fired.borrow().clone(),
            operations: history.len(),
            acknowledged: outcomes().filter(is_done).count(),
            unknown: outcomes().filter(is_unknown).count(),
            repairs: self.repairs.get(),
            hints_delivered: self.hints_delivered.get(),
            sessions: self.sessions.get(),
            purged: self.purged.get(),
            lines: self.trace.take_lines(),
        }
    }

    fn count_weather(&self) {
        let network = &self.network;
        let counts =
            [(FaultClass::Loss, network.lost.get()), (FaultClass::Doubles, network.doubled.get())];
        counts.into_iter().filter(|(_, count)| *count > 0).for_each(|(class, _)| self.fired(class));
        for class in [FaultClass::Delay, FaultClass::Offset, FaultClass::Drift] {
            if self.plan.classes.contains(&class) {
                self.fired(class);
            }
        }
    }

    /// Starts a node that is down, from its disk.
    pub(crate) async fn start(self: &Rc<Self>, position: usize) {
        let node = &self.nodes[position];
        if node.is_up() || !self.starting.borrow_mut().insert(position) {
            return;
        }
        let storage = self.storage(position);
        let opened = loop {
            match storage.open(node.clock.clone(), self.bug).await {
                Some(opened) => break opened,
                // Whoever looks after the node starts it again.
                None => sleep_us(RESTART_US).await,
            }
        };
        let (store, engine) = opened;
        self.trace.note("start", &[position as u64], || format!("node {position}"));
        let running = Running {
            identity: storage.identity,
            store,
            hints: Hints::open(Rc::clone(&storage.hints), node.now_us()),
        };
        self.check_kept(&running);
        node.start(running.clone());
        if let Some(engine) = engine {
            self.run_engine(node, engine);
        }
        self.starting.borrow_mut().remove(&position);
        let hints = Rc::clone(&running.hints);
        node.spawn(hints.run(Rc::clone(self), Rc::clone(node), running.clone()));
        node.spawn(Rc::clone(self).keep_equal(Rc::clone(node), running));
    }

    /// A node that runs, or will before long.
    pub(crate) async fn up(&self, position: usize) -> Running {
        loop {
            match self.nodes[position].running() {
                Some(running) => return running,
                None => sleep_us(RESTART_US).await,
            }
        }
    }

    /// What an engine needs beside its callers.
    fn run_engine(self: &Rc<Self>, node: &Rc<Node>, engine: SimEngine) {
        let (world, position, running) = (Rc::clone(self), node.position, engine.clone());
        node.spawn(async move {
            // The log failed: the process ends.
            let _ = running.run_wal().await;
            world.log_failed(position);
        });
        let world = Rc::clone(self);
        let shards = self.plan.owners.len() as u64;
        node.spawn(async move {
            loop {
                let (pause_us, shard) = {
                    let mut random = world.random.borrow_mut();
                    (random.below(2 * SESSION_US), ShardId(1 + random.below(shards)))
                };
                sleep_us(if world.is_waiting.get() { WAITING_US } else { pause_us }).await;
                // A full or failing disk is no news; what matters is what clients are told.
                let _ = engine.maintain().await;
                let _ = engine.checkpoint(shard).await;
            }
        });
    }

    /// Leads sessions now and then, and forgets deletions that all replicas have.
    async fn keep_equal(self: Rc<Self>, node: Rc<Node>, running: Running) {
        loop {
            let pause_us = self.random.borrow_mut().below(2 * SESSION_US);
            sleep_us(if self.is_waiting.get() { WAITING_US } else { pause_us }).await;
            for shard in (0..self.plan.owners.len() as u64).map(ShardId) {
                let owners = self.owners(shard);
                let mine = (node.position, running.identity);
                if self.is_waiting.get() || !owners.contains(&mine) {
                    continue;
                }
                self.purge(&node, &running, shard).await;
                let leads = self.random.borrow_mut().one_in(owners.len() as u64);
                if leads {
                    Coordinator::new(&self, &node, running.clone(), shard).lead_repair().await;
                }
            }
        }
    }

    async fn purge(&self, node: &Node, running: &Running, shard: ShardId) {
        for (id, stamp) in running.store.purge(shard).await {
            self.purged.set(self.purged.get() + 1);
            self.trace.note("purge", &[node.position as u64, stamp.hlc.0], || {
                format!("node {} forgets {id} {stamp:?}", node.position)
            });
            self.check_purged(running, shard, id, stamp);
        }
    }

    /// An empty disk takes the place of a node's own.
    pub(crate) fn wipe(&self, position: usize) {
        self.has_wiped.set(true);
        let identity = match self.bug {
            Some(Bug::WipedKeepsIdentity) => self.identity(position),
            _ => {
                self.identities.set(self.identities.get() + 1);
                NodeId::from(self.identities.get())
            }
        };
        self.trace.note("wipe", &[position as u64], || format!("node {position}"));
        let seed = self.seed ^ self.identities.get() << 32;
        let shards = self.plan.owners.len() as u64;
        let storage = Storage::new(identity, seed, self.mode, shards);
        self.storages.borrow_mut()[position] = storage;
    }

    pub(crate) fn storage(&self, position: usize) -> Storage {
        self.storages.borrow()[position].clone()
    }

    /// The identity of a node by the catalog.
    pub(crate) fn identity(&self, position: usize) -> NodeId {
        self.members.borrow()[position]
    }

    pub(crate) fn is_member(&self, identity: NodeId) -> bool {
        self.members.borrow().contains(&identity)
    }

    pub(crate) fn set_member(&self, position: usize, identity: NodeId) {
        self.members.borrow_mut()[position] = identity;
    }

    /// The nodes of a shard and their identities, by position.
    pub(crate) fn owners(&self, shard: ShardId) -> Vec<(usize, NodeId)> {
        let owners = &self.plan.owners[shard.0 as usize];
        owners.iter().map(|position| (*position, self.identity(*position))).collect()
    }

    pub(crate) fn shard_of(&self, key: u64) -> ShardId {
        ShardId(key % self.plan.owners.len() as u64)
    }

    pub(crate) fn next_value(&self) -> u64 {
        let value = self.value_next.get();
        self.value_next.set(value + 1);
        value
    }

    /// A write got its stamp.
    pub(crate) fn note_stamp(&self, value: u64, stamp: Stamp) {
        self.stamps.borrow_mut().entry(value).or_insert(stamp);
        self.trace.note("stamp", &[value, stamp.hlc.0], || format!("value {value} {stamp:?}"));
    }

    /// A replica said that it has a write.
    pub(crate) fn note_applied(
        &self,
        node: &Node,
        identity: NodeId,
        shard: ShardId,
        write: &StampedWrite,
        replicated: &Replicated,
    ) {
        self.trace.note("applied", &[node.position as u64, shard.0, write.stamp.hlc.0], || {
            format!("node {} {} {:?} {replicated:?}", node.position, write.id, write.stamp)
        });
        let (Replicated::Applied { created_us, .. } | Replicated::Known { created_us, .. }) =
            *replicated
        else {
            return;
        };
        let digest = match write.change {
            heddle_core::engine::StampedChange::Delete => ObjectDigest::tombstone(write.stamp),
            heddle_core::engine::StampedChange::Put { .. } => {
                ObjectDigest::live(write.stamp, created_us)
            }
        };
        let mut kept = self.kept.borrow_mut();
        let of_node = kept.entry((shard, write.id)).or_default();
        let known = of_node.entry(identity).or_insert(digest);
        *known = digest.max(*known);
    }

    /// A client remembers an operation.
    pub(crate) fn record(&self, operation: Operation<Stamp>, value: Option<u64>) {
        let numbers = [u64::from(operation.client), operation.key, operation.called];
        self.trace.note("history", &numbers, || format!("{operation:?}"));
        let mut history = self.history.borrow_mut();
        if let Some(value) = value {
            self.values.borrow_mut().insert(history.len(), value);
        }
        history.push(operation);
    }

    /// The stamp that a write of the history got, if any.
    pub(crate) fn stamp_of(&self, position: usize) -> Option<Stamp> {
        let value = self.values.borrow().get(&position).copied()?;
        self.stamps.borrow().get(&value).copied()
    }

    pub(crate) fn session_ended(&self, shard: ShardId, report: &RepairReport) {
        let is_whole = report.floor.is_some();
        self.sessions.set(self.sessions.get() + u64::from(is_whole));
        self.trace.note("session", &[shard.0, report.copied, report.buried], || {
            format!("shard {} {report:?}", shard.0)
        });
    }

    pub(crate) fn fired(&self, class: FaultClass) {
        self.fired.borrow_mut().insert(class);
    }

    /// Something is broken.
    pub(crate) fn fail(&self, violation: String) {
        self.trace.note("BROKEN", &[], || violation.clone());
        let mut violations = self.violations.borrow_mut();
        if violations.len() < VIOLATIONS_MAX {
            violations.push(format!("{:.6} s: {violation}", now_us() as f64 / 1e6));
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        SimHost::spawn(Box::pin(task));
    }
}
