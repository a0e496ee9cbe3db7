//! Hints of one node: a durable log, and the policy that says when they go.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use heddle_core::engine::{Replicated, StampedWrite};
use heddle_replication::{Admission, HintEffect, HintEvent, HintLimits, HintPolicy};
use heddle_types::{ApiError, ErrorCode, NodeId, ShardId};

use super::bugs::Bug;
use super::coordinator::encode;
use super::node::{Node, Running};
use super::rpc::{Answer, Call, Request};
use super::time::sleep_us;
use super::{WAITING_US, World};

/// How often gossip is looked at.
const LOOK_US: u64 = 400_000;
/// Longest time a delivery may take.
const LIMIT_US: u64 = 2_000_000;
const SYNC_US: u64 = 1_000;
const REST_US: u64 = 2_000;
const DISK_BYTES: u64 = 1 << 30;

/// A write that waits for a node.
#[derive(Clone, Debug)]
pub(crate) struct Hint {
    /// The place of the node in the cluster.
    position: usize,
    pub(crate) shard: ShardId,
    pub(crate) write: StampedWrite,
    kept_us: u64,
    bytes: Rc<[u8]>,
}

/// The log, as it survives a crash.
#[derive(Default)]
pub(crate) struct HintLog {
    waiting: RefCell<BTreeMap<NodeId, VecDeque<Hint>>>,
}

/// The hints of a running node.
pub(crate) struct Hints {
    log: Rc<HintLog>,
    policy: RefCell<HintPolicy>,
    effects: RefCell<Vec<HintEffect>>,
    pub(crate) dropped: Cell<u64>,
}

impl HintLog {
    pub(crate) fn count(&self) -> usize {
        self.waiting.borrow().values().map(VecDeque::len).sum()
    }

    /// Hints that wait, for anyone.
    pub(crate) fn all(&self) -> Vec<(NodeId, ShardId, StampedWrite)> {
        let waiting = self.waiting.borrow();
        let hints = waiting.iter().flat_map(|(target, hints)| {
            hints.iter().map(|hint| (*target, hint.shard, hint.write.clone()))
        });
        hints.collect()
    }
}

impl Hints {
    pub(crate) fn open(log: Rc<HintLog>, now_us: u64) -> Rc<Self> {
        let limits = HintLimits { target_bytes_max: 64 << 10, ..HintLimits::default() };
        let hints = Self {
            log,
            policy: RefCell::new(HintPolicy::new(limits)),
            effects: RefCell::default(),
            dropped: Cell::new(0),
        };
        let targets: Vec<NodeId> = hints.log.waiting.borrow().keys().copied().collect();
        targets.into_iter().for_each(|target| hints.tell_waiting(now_us, target));
        Rc::new(hints)
    }

    /// Keeps a write for a node; durable when it returns, or dropped for lack of room.
    pub(crate) async fn keep(
        &self,
        node: &Rc<Node>,
        position: usize,
        target: NodeId,
        shard: ShardId,
        write: StampedWrite,
    ) {
        let now_us = node.now_us();
        let bytes = encode(&write);
        let size = bytes.len() as u64;
        let admission = self.policy.borrow_mut().admit(now_us, target, size, DISK_BYTES);
        if admission == Admission::Drop {
            return self.dropped.set(self.dropped.get() + 1);
        }
        sleep_us(SYNC_US).await;
        let hint = Hint { position, shard, write, kept_us: now_us, bytes };
        self.log.waiting.borrow_mut().entry(target).or_default().push_back(hint);
        // A delivery in between found nothing to send.
        self.tell_waiting(node.now_us(), target);
    }

    fn handle(&self, now_us: u64, event: HintEvent) {
        self.policy.borrow_mut().handle(now_us, event, &mut self.effects.borrow_mut());
    }

    fn tell_waiting(&self, now_us: u64, target: NodeId) {
        let (bytes, oldest_us) = {
            let waiting = self.log.waiting.borrow();
            let hints = waiting.get(&target);
            let bytes = hints.into_iter().flatten().map(|hint| hint.bytes.len() as u64).sum();
            (bytes, hints.and_then(VecDeque::front).map(|hint| hint.kept_us.min(now_us)))
        };
        self.handle(now_us, HintEvent::Waiting { target, bytes, oldest_us });
    }

    /// Looks after the hints of a run.
    pub(crate) async fn run(self: Rc<Self>, world: Rc<World>, node: Rc<Node>, running: Running) {
        loop {
            let now_us = node.now_us();
            for (position, other) in world.nodes.iter().enumerate() {
                let target = world.identity(position);
                if position != node.position {
                    let is_up = other.running().is_some_and(|other| other.identity == target);
                    let by_name = world.bug == Some(Bug::HintsByName) && other.is_up();
                    let event = if is_up || by_name {
                        HintEvent::Up { target }
                    } else {
                        HintEvent::Down { target }
                    };
                    self.handle(now_us, event);
                }
            }
            let gone: Vec<NodeId> = {
                let waiting = self.log.waiting.borrow();
                waiting.keys().filter(|target| !world.is_member(**target)).copied().collect()
            };
            gone.into_iter().for_each(|target| self.handle(now_us, HintEvent::Removed { target }));
            self.handle(now_us, HintEvent::Due);
            self.execute_all(&world, &node, &running);
            sleep_us(if world.is_waiting.get() { WAITING_US } else { LOOK_US }).await;
        }
    }

    fn execute_all(self: &Rc<Self>, world: &Rc<World>, node: &Rc<Node>, running: &Running) {
        let effects = std::mem::take(&mut *self.effects.borrow_mut());
        for effect in effects {
            self.execute(world, node, running, effect);
        }
    }

    fn execute(
        self: &Rc<Self>,
        world: &Rc<World>,
        node: &Rc<Node>,
        running: &Running,
        effect: HintEffect,
    ) {
        match effect {
            HintEffect::Deliver { target, bytes_max } => {
                let task = Rc::clone(self).deliver(
                    Rc::clone(world),
                    Rc::clone(node),
                    running.clone(),
                    target,
                    bytes_max,
                );
                node.spawn(task);
            }
            HintEffect::Expire { target, before_us } => {
                if let Some(hints) = self.log.waiting.borrow_mut().get_mut(&target) {
                    hints.retain(|hint| hint.kept_us >= before_us);
                }
                self.tell_waiting(node.now_us(), target);
            }
            HintEffect::Discard { target } => {
                self.log.waiting.borrow_mut().remove(&target);
            }
        }
    }

    /// Delivers the oldest hints of one node, those of one shard in a row.
    async fn deliver(
        self: Rc<Self>,
        world: Rc<World>,
        node: Rc<Node>,
        running: Running,
        target: NodeId,
        bytes_max: u64,
    ) {
        let batch = self.batch(target, bytes_max);
        let sent: u64 = batch.iter().map(|hint| hint.bytes.len() as u64).sum();
        let settled = match batch.first() {
            Some(first) => self.send(&world, &node, &running, target, first, &batch).await,
            None => Some(Vec::new()),
        };
        world.trace.note("hints", &[node.position as u64, batch.len() as u64], || {
            let (position, count) = (node.position, batch.len());
            format!("node {position} to {target}: {count}, settled {settled:?}")
        });
        let is_done = settled.as_ref().is_some_and(|settled| settled.iter().all(|is| *is));
        self.forget(target, &settled.unwrap_or_default());
        let now_us = node.now_us();
        if is_done {
            self.handle(now_us, HintEvent::Delivered { target, bytes: sent });
        } else {
            self.handle(now_us, HintEvent::Failed { target });
        }
        self.tell_waiting(node.now_us(), target);
        // What rests until later comes with the next look.
        sleep_us(REST_US).await;
        self.handle(node.now_us(), HintEvent::Due);
        self.execute_all(&world, &node, &running);
    }

    fn batch(&self, target: NodeId, bytes_max: u64) -> Vec<Hint> {
        let waiting = self.log.waiting.borrow();
        let hints = waiting.get(&target).into_iter().flatten();
        let mut left = bytes_max;
        let mut batch: Vec<Hint> = Vec::new();
        for hint in hints {
            let is_other = batch.first().is_some_and(|first| first.shard != hint.shard);
            let size = hint.bytes.len() as u64;
            if is_other || (size > left && !batch.is_empty()) {
                break;
            }
            left = left.saturating_sub(size);
            batch.push(hint.clone());
        }
        batch
    }

    /// Takes those of the oldest hints away that are settled.
    fn forget(&self, target: NodeId, settled: &[bool]) {
        if let Some(hints) = self.log.waiting.borrow_mut().get_mut(&target) {
            let mut settled = settled.iter();
            hints.retain(|_| !settled.next().copied().unwrap_or(false));
        }
    }

    /// Sends what is not below the floor: which hints need not be sent again; none without answer.
    async fn send(
        &self,
        world: &Rc<World>,
        node: &Rc<Node>,
        running: &Running,
        target: NodeId,
        first: &Hint,
        batch: &[Hint],
    ) -> Option<Vec<bool>> {
        let floor = running.store.floor(first.shard);
        let is_due = |hint: &&Hint| {
            world.bug == Some(Bug::FloorNotChecked)
                || !HintPolicy::is_below(floor, hint.write.stamp)
        };
        let writes: Vec<Rc<[u8]>> =
            batch.iter().filter(is_due).map(|hint| Rc::clone(&hint.bytes)).collect();
        if writes.is_empty() {
            return Some(vec![true; batch.len()]);
        }
        let count = writes.len();
        let by_name = world.nodes[first.position].running().map(|running| running.identity);
        let identity = match world.bug {
            Some(Bug::HintsByName) => by_name.unwrap_or(target),
            _ => target,
        };
        let call = Call::Hint { kept_for: target, writes };
        let request = Request { identity, shard: first.shard, is_copy: false, call };
        let asking = std::pin::pin!(world.call(node, first.position, request));
        let due = std::pin::pin!(sleep_us(LIMIT_US));
        match futures::future::select(asking, due).await {
            futures::future::Either::Left((Ok(Answer::Written(results)), _)) => {
                world.hints_delivered.set(world.hints_delivered.get() + count as u64);
                let is_settled = |result: Result<Replicated, ApiError>| match result {
                    Ok(_) => true,
                    Err(error) => error.code == ErrorCode::BelowFloor,
                };
                let mut results = results.into_iter();
                let settle = |hint: &Hint| !is_due(&hint) || results.next().is_some_and(is_settled);
                Some(batch.iter().map(settle).collect())
            }
            _ => None,
        }
    }

    /// Sends or drops everything of a shard, for a session.
    pub(crate) async fn flush(
        self: &Rc<Self>,
        world: &Rc<World>,
        node: &Rc<Node>,
        running: &Running,
        shard: ShardId,
    ) {
        let before: Vec<(NodeId, Hint)> = {
            let waiting = self.log.waiting.borrow();
            let all = waiting
                .iter()
                .flat_map(|(target, hints)| hints.iter().map(|hint| (*target, hint.clone())));
            all.filter(|(_, hint)| hint.shard == shard).collect()
        };
        for (target, hint) in before {
            // What cannot be sent is left to the comparison.
            let _ =
                self.send(world, node, running, target, &hint, std::slice::from_ref(&hint)).await;
            if let Some(hints) = self.log.waiting.borrow_mut().get_mut(&target) {
                let is_it = |other: &Hint| other.write == hint.write && other.shard == shard;
                if let Some(place) = hints.iter().position(is_it) {
                    hints.remove(place);
                }
            }
            self.tell_waiting(node.now_us(), target);
        }
    }
}
